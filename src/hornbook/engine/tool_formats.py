"""How models spell a call of a tool: a row for each way, and which of them a chat template means.

    hermes    <tool_call>{"name": "f", "arguments": {...}}</tool_call>      Hermes, Qwen 2.5 and 3, SmolLM 2 and 3
    llama     {"name": "f", "parameters": {...}}                            Llama 3 and 4, sometimes behind <|python_tag|>
    mistral   [TOOL_CALLS][{"name": "f", "arguments": {...}}, ...]          Mistral up to 2024
    named     [TOOL_CALLS]f[ARGS]{...}[TOOL_CALLS]g[ARGS]{...}              Mistral since 2025
    generic   as hermes, for every other model: the tools stand in a system text instead of the template's own words

A template that takes tools and has a spelling of its own that is none of these (Qwen3-Coder's XML, gpt-oss's channels) is not
given any: its model is asked in the generic way, which it can follow too.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hornbook.types import Message, ToolCall

_LETTERS = string.ascii_letters + string.digits
_SHORT = 9  # letters of an id that Mistral's templates take


@dataclass(frozen=True, slots=True)
class Format:
    """One way to spell calls. ``opens`` and ``closes``: the marks around a call, or around the list of them."""

    name: str
    opens: str
    closes: str = ""
    key: str = "arguments"
    listed: bool = False  # one list of all calls
    bare: bool = False  # a reply that begins with such an object is a call, without any mark
    single: bool = False  # the template can show one call a turn
    middle: str = ""  # between the name and the arguments, where they are no object together
    ids: str = "call_"  # what an id begins with; "" for the nine letters and digits that Mistral's templates ask for

    def new_id(self) -> str:
        """An id that no other call has."""
        return self.ids + "".join(secrets.choice(_LETTERS) for _ in range(24 if self.ids else _SHORT))


HERMES = Format("hermes", "<tool_call>", "</tool_call>")
LLAMA = Format("llama", "<|python_tag|>", key="parameters", bare=True, single=True)
MISTRAL = Format("mistral", "[TOOL_CALLS]", listed=True, ids="")
NAMED = Format("named", "[TOOL_CALLS]", middle="[ARGS]", ids="")
GENERIC = replace(HERMES, name="generic")
MARKS = frozenset(["<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"])


def format_of(template: str | None) -> Format:
    """The format that a chat template describes to its model; GENERIC where it describes none that is known."""
    template = (template or "").replace('\\"', '"')  # of strings inside the template
    if not re.search(r"\btools\b", template):
        return GENERIC
    if "[TOOL_CALLS]" in template:
        return NAMED if "[ARGS]" in template else MISTRAL
    if "<tool_call>" in template:
        foreign = "<function=" in template or "<arg_key>" in template
        return GENERIC if foreign or '"name"' not in template else HERMES
    headers = ("<|python_tag|>", "<|start_header_id|>", "<|header_start|>")
    if '"parameters"' in template and any(mark in template for mark in headers):
        return LLAMA
    return GENERIC


# ------------------------------------------------------------------------------------------- the generic form, in words


def described(tools: Iterable[Mapping[str, Any]]) -> str:
    """The system text that tells a model of its tools."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        "You may call the following tools, each described by a line of JSON:\n"
        f"{lines}\n"
        "To call one, write its name and its arguments as JSON between these marks, and nothing else:\n"
        '<tool_call>\n{"name": "the tool\'s name", "arguments": {"an argument": "its value"}}\n</tool_call>\n'
        "What it finds is then given to you between <tool_response> and </tool_response>. "
        "Where no tool is needed, answer as usual."
    )


def spelled(call: ToolCall) -> str:
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {arguments}}}\n</tool_call>'


def in_words(messages: Sequence[Message], system: str = "", *, by_user: bool = False) -> tuple[Message, ...]:
    """A conversation for a template that knows nothing of tools: calls are the assistant's text, and what they found is told
    by the user. ``system``: is added to the system message, or is one; ``by_user``: or to what the user says first."""
    turns: list[Message] = []
    telling = False
    for turn in messages:
        if turn.role == "tool":
            text = f"<tool_response>\n{turn.content}\n</tool_response>"
            if telling:
                turns[-1] = replace(turns[-1], content=f"{turns[-1].content}\n{text}")
            else:
                turns.append(Message("user", text))
            telling = True
            continue
        if telling and turn.role == "user":  # templates that want the roles to alternate get them so
            turns[-1] = replace(turns[-1], content=f"{turns[-1].content}\n{turn.content}")
        elif turn.tool_calls:
            text = "\n".join(filter(None, [turn.content, *map(spelled, turn.tool_calls)]))
            turns.append(Message("assistant", text))
        else:
            turns.append(turn)
        telling = False
    if system and turns and turns[0].role == "system":
        turns[0] = replace(turns[0], content=f"{turns[0].content}\n\n{system}")
    elif system and by_user and turns and turns[0].role == "user":
        turns[0] = replace(turns[0], content=f"{system}\n\n{turns[0].content}")
    elif system:
        turns.insert(0, Message("system", system))
    return tuple(turns)


def one_at_a_time(messages: Sequence[Message]) -> tuple[Message, ...]:
    """A conversation for a template that can show one call a turn: a turn with several becomes several turns, each
    followed by what its call found."""
    turns: list[Message] = []
    rest = list(messages)
    while rest:
        turn = rest.pop(0)
        if len(turn.tool_calls) < 2:
            turns.append(turn)
            continue
        found: list[Message] = []
        while rest and rest[0].role == "tool":
            found.append(rest.pop(0))
        for place, call in enumerate(turn.tool_calls):
            turns.append(replace(turn, content="" if place else turn.content, tool_calls=(call,)))
            own = [m for m in found if m.tool_call_id == call.id] or found[:1]
            turns.extend(own)
            found = [m for m in found if m not in own]
        turns.extend(found)
    return tuple(turns)


def with_short_ids(messages: Sequence[Message]) -> tuple[Message, ...]:
    """A conversation for a template that refuses ids of other than nine letters and digits: others become such, each always the
    same, so that a call and its result stay together and a prompt's beginning stays known."""

    def short(id: str | None) -> str | None:
        if id is None or (len(id) == _SHORT and id.isascii() and id.isalnum()):
            return id
        digest = int.from_bytes(hashlib.sha256(id.encode("utf-8", "replace")).digest())
        return "".join(_LETTERS[digest // len(_LETTERS) ** place % len(_LETTERS)] for place in range(_SHORT))

    return tuple(
        replace(
            turn,
            tool_call_id=short(turn.tool_call_id),
            tool_calls=tuple(replace(call, id=short(call.id) or "") for call in turn.tool_calls),
        )
        for turn in messages
    )
