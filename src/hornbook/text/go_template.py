"""Chat templates in Go's text/template language, as Modelfiles hold them, run without Go.

    GoTemplate(source).run({"System": ..., "Messages": [...], ...}) -> text

What a template is given are plain values of JSON; a field that Go's structs would have, ``.ToolCalls``, is looked up as
its JSON name, ``tool_calls``. Only the fields and functions below are known, any other is refused when the template is
read, by its name and line. A template is a stranger's program: its steps and its output are bounded.

Sources: https://pkg.go.dev/text/template for the language, Ollama's docs/template.md for what templates are given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import Any

from jinja2.exceptions import SecurityError

from hornbook.errors import TemplateError
from hornbook.text.go_syntax import (
    Action,
    Branch,
    Field,
    Function,
    Leave,
    Literal,
    Nested,
    Node,
    Operand,
    Pipe,
    Text,
    Variable,
    parse,
    refused,
)
from hornbook.text.meter import Meter

MAX_SOURCE = 1 << 20  # characters, as of a jinja template

# What the whole template is given.
ROOTS = frozenset(("System", "Prompt", "Response", "Suffix", "Messages", "Tools", "Think", "ThinkLevel", "IsThinkSet"))
# A field of a message, a call or a tool -> its key in JSON, and what it is where the key is absent.
FIELDS: dict[str, tuple[str, Any]] = {
    "Role": ("role", ""), "Content": ("content", ""), "Thinking": ("thinking", ""), "Images": ("images", []),
    "ToolCalls": ("tool_calls", []), "ToolName": ("tool_name", ""), "ToolCallID": ("tool_call_id", ""),
    "Function": ("function", {}), "Name": ("name", ""), "Arguments": ("arguments", {}), "Index": ("index", 0),
    "ID": ("id", ""), "Type": ("type", ""), "Description": ("description", ""), "Parameters": ("parameters", {}),
    "Properties": ("properties", {}), "Required": ("required", []), "Enum": ("enum", []), "Items": ("items", None),
    "AnyOf": ("anyOf", []), "Defs": ("$defs", None),
}  # fmt: skip


class GoTemplate:
    """A template that was read; ``run`` may be called from many threads at once. Raises TemplateError, with the line."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise refused(1, f"it has {len(source):,} characters, {MAX_SOURCE:,} at most")
        self.source = source
        self.nodes = parse(source, frozenset(_FUNCTIONS) | _LAZY)
        self.names = frozenset(_names(self.nodes))

    def run(
        self,
        values: Mapping[str, Any],
        *,
        mark: str = "",
        protect: Callable[[str], str] = str,
        nodes: tuple[Node, ...] | None = None,
    ) -> str:
        """The template's text. ``mark`` may stand in the values' strings (hornbook.text.fence): comparisons do not see it,
        and a text that is cut is protected anew. ``nodes``: these instead of the whole tree."""
        return _Run(values, mark, protect).text(self.nodes if nodes is None else nodes)


def _names(nodes: tuple[Node, ...]) -> Iterator[str]:
    """All fields that occur. Raises TemplateError for one that nothing has."""
    for node in nodes:
        if isinstance(node, Action):
            yield from _names_in(node.pipe)
        elif isinstance(node, Branch):
            yield from _names_in(node.pipe)
            yield from _names(node.body)
            yield from _names(node.otherwise)


def _names_in(pipe: Pipe) -> Iterator[str]:
    for operand in (operand for command in pipe.commands for operand in command):
        if isinstance(operand, Nested):
            yield from _names_in(operand.pipe)
        for name in getattr(operand, "names", ()):
            if name not in ROOTS and name not in FIELDS:
                raise refused(pipe.line, f"the field .{name} is not supported")
            yield name


# ------------------------------------------------------------------------------------------------------- one run


