"""JSON and JSON lines: a record reads like YAML without signs, one piece a record, its place the path to it.

    items[3]                                section
    name: Ada                               text
    address:
      city: London

Figures stand as they were written (``1.10`` stays ``1.10``). A line of JSON lines that is no JSON is kept as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hornbook.errors import ParseError
from hornbook.retrieve.parse.builder import Builder, clean
from hornbook.retrieve.parse.source import Source

MAX_DEPTH = 100
_PIECE_CHARACTERS = 1200  # a container longer than this is opened and its parts become pieces


def parse(source: Source, builder: Builder) -> None:
    if source.suffix == ".json":
        try:
            value = load(source.text)
        except json.JSONDecodeError as error:
            if not _lines(source.text, builder, strict=True):  # JSON lines under the wrong name
                raise ParseError(f"damaged JSON file ({error.msg}, line {error.lineno})") from error
            return
        if isinstance(value, dict) and isinstance(title := value.get("title") or value.get("name"), str):
            builder.title = title
        _write(value, builder)
    else:
        _lines(source.text, builder, strict=False)


def load(text: str) -> Any:
    """JSON with its figures as text. Raise JSONDecodeError; RecursionError for what is nested too deeply."""
    return json.loads(text, strict=False, parse_int=_Figure, parse_float=_Figure, parse_constant=_Figure)


class _Figure(str):
    """A number, exactly as it stands in the file."""


def _lines(text: str, builder: Builder, *, strict: bool) -> bool:
    """One piece a line. ``strict``: only if every line is JSON; False where one is not, and nothing is written."""
    found: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found.append((number, "\n".join(_render(load(line)))))
        except (json.JSONDecodeError, RecursionError):
            if strict:
                return False
            found.append((number, line))
    for number, record in found:
        builder.add(record, line=number)
    return True


def _write(value: Any, builder: Builder) -> None:
    """Small values whole; a large container part by part, its plain members together."""
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, value = stack.pop()
        if path.count(".") + path.count("[") > MAX_DEPTH:
            raise ParseError("damaged JSON file: nested too deeply")
        if not isinstance(value, (dict, list)) or not value or _fits(value):
            builder.add("\n".join(_render(value)), section=path)
            continue
        members = value.items() if isinstance(value, dict) else enumerate(value)
        plain: dict[Any, Any] = {}
        opened: list[tuple[str, Any]] = []
        for key, member in members:
            name = f"{path}[{key}]" if isinstance(value, list) else f"{path}.{key}" if path else str(key)
            if isinstance(member, (dict, list)):
                opened.append((name, member))
            else:
                plain[key] = member
        if isinstance(value, dict):
            builder.add("\n".join(_render(plain)), section=path)
        else:
            items = list(plain.items())
            for first in range(0, len(items), 25):
                some = items[first : first + 25]
                builder.add("\n".join(_render([member for _, member in some])), section=f"{path}[{some[0][0]}]")
        stack.extend(reversed(opened))


def _fits(value: Any) -> bool:
    size = 0
    for line in _render(value):
        size += len(line)
        if size > _PIECE_CHARACTERS:
            return False
    return True


def _render(value: Any) -> Iterator[str]:
    """Indented lines; written without recursion."""
    stack: list[tuple[int, str, Any]] = [(0, "", value)]
    while stack:
        depth, label, value = stack.pop()
        indent = "  " * min(depth, 20)
        if depth > MAX_DEPTH:
            raise ParseError("damaged JSON file: nested too deeply")
        if isinstance(value, (dict, list)) and value:
            inner = depth + 1 if label else depth
            if label:
                yield f"{indent}{label}"
            if isinstance(value, dict):
                members = [(inner, f"{key}:", member) for key, member in value.items()]
            else:
                members = [(inner, "-", member) for member in value]
            stack.extend(reversed(members))
            continue
        text = clean(value).strip() if isinstance(value, str) else _WORDS.get(repr(value), "")
        if text or label.endswith(":"):
            yield f"{indent}{label} {text}".rstrip() if label else text


_WORDS = {"True": "true", "False": "false", "None": "null"}
