"""What of an example is text: read it, change it, write the example down as a row that `hornbook.data.read` reads again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from hornbook.data.example import Conversation, Example, Labelled, Pair, Preference, Text
from hornbook.types import Message, ToolCall


def texts(example: Example) -> list[str]:
    """All texts of an example in the order in which they are read; of calls of tools the strings in their arguments."""
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    rewritten(example, note)
    return found


def rewritten(example: Example, change: Callable[[str], str]) -> Example:
    """The example with every text changed; labels, roles, names and descriptions of tools stay."""
    match example:
        case Text():
            return replace(example, text=change(example.text))
        case Conversation():
            return replace(example, messages=tuple(_message(message, change) for message in example.messages))
        case Preference():
            return replace(
                example,
                prompt=tuple(_message(message, change) for message in example.prompt),
                chosen=_message(example.chosen, change),
                rejected=None if example.rejected is None else _message(example.rejected, change),
            )
        case Pair():
            return replace(example, source=change(example.source), target=change(example.target))
        case Labelled():
            second = None if example.second is None else change(example.second)
            return replace(example, text=change(example.text), second=second)


def _message(message: Message, change: Callable[[str], str]) -> Message:
    content = change(message.content) if message.content else message.content
    calls = tuple(ToolCall(call.id, call.name, _inside(call.arguments, change)) for call in message.tool_calls)
    return replace(message, content=content, tool_calls=calls)


def _inside(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value) if value else value
    if isinstance(value, Mapping):
        return {key: _inside(inner, change) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_inside(inner, change) for inner in value]
    return value


def row(example: Example) -> dict[str, Any]:
    """The example as an object that JSON can write; its place is not in it."""
    match example:
        case Text():
            return {"text": example.text}
        case Conversation():
            turns = [_turn(message) for message in example.messages]
            return {"messages": turns, **({"tools": list(example.tools)} if example.tools else {})}
        case Preference():
            tools = {"tools": list(example.tools)} if example.tools else {}
            prompt = {"prompt": [_turn(message) for message in example.prompt]}
            if example.rejected is None:
                return {**prompt, "completion": [_turn(example.chosen)], "label": example.label, **tools}
            return {**prompt, "chosen": [_turn(example.chosen)], "rejected": [_turn(example.rejected)], **tools}
        case Pair():
            return {"source": example.source, "target": example.target}
        case Labelled():
            second = {} if example.second is None else {"second": example.second}
            return {"text": example.text, **second, "label": example.label}


def _turn(message: Message) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = [asdict(call) for call in message.tool_calls]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    return turn


def strings(value: Any) -> Iterator[str]:
    """Every string in a row, a list or an object, in order; names of keys are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from strings(inner)