class _Leaving(Exception):
    """``break`` or ``continue`` on its way to its range."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Run:
    def __init__(self, values: Mapping[str, Any], mark: str, protect: Callable[[str], str]) -> None:
        self._root = _Root(values)
        self._mark, self._protect = mark, protect
        self._variables: list[tuple[str, Any]] = [("$", self._root)]
        self._meter = Meter(dict(values))
        self._out: list[str] = []

    def text(self, nodes: tuple[Node, ...]) -> str:
        try:
            self._walk(nodes, self._root)
        except SecurityError as error:
            raise TemplateError(
                f"the template is refused: {error}", "It may be damaged or hostile; use another template."
            ) from error
        return "".join(self._out)

    def _walk(self, nodes: tuple[Node, ...], dot: Any) -> None:
        for node in nodes:
            self._meter.step()
            if isinstance(node, Text):
                self._write(node.text)
            elif isinstance(node, Action):
                value = self._value(node.pipe, dot)
                if not node.pipe.variables:
                    self._write(_printed(value))
            elif isinstance(node, Leave):
                raise _Leaving(node.kind)
            else:
                with self._scope():
                    self._branch(node, dot)

    def _write(self, text: str) -> None:
        self._meter.spend(len(text))
        self._out.append(text)

    @contextmanager
    def _scope(self) -> Iterator[None]:
        depth = len(self._variables)
        try:
            yield
        finally:
            del self._variables[depth:]

    def _branch(self, node: Branch, dot: Any) -> None:
        if node.kind == "range":
            self._loop(node, dot)
            return
        value = self._value(node.pipe, dot)
        if _true(value):
            with self._scope():
                self._walk(node.body, value if node.kind == "with" else dot)
        else:
            self._walk(node.otherwise, dot)

    def _loop(self, node: Branch, dot: Any) -> None:
        pipe = node.pipe
        items = _items(self._pipeline(pipe, dot), pipe.line)
        for key, item in items:
            with self._scope():
                values = (item,) if len(pipe.variables) == 1 else (key, item)
                for name, value in zip(pipe.variables, values, strict=False):
                    self._set(name, value, pipe.declares)
                try:
                    self._walk(node.body, item)
                except _Leaving as leaving:
                    if leaving.kind == "break":
                        break
        if not items:
            self._walk(node.otherwise, dot)

    def _value(self, pipe: Pipe, dot: Any) -> Any:
        value = self._pipeline(pipe, dot)
        for name in pipe.variables:
            self._set(name, value, pipe.declares)
        return value

    def _set(self, name: str, value: Any, declare: bool) -> None:
        if declare:
            self._variables.append((name, value))
            return
        place = max(at for at, (known, _) in enumerate(self._variables) if known == name)
        self._variables[place] = (name, value)

    def _pipeline(self, pipe: Pipe, dot: Any) -> Any:
        value: Any = None
        for place, command in enumerate(pipe.commands):
            self._meter.step()
            value = self._command(command, dot, [Literal(value)] if place else [], pipe.line)
        return value

    def _command(self, command: tuple[Operand, ...], dot: Any, piped: list[Literal], line: int) -> Any:
        first = command[0]
        if not isinstance(first, Function):
            return self._operand(first, dot, line)
        operands = [*command[1:], *piped]
        if first.name in _LAZY:  # and, or: what decides ends it
            if not operands:
                raise refused(line, f"{first.name} needs something to look at")
            for operand in operands:
                value = self._operand(operand, dot, line)
                if _true(value) == (first.name == "or"):
                    break
            return value
        values = [self._operand(operand, dot, line) for operand in operands]
        if first.name == "slice" and values and isinstance(values[0], str):
            return self._protect(self._call(first.name, [values[0].replace(self._mark, ""), *values[1:]], line))
        if first.name in _BLIND and self._mark:
            values = [value.replace(self._mark, "") if isinstance(value, str) else value for value in values]
        return self._meter.made(self._call(first.name, values, line))

    def _call(self, name: str, values: list[Any], line: int) -> Any:
        fewest, most, function = _FUNCTIONS[name]
        if not fewest <= len(values) <= most:
            raise refused(line, f"{name} is given {len(values)} values")
        try:
            return function(*values)
        except (TypeError, ValueError, IndexError, KeyError, OverflowError) as error:
            raise refused(line, f"{name}: {error}") from error

    def _operand(self, operand: Operand, dot: Any, line: int) -> Any:
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Field):
            return _fields(dot, operand.names, line)
        if isinstance(operand, Variable):
            value = next(value for name, value in reversed(self._variables) if name == operand.name)
            return _fields(value, operand.names, line)
        if isinstance(operand, Nested):
            return _fields(self._pipeline(operand.pipe, dot), operand.names, line)
        return self._command((operand,), dot, [], line)


class _Root(dict[str, Any]):
    """What the whole template is given, by the names that templates use."""


def _fields(value: Any, names: tuple[str, ...], line: int) -> Any:
    for name in names:
        if isinstance(value, _Root) and name in ROOTS:
            value = value.get(name)
        elif isinstance(value, Mapping) and not isinstance(value, _Root) and name in FIELDS:
            key, absent = FIELDS[name]
            value = value.get(key, absent)
        else:
            held = "the template's values have" if isinstance(value, _Root) else f"{_kind(value)} has"
            raise refused(line, f"{held} no field .{name}")
    return value


def _items(value: Any, line: int) -> list[tuple[Any, Any]]:
    """(index or key, item), a mapping's in the order of its keys."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if isinstance(value, Mapping) and not isinstance(value, _Root):
        return sorted(value.items())
    if isinstance(value, int) and not isinstance(value, bool):
        if value > 100_000:
            raise refused(line, f"range over {value:,}")
        return [(at, at) for at in range(value)]
    raise refused(line, f"range cannot go over {_kind(value)}")


