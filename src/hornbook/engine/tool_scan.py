"""One call, read as it is written: its name as soon as it stands there, its arguments piece by piece, word for word.

    scanner = ObjectScanner()
    scanner.push('{"name": "search", "argum')     -> 25 characters taken; scanner.name == "search"
    scanner.push('ents": {"query": "')            -> scanner.fresh() == '{"query": "'
    scanner.push('b"}} and')                      -> 4 taken: scanner.done

It reads a little more than the formats ask for, because models do: keys in any order, "parameters" for "arguments", the call
inside a "function", arguments inside a string. What can be no call at all raises NoCall.
"""

from __future__ import annotations

import json
from typing import Any

ARGUMENTS = ("arguments", "parameters")
_KEYS = ("name", "function", "type", "id", *ARGUMENTS)
_SPACE = " \t\r\n"


class NoCall(Exception):
    """The text is not a call."""


class ValueScanner:
    """Finds where a JSON value ends, of any kind, without judging what is inside."""

    def __init__(self) -> None:
        self.text = ""
        self.done = False
        self._depth = 0
        self._in_string = self._escaped = False

    def push(self, text: str) -> int:
        """Take text; return how many of its characters belong to the value."""
        start = len(self.text)
        for at, character in enumerate(text):
            if self._ends_before(character):
                self.done = True
                self.text += text[:at]
                return at
            if self._in_string:
                self._string(character)
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
            if not (self._in_string or self._depth) and character in '"}]':
                self.done = True
                self.text += text[: at + 1]
                return at + 1
        self.text += text
        return len(self.text) - start

    def _string(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False

    def _ends_before(self, character: str) -> bool:
        """A number, true, false or null ends where something else begins."""
        return not self._in_string and not self._depth and character in f",}}]{_SPACE}"


class ObjectScanner:
    """A call that is one JSON object. ``bare``: nothing marks it as a call, so that it must begin as one does."""

    def __init__(self, *, bare: bool = False) -> None:
        self.name: str | None = None
        self.arguments = ""
        self.done = False
        self._bare = bare
        self.consumed = 0  # characters taken so far, those before a fault where NoCall was raised
        self._told = 0
        self._expects = "{"  # what comes next: { key : value ,
        self._key = ""
        self._value: ValueScanner | None = None

    def fresh(self) -> str:
        """What is new of the arguments since the last time. Arguments inside a string come when they are whole."""
        if self.arguments.startswith('"'):
            return ""
        new = self.arguments[self._told :]
        self._told = len(self.arguments)
        return new

    def push(self, text: str) -> int:
        """Take text; return how many of its characters belong to the call: fewer than all once it is ``done``."""
        at = 0
        while at < len(text) and not self.done:
            taken = 1
            if self._value is not None:
                taken = self._inside(self._value, text[at:])
            elif self._expects != "value":
                self._between(text[at])
            elif text[at] in ",}]:":
                raise NoCall
            elif text[at] not in _SPACE:
                self._value = ValueScanner()
                taken = 0
            at += taken
            self.consumed += taken
        return at

    def _inside(self, value: ValueScanner, text: str) -> int:
        taken = value.push(text)
        if self._expects == "value" and self._key in ARGUMENTS:
            self.arguments = value.text
        if value.done:
            self._take(value.text)
        return taken

    def finish(self) -> None:
        """The call ends here: arguments that came inside a string are taken out of it, absent ones are none."""
        if self.name is None:
            raise NoCall
        if self.arguments.startswith('"'):
            inner = _loads(self.arguments)
            self.arguments = inner if isinstance(inner, str) else self.arguments
        if not self.arguments.strip() and self.done:
            self.arguments = "{}"

    def _between(self, character: str) -> None:
        """A character of the object itself."""
        if character in _SPACE:
            return
        if self._expects == "{" and character == "{":
            self._expects = "first"
        elif self._expects in ("first", "key") and character == '"':
            self._value = ValueScanner()
            self._value.push('"')
        elif self._expects == ":" and character == ":":
            self._expects = "value"
        elif self._expects == "," and character == ",":
            self._expects = "key"
        elif self._expects == "," and character == "}" and self.name is not None:
            self.done = True
        else:
            raise NoCall

    def _take(self, text: str) -> None:
        self._value = None
        if self._expects in ("first", "key"):
            self._key = str(_loads(text))
            if self._bare and self._key not in _KEYS:
                raise NoCall
            self._expects = ":"
            return
        self._expects = ","
        value = None if self._key in ARGUMENTS else _loads(text)
        if self._key in ("name", "function") and isinstance(value, str):
            self.name = value
        elif self._key == "function" and isinstance(value, dict) and isinstance(value.get("name"), str):
            self.name = value["name"]
            inner: Any = next((value[key] for key in ARGUMENTS if key in value), {})
            self.arguments = inner if isinstance(inner, str) else json.dumps(inner, ensure_ascii=False)
        elif self._key == "name" or (self._key == "function"):
            raise NoCall


class NamedScanner:
    """A call whose name stands by itself before its arguments: f[ARGS]{...}. The mark comes as a Mark or as text."""

    def __init__(self, middle: str) -> None:
        self.name: str | None = None
        self.arguments = ""
        self.done = False
        self._middle = middle
        self.consumed = 0
        self._head = ""
        self._used = 0  # characters of the head that are the name and the mark behind it
        self._told = 0
        self._value = ValueScanner()

    def fresh(self) -> str:
        new = self.arguments[self._told :]
        self._told = len(self.arguments)
        return new

    def mark(self, mark: str) -> None:
        if self.name is not None:
            raise NoCall
        self._head += mark
        self._split()

    def push(self, text: str) -> int:
        taken = 0
        if self.name is None:
            known = len(self._head)
            self._head += text
            self._split()
            if self.name is None:
                self.consumed += len(text)
                return len(text)
            taken = self._used - known
        if not self._value.text:
            taken += len(text[taken:]) - len(text[taken:].lstrip())
        if taken < len(text):
            if not self._value.text and text[taken] != "{":
                self.consumed += taken
                raise NoCall
            taken += self._value.push(text[taken:])
            self.arguments, self.done = self._value.text, self._value.done
        self.consumed += taken
        return taken

    def finish(self) -> None:
        if self.name is None:
            raise NoCall

    def _split(self) -> None:
        head, middle, _ = self._head.partition(self._middle)
        if middle:
            self.name = head.partition("[CALL_ID]")[0].strip()
            self._used = len(head) + len(middle)
            if not self.name:
                raise NoCall
        elif len(head) > 300:
            raise NoCall


def _loads(text: str) -> Any:
    """A JSON value in which a string may hold a line's end as it is. Raises NoCall."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        raise NoCall from None
