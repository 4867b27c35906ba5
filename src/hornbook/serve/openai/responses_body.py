"""The body of POST /v1/responses, and its items as turns of a conversation.

"text"                                          a user's turn
{"role", "content"}                             a turn; its content a text or parts of text
{"type": "function_call", ...}                  a call that the assistant made
{"type": "function_call_output", ...}           what came of it
anything else (reasoning, files, item_reference, calls of OpenAI's own tools)   refused by name
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from hornbook.serve.openai.faults import RequestFault
from hornbook.serve.openai.fields import Body, Flag, Object, Text, Whole
from hornbook.serve.openai.messages import ROLES, arguments_of, text_of
from hornbook.serve.openai.sampled import Tuned
from hornbook.serve.openai.tools import (
    Allowed,
    AllowedChoice,
    Function,
    Name,
    Named,
    NamedChoice,
    Tool,
    Wanted,
    wanted_tools,
)
from hornbook.types import Message, ToolCall

LIKELIHOODS = "message.output_text.logprobs"


class FunctionTool(Body):
    type: Literal["function"]
    name: Name
    description: Text | None = None
    parameters: Object | None = None
    strict: Flag | None = None


class FunctionChoice(Body):
    type: Literal["function"]
    name: Name


class AllowedFunctions(Body):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionChoice], Field(min_length=1)]


class Format(Body):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Text | None = None
    description: Text | None = None
    schema_: Annotated[Object | None, Field(alias="schema")] = None
    strict: Flag | None = None


class TextConfig(Body):
    refused = {"verbosity": "how much a model says cannot be set"}
    idle = {"verbosity": ("medium",)}

    format: Format | None = None


class ResponseStreamOptions(Body):
    refused = {"include_obfuscation": "events are not padded to one length"}
    idle = {"include_obfuscation": (False,)}


class ResponseBody(Tuned):
    refused = {
        "background": "a response is written while its client waits",
        "context_management": "nothing is compacted; set truncation to leave the oldest turns out",
        "conversation": "conversations are not kept here; use previous_response_id",
        "max_tool_calls": "it counts calls of tools that run on the server, and there are none",
        "moderation": "nothing is moderated",
        "prompt": "prompts are not kept here; send instructions and input",
        "reasoning": "how much a model thinks cannot be set",
    }
    idle = {"background": (False,), "reasoning": ({}, {"effort": None}, {"effort": "none"})}

    input: Text | Annotated[list[Object], Field(min_length=1)]
    instructions: Text | None = None
    previous_response_id: Text | None = None
    max_output_tokens: Annotated[Whole, Field(ge=1)] | None = None
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | AllowedFunctions | None = None
    parallel_tool_calls: Flag | None = None
    # reasoning is what no model here has apart from its text: there is none to include
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    truncation: Literal["auto", "disabled"] = "disabled"
    stream_options: ResponseStreamOptions | None = None

    def wants_likelihoods(self) -> bool:
        return LIKELIHOODS in (self.include or ()) or bool(self.top_logprobs)

    def shape(self) -> dict[str, Any]:
        """The fields of SamplingParams that say the shape of the answer; {} for plain text."""
        format = self.text.format if self.text else None
        if format is None or format.type == "text":
            return {}
        if format.type == "json_object":
            return {"schema": True}
        if format.schema_ is None:
            what = "text.format of type json_schema needs a schema"
            raise RequestFault(what, "Give its name and schema.", param="text.format.schema")
        return {"schema": format.schema_}

    def wanted(self) -> Wanted:
        """The tools as chat completions have them."""
        tools = [
            Tool(type="function", function=Function(**tool.model_dump(exclude={"type"}, exclude_none=True)))
            for tool in self.tools or ()
        ]
        choice = self.tool_choice
        if isinstance(choice, FunctionChoice):
            return wanted_tools(tools, _named(choice), self.parallel_tool_calls)
        if isinstance(choice, AllowedFunctions):
            allowed = Allowed(mode=choice.mode, tools=[_named(tool) for tool in choice.tools])
            return wanted_tools(
                tools, AllowedChoice(type="allowed_tools", allowed_tools=allowed), self.parallel_tool_calls
            )
        return wanted_tools(tools, choice, self.parallel_tool_calls)

    def items(self) -> list[Object]:
        """The input as items."""
        return [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input


def _named(choice: FunctionChoice) -> NamedChoice:
    return NamedChoice(type="function", function=Named(name=choice.name))


def messages_of_items(items: Sequence[Object], where: str = "input") -> list[Message]:
    """Items as turns; calls that follow each other, or the assistant's text, are one turn. Raises RequestFault."""
    turns: list[Message] = []
    for place, item in enumerate(items):
        here = f"{where}[{place}]"
        kind = item.get("type") or ("message" if "role" in item else None)
        if kind == "message":
            role = item.get("role")
            if role not in ("system", "developer", "user", "assistant"):
                what = f"a message's role is user, assistant, system or developer, not {str(role)[:40]!r}"
                raise RequestFault(what, param=f"{here}.role")
            content = item.get("content")
            if not isinstance(content, str) and not (
                isinstance(content, list) and all(isinstance(part, dict) for part in content)
            ):
                raise RequestFault("a message has a content of text, or of parts", param=f"{here}.content")
            turns.append(Message(ROLES[role], text_of(content, f"{here}.content")))
        elif kind == "function_call":
            arguments = arguments_of(_text(item, "arguments", here), here)
            call = ToolCall(_text(item, "call_id", here), _text(item, "name", here), arguments)
            said = turns.pop() if turns and turns[-1].role == "assistant" else Message("assistant", "")
            turns.append(Message("assistant", said.content, said.name, (*said.tool_calls, call)))
        elif kind == "function_call_output":
            output = item.get("output")
            if not isinstance(output, str | list):
                raise RequestFault("the output of a call is text, or parts of text", param=f"{here}.output")
            text = text_of(output, f"{here}.output")
            turns.append(Message("tool", text, tool_call_id=_text(item, "call_id", here)))
        elif kind != "reasoning":
            what = f"items of type {str(kind)[:40]!r} are not supported by this server"
            raise RequestFault(
                what, "Send messages, function_call and function_call_output.", param=f"{here}.type",
                code="unsupported_content",
            )  # fmt: skip
    return turns


def _text(item: Object, name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not value:
        raise RequestFault(f"an item of type {item['type']} has a text {name}", param=f"{where}.{name}")
    return value