def _true(value: Any) -> bool:
    return isinstance(value, _Root) or bool(value)


def _kind(value: Any) -> str:
    kinds = {str: "a text", bool: "a truth value", int: "a number", float: "a fraction", list: "a list"}
    return "nothing" if value is None else kinds.get(type(value), "an object")


def _printed(value: Any) -> str:
    """As Ollama's types print themselves: a tool, a list of calls and arguments are JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "<nil>"
    return _json(value)


# ------------------------------------------------------------------------------------------------------ functions


def _json(value: Any) -> str:
    """As Go's encoding/json writes it: no spaces, and "<", ">", "&" as escapes."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return str(int(value))
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _equal(first: Any, *others: Any) -> bool:
    """Is the first equal to any of the others?"""
    for other in others:
        if None not in (first, other) and _kind(first) != _kind(other):
            raise TypeError(f"{_kind(first)} and {_kind(other)} cannot be compared")
        if isinstance(first, list | Mapping):
            raise TypeError(f"{_kind(first)} cannot be compared")
    return any(first == other for other in others)


def _less(first: Any, other: Any) -> bool:
    if _kind(first) != _kind(other) or not isinstance(first, str | int | float) or isinstance(first, bool):
        raise TypeError(f"{_kind(first)} and {_kind(other)} have no order")
    return bool(first < other)


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())  # Go counts bytes
    if not isinstance(value, list | tuple | Mapping):
        raise TypeError(f"{_kind(value)} has no length")
    return len(value)


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list | tuple | str) and isinstance(key, int):
            whole = value.encode() if isinstance(value, str) else value
            if not 0 <= key < len(whole):
                raise IndexError(f"{key} is outside of {len(whole)} items")
            value = whole[key]
        else:
            raise TypeError(f"{_kind(value)} has no item {key!r}")
    return value


def _slice(value: Any, *bounds: int) -> Any:
    if not isinstance(value, list | tuple | str):
        raise TypeError(f"{_kind(value)} cannot be cut")
    whole = value.encode() if isinstance(value, str) else value
    start, end = (*bounds, *(0, len(whole))[len(bounds) :])
    if not 0 <= start <= end <= len(whole):
        raise IndexError(f"{start} to {end} is outside of {len(whole)} items")
    part = whole[start:end]
    return part.decode(errors="replace") if isinstance(part, bytes) else part


_LAZY = frozenset(("and", "or"))
_BLIND = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "len", "index"))  # do not see the marks
# name -> fewest and most values, and what it does
_FUNCTIONS: dict[str, tuple[int, int, Callable[..., Any]]] = {
    "not": (1, 1, lambda value: not _true(value)),
    "eq": (2, 99, _equal),
    "ne": (2, 2, lambda first, other: not _equal(first, other)),
    "lt": (2, 2, _less),
    "le": (2, 2, lambda first, other: not _less(other, first)),
    "gt": (2, 2, lambda first, other: _less(other, first)),
    "ge": (2, 2, lambda first, other: not _less(first, other)),
    "len": (1, 1, _length),
    "index": (1, 9, _index),
    "slice": (1, 3, _slice),
    "json": (1, 1, _json),
    "currentDate": (0, 1, lambda *_: date.today().isoformat()),
}
