"""The calls of tools in one answer: where they begin, what is told of them while they come, and what is wrong with them.

    start      nothing but white space yet: a format without marks may begin a call here
    text       looking for the mark that opens calls
    between    behind that mark or behind a call: another call, or the end of the calls
    call       inside one: engine/tool_scan.py reads it

What is marked as a call and is none is text, mark and all: it is for whoever reads it to say what is wrong. Once a call's name was
told, it stays a call, and its ``problem`` says what is wrong. How the text was cut into pieces makes no difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hornbook.engine.markers import Mark, cut
from hornbook.engine.tool_formats import Format
from hornbook.engine.tool_scan import NamedScanner, NoCall, ObjectScanner
from hornbook.engine.tool_schema import fault
from hornbook.errors import UsageError


@dataclass(frozen=True, slots=True)
class Call:
    """A call that has ended. ``arguments``: as the model wrote them; ``value``: as an object, None where they are none.

    problem: what is wrong with it, in a line; None where the tool is known and the arguments satisfy its schema.
    """

    index: int
    id: str
    name: str
    arguments: str
    value: Mapping[str, Any] | None
    problem: str | None


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of the JSON text of call number ``index``'s arguments."""

    index: int
    arguments: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    index: int
    call: Call


CallEvent: TypeAlias = "TextDelta | CallBegin | CallDelta | CallEnd"


