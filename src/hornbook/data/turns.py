"""Turns of conversations, however they are written down, as Messages in an order that chat templates accept.

    {"role", "content", "tool_calls", ...}   OpenAI's, older ones with function_call too
    {"from", "value"}                        ShareGPT's: human, gpt, system, function_call, observation

The order: a system turn at most, first; then the user; the assistant answers the user or a tool; a tool answers a call.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from hornbook.types import Message, Role, ToolCall

ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "chatgpt", "function_call", "tool_call"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response", "tool_response"), "tool"),
}
_CALLS = ("function_call", "tool_call")  # ShareGPT: turns whose value is the call itself
_PLAIN = {name: role for name, role in ROLES.items() if name not in _CALLS}
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


class Unfit(Exception):
    """A row that is no example: ``what`` says why, ``remedy`` what to do."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


def conversation(turns: Any, *, system: str | None = None) -> tuple[Message, ...]:
    """Turns of either form, checked and joined. An empty system turn is none. Raises Unfit."""
    turns = _parsed(turns, "its list of turns")  # tables hold it as JSON
    if not isinstance(turns, list | tuple) or not all(isinstance(turn, Mapping) for turn in turns):
        raise Unfit("its turns are not a list of objects", 'A turn is {"role": "user", "content": "..."}.')
    if not turns:
        raise Unfit("it has no turns", "Remove the line or complete it.")
    messages = [message(turn) for turn in turns]
    with_tools = any(turn.tool_calls or turn.role == "tool" for turn in messages)
    if with_tools:
        messages = _joined(messages)
    if messages[:1] and messages[0].role == "system":
        if system and system.strip():
            raise Unfit("it has a system turn and a system column", "Keep one of them.")
        if not messages[0].content.strip():
            messages.pop(0)
    elif system and system.strip():
        messages.insert(0, Message("system", system))
    _check(messages)
    return tuple(_linked(messages) if with_tools else messages)


def message(turn: Mapping[str, Any]) -> Message:
    """One turn of either form. Raises Unfit."""
    said = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if len(turn) == 2 and isinstance(content, str) and isinstance(said, str) and said in _PLAIN:  # as almost all are
        return Message(_PLAIN[said], content)
    role = ROLES.get(said.strip().lower()) if isinstance(said, str) else None
    if role is None:
        raise Unfit(f"a turn has the role {said!r}", f"The roles are: {', '.join(ROLES)}.")
    _refuse_what_would_be_lost(turn)
    if said in _CALLS and "role" not in turn:
        return Message("assistant", "", tool_calls=calls(content))
    asked = turn.get("tool_calls")
    if asked is None and turn.get("function_call"):
        asked = [turn["function_call"]]
    name, answered = turn.get("name"), turn.get("tool_call_id")
    return Message(
        role,
        _plain(content),
        name if isinstance(name, str) and name else None,
        calls(asked) if asked else (),
        answered if isinstance(answered, str) and answered else None,
    )


def _refuse_what_would_be_lost(turn: Mapping[str, Any]) -> None:
    if turn.get("weight") == 0 or turn.get("train") is False:
        raise Unfit("a turn asks not to be learnt (weight 0)", "Take the turns from it on away, or its weight.")
    for name in _THOUGHTS:
        if turn.get(name):
            raise Unfit(f"a turn has {name} beside its content", "Write it into the content, as the model writes it.")


