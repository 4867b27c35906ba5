"""The turns of a conversation as OpenAI's API sends them -> Message. What no text can hold is refused by name.

Clients send back what they were given, with all its fields: those of an answer that say nothing (null, [], "") pass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from hornbook.serve.openai.faults import RequestFault
from hornbook.serve.openai.fields import Body, Object, Text
from hornbook.types import Message, Role, ToolCall

ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool",
}  # fmt: skip
MEDIA = {
    "image_url": "images", "input_image": "images", "input_audio": "audio", "audio": "audio", "file": "files",
    "input_file": "files", "video_url": "videos",
}  # fmt: skip
TEXTS = ("text", "input_text", "output_text")


class CalledFunction(Body):
    name: Annotated[Text, Field(min_length=1)]
    arguments: Text = "{}"


class CalledTool(Body):
    id: Text
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # of a stream's delta that was sent back as it came


class Turn(Body):
    refused = {
        "audio": "this model neither hears nor speaks",
        "function_call": "functions were replaced by tools: send tool_calls",
    }

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Object] | None = None
    name: Text | None = None
    tool_calls: list[CalledTool] | None = None
    tool_call_id: Text | None = None
    refusal: Text | None = None
    # what an answer of ours or another's may carry, and a prompt does not
    annotations: list[Object] | None = None
    reasoning_content: Text | None = None


def messages_of(turns: Sequence[Turn]) -> list[Message]:
    """Raises RequestFault with the place of the fault."""
    return [_message(turn, f"messages[{place}]") for place, turn in enumerate(turns)]


def _message(turn: Turn, where: str) -> Message:
    if turn.role == "function":
        what = "messages of the role function were replaced by those of the role tool"
        raise RequestFault(what, "Send tool_calls and tool messages.", param=f"{where}.role")
    text = text_of(turn.content, f"{where}.content") or turn.refusal or ""
    if turn.content is None and not (turn.role == "assistant" and (turn.tool_calls or turn.refusal)):
        raise RequestFault(f"a message of the role {turn.role} has no content", param=f"{where}.content")
    if turn.role == "tool" and not turn.tool_call_id:
        what = "a message of the role tool has no tool_call_id"
        raise RequestFault(what, "Give the id of the call that it answers.", param=f"{where}.tool_call_id")
    if turn.tool_calls and turn.role != "assistant":
        raise RequestFault("only an assistant calls tools", param=f"{where}.tool_calls")
    calls = tuple(
        ToolCall(call.id, call.function.name, arguments_of(call.function.arguments, f"{where}.tool_calls[{number}]"))
        for number, call in enumerate(turn.tool_calls or ())
    )
    return Message(ROLES[turn.role], text, turn.name, calls, turn.tool_call_id)


def arguments_of(written: str, where: str) -> dict[str, Any]:
    """The arguments of a call, which the API sends as JSON text."""
    try:
        arguments = json.loads(written or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        what = f"the arguments of a call are no JSON object: {written[:80]!r}"
        raise RequestFault(what, param=f"{where}.function.arguments")
    return arguments


def text_of(content: str | Sequence[Mapping[str, Any]] | None, where: str) -> str:
    """The text of a content, its parts joined by line breaks. Images, audio and files are refused by name."""
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for place, part in enumerate(content):
        if not isinstance(part, Mapping):
            raise RequestFault(f"a part of a content is an object, not {_short(part)}", param=f"{where}[{place}]")
        kind, here = str(part.get("type")), f"{where}[{place}]"
        if kind in MEDIA:
            what = f"this model reads text; {MEDIA[kind]} ({kind}) are not supported"
            raise RequestFault(what, "Send the text alone.", param=f"{here}.type", code="unsupported_content")
        text = part.get("refusal") if kind == "refusal" else part.get("text")
        if kind not in (*TEXTS, "refusal") or not isinstance(text, str):
            raise RequestFault(f"a part of a content has a type and a text, not {_short(part)}", param=here)
        texts.append(text)
    return "\n".join(texts)


def _short(value: object) -> str:
    written = json.dumps(value, ensure_ascii=False, default=str)
    return written if len(written) <= 80 else f"{written[:77]}..."