class CallReader:
    """The calls in one answer.

    start      nothing but white space yet: a format without marks may begin a call here
    text       looking for the mark that opens calls
    between    behind that mark or behind a call: another call, or the end of the calls
    call       inside one
    """

    def __init__(self, format: Format, tools: Mapping[str, Any], control: frozenset[str]) -> None:
        self._format = format
        self._tools = tools
        self._opens = [] if format.opens in control else [format.opens]
        self._closes = "" if format.closes in control else format.closes
        self._state = "start"
        self._held = ""
        self._marked = ""  # what opened these calls, as text that may have to be given back
        self._scanner: ObjectScanner | NamedScanner | None = None
        self._raw = ""  # what the scanner was given
        self._id: str | None = None  # of the call that has begun
        self._count = 0
        self._fresh = True  # no call yet since the mark
        self._bare = False
        self._behind = False  # nothing but white space since the last call
        self._events: list[CallEvent] = []

    def push(self, piece: str) -> list[CallEvent]:
        if isinstance(piece, Mark):
            self._mark(piece)
        else:
            self._held += piece
            self._read()
        events, self._events = self._events, []
        return events

    def end(self, *, cut_short: bool = False) -> list[CallEvent]:
        """The answer is over. ``cut_short``: not of itself, so that a beginning without a name yet is no text either."""
        while self._state == "call":  # what turns out to be none is read again as text
            if cut_short and self._id is None and not self._bare:
                self._state, self._fresh = "between", False
                break
            self._stop("it was cut short")
            self._read()
        if self._state == "between":
            self._text(self._marked + self._held if self._fresh and not cut_short else "")
        elif not self._behind or self._held.strip():
            self._text(self._held)
        self._held = ""
        events, self._events = self._events, []
        return events

    # --- marks that are control tokens

    def _mark(self, mark: Mark) -> None:
        if self._state == "call" and isinstance(self._scanner, NamedScanner) and mark != self._format.opens:
            try:
                self._scanner.mark(mark)
            except NoCall:
                self._no_call()
            else:
                self._begin_where_named()
        elif mark in (self._format.opens, self._format.closes):
            if self._state == "call":
                self._stop("it was cut short")
            if self._state != "between":
                self._text(self._held)
            self._held, self._state = "", "text"
            if mark == self._format.opens:
                self._enter("")

    # --- text

    def _read(self) -> None:
        """Take what is held as far as it is certain."""
        while self._held:
            before = (self._held, self._state)
            getattr(self, f"_in_{self._state}")()
            if before == (self._held, self._state):
                return

    def _in_start(self) -> None:
        text = self._held.lstrip()
        if not text:
            return
        if text[0] == "{" and self._format.bare:
            space, self._held = self._held[: -len(text)], text
            self._enter(space, bare=True)
        else:
            self._state = "text"

    def _in_text(self) -> None:
        strays = [self._closes] if self._count else []  # behind a call that was broken
        before, mark, after = cut(self._held, [*self._opens, *strays])
        if not self._behind or before.strip():
            self._text(before)
            self._behind = self._behind and not before
        elif not mark:  # white space behind a call, as long as nothing follows it
            return
        self._held = after
        if mark in self._opens:
            self._enter(mark)

    def _in_between(self) -> None:
        text = self._held.lstrip() if self._fresh else self._held.lstrip(" \t\r\n,;")
        if not self._fresh and text and any(mark.startswith(text[: len(mark)]) for mark in self._opens):
            if text.startswith(self._opens[0]):
                self._held = text[len(self._opens[0]) :]
                self._enter(self._opens[0])
        elif not text:
            return
        elif self._format.middle and self._fresh:
            self._skip(text)
            self._call(NamedScanner(self._format.middle))
        elif text[0] == "{" and not self._format.middle:
            self._skip(text)
            self._call(ObjectScanner(bare=self._bare))
        elif text[0] == "[" and self._fresh or text[0] == "]" and not self._fresh:
            self._skip(text[1:])
        elif self._closes and text.startswith(self._closes) and not self._fresh:
            self._held, self._state = text[len(self._closes) :], "text"
        elif self._closes and self._closes.startswith(text):
            return
        elif self._fresh:
            self._give_back()
        else:
            self._state = "text"

    def _skip(self, rest: str) -> None:
        """Pass over what stands before a call; it is kept with the mark."""
        self._marked += self._held[: len(self._held) - len(rest)]
        self._held = rest

    def _in_call(self) -> None:
        scanner = self._scanner
        assert scanner is not None
        held, self._held = self._held, ""
        self._raw += held
        try:
            taken = scanner.push(held)
            self._held = held[taken:]
            self._raw = self._raw[: len(self._raw) - len(self._held)]
            if self._bare and scanner.name is not None and scanner.name not in self._tools:
                raise NoCall
        except NoCall:
            self._no_call()
            return
        self._begin_where_named()
        if scanner.done:
            self._stop(None)

    # --- from one to the next

    def _enter(self, mark: str, *, bare: bool = False) -> None:
        self._state, self._marked, self._fresh, self._bare = "between", mark, True, bare

    def _call(self, scanner: ObjectScanner | NamedScanner) -> None:
        self._state, self._scanner, self._raw = "call", scanner, ""

    def _begin_where_named(self) -> None:
        scanner = self._scanner
        assert scanner is not None
        if scanner.name is None:
            return
        if self._id is None:
            self._id = self._format.new_id()
            self._events.append(CallBegin(self._count, self._id, scanner.name))
        if new := scanner.fresh():
            self._events.append(CallDelta(self._count, new))

    def _stop(self, problem: str | None) -> None:
        """The call is over, whole where there is no ``problem``."""
        scanner = self._scanner
        assert scanner is not None
        try:
            scanner.finish()
            self._begin_where_named()
        except NoCall:
            self._no_call()
            return
        name, id = scanner.name, self._id
        assert name is not None and id is not None
        value, wrong = judged(name, scanner.arguments, self._tools)
        call = Call(self._count, id, name, scanner.arguments, value, problem or wrong)
        self._events.append(CallEnd(self._count, call))
        self._count += 1
        self._behind = True
        self._state, self._scanner, self._id, self._fresh = "between", None, None, False

    def _no_call(self) -> None:
        """What looked like a call is none: it is text after all, unless its name was told already."""
        scanner = self._scanner
        assert scanner is not None
        if not self._bare or scanner.name in self._tools:
            self._begin_where_named()
        if self._id is not None:
            rest = self._raw[scanner.consumed :]
            self._stop("what follows its arguments is no JSON")
            self._held = rest
            return
        self._held = self._raw + self._held
        self._give_back()

    def _give_back(self) -> None:
        if self._fresh:
            self._text(self._marked)
        self._scanner, self._state = None, "text"

    def _text(self, text: str) -> None:
        if text:
            self._events.append(TextDelta(text))


def judged(name: str, arguments: str, tools: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """(the arguments as an object, None where they are none; what is wrong with the call)."""
    try:
        value = json.loads(arguments, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return None, f"its arguments are no JSON: {error}"
    if not isinstance(value, dict):
        return None, f"its arguments are no object: {arguments[:60]}"
    if name not in tools:
        return value, f"there is no tool called {name!r}"
    try:
        return value, fault(value, tools[name])
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, UsageError) as error:
        return value, f"the schema of its tool cannot be judged by: {error}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")