def _plain(content: Any) -> str:
    """A turn's text: of a text, nothing, or OpenAI's list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Sequence):
        texts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if all(isinstance(text, str) for text in texts):
            return "".join(cast(list[str], texts))
        raise Unfit("a turn has a part that is no text", "Only text can be learnt here.")
    raise Unfit(f"a turn's content is a {type(content).__name__}, not a text", "Write it as text.")


# ---------------------------------------------------------------------------------------------------------- tools


def calls(value: Any) -> tuple[ToolCall, ...]:
    """Calls of tools: a list, one, or the JSON text of either; nested in "function" or not. Raises Unfit."""
    value = _parsed(value, "a call of a tool")
    found = value if isinstance(value, list) else [value]
    return tuple(_call(call) for call in found)


def _call(call: Any) -> ToolCall:
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    name = inner.get("name") if isinstance(inner, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(name, str) or not name:
        raise Unfit(f"a call of a tool has no name: {str(call)[:60]!r}", 'Write {"name": "...", "arguments": {...}}.')
    arguments = _parsed(inner.get("arguments") or {}, f"the arguments of {name}")
    if not isinstance(arguments, Mapping):
        raise Unfit(f"the arguments of {name} are no object", 'Write {"name": "...", "arguments": {...}}.')
    id = call.get("id")
    return ToolCall(id if isinstance(id, str) else "", name, arguments)


def tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """The tools of a conversation in OpenAI's form: a list, or the JSON text of one. Raises Unfit."""
    if value is None or value == "":
        return ()
    found = _parsed(value, "its tools")
    if not isinstance(found, list):
        raise Unfit("its tools are no list", 'Write [{"type": "function", "function": {"name": "...", ...}}].')
    return tuple(_tool(tool) for tool in found)


def _tool(tool: Any) -> Mapping[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise Unfit(f"a tool has no name: {str(tool)[:60]!r}", 'Write {"name": "...", "parameters": {...}}.')
    return tool if function is not tool else {"type": "function", "function": tool}


def _parsed(value: Any, of: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Unfit(f"{of} is not JSON: {value[:60]!r}", "Write it as JSON, or as an object.") from error


# ---------------------------------------------------------------------------------------------------------- order


def _joined(messages: Iterable[Message]) -> list[Message]:
    """An assistant's text and the calls that follow it are one turn, as are calls in a row."""
    joined: list[Message] = []
    for turn in messages:
        last = joined[-1] if joined else None
        if last and last.role == turn.role == "assistant" and turn.tool_calls and not turn.content:
            joined[-1] = replace(last, tool_calls=last.tool_calls + turn.tool_calls)
        else:
            joined.append(turn)
    return joined


_AFTER: dict[str, tuple[str, ...]] = {
    "": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "calls": ("tool",),
    "tool": ("tool", "assistant"),
}


def _check(messages: Sequence[Message]) -> None:
    state = ""
    for number, turn in enumerate(messages, 1):
        if turn.role not in _AFTER[state]:
            before = {"": "at the beginning", "calls": "after calls of tools"}.get(state, f"after {state}")
            raise Unfit(
                f"its roles are out of order: turn {number} is the {turn.role}'s {before}",
                "The order is system, user, assistant, user, ...; a tool answers a call of the assistant's.",
            )
        if turn.tool_calls and turn.role != "assistant":
            raise Unfit(f"turn {number}, the {turn.role}'s, calls tools", "Only the assistant does.")
        if not turn.content.strip() and not turn.tool_calls and turn.role != "tool":  # a tool may answer nothing
            raise Unfit(f"turn {number}, the {turn.role}'s, is empty", "Remove the line or complete it.")
        state = "calls" if turn.tool_calls else turn.role


def _linked(messages: Sequence[Message]) -> Iterable[Message]:
    """Give each call an id, and the answer of each tool the id and the name of its call, where they have none."""
    count, open_calls = 0, list[ToolCall]()
    for turn in messages:
        if turn.tool_calls:
            open_calls = []
            for call in turn.tool_calls:
                count += 1
                open_calls.append(replace(call, id=call.id or f"call_{count}"))
            turn = replace(turn, tool_calls=tuple(open_calls))
        elif turn.role == "tool":
            if turn.tool_call_id is None and not open_calls:
                raise Unfit("a tool answers more than was called", "Give each call one answer.")
            match = next((call for call in open_calls if call.id == turn.tool_call_id), None)
            if match is None and turn.tool_call_id is not None:
                raise Unfit(f"a tool answers {turn.tool_call_id!r}, which was not called", "Correct its tool_call_id.")
            match = match or open_calls[0]
            open_calls.remove(match)
            turn = replace(turn, tool_call_id=match.id, name=turn.name or match.name)
        yield turn
