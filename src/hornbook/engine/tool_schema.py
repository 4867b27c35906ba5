"""Does a value satisfy a JSON schema? What a tool was called with is judged here, and what is wrong is said in a line.

    fault({"city": 5}, schema)   -> "city: 5 is not a string"
    fault({"city": "Oslo"}, schema) -> None

JSON Schema 2020-12 (json-schema.org/draft/2020-12), the keywords that tools' schemas use. Not judged are those that it calls
annotations, format among them, and regular expressions: whoever sends both a schema and a prompt could make a matcher that
goes back and forth run for ever. A grammar holds an answer to them without that risk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hornbook.errors import UsageError

Faults: TypeAlias = Iterator[str]

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "integer": lambda v: not isinstance(v, bool) and (isinstance(v, int) or (isinstance(v, float) and v.is_integer())),
}
_MOST = 20_000  # schemas that are looked at for one value: a schema may name itself, or double at every step


def fault(value: Any, schema: Any) -> str | None:
    """The first thing that is wrong with a value, None where it satisfies the schema.

    Raises UsageError for a reference that leads nowhere or goes round.
    """
    try:
        return next(_Judge(schema).faults(value, schema, ""), None)
    except RecursionError:
        raise UsageError("the JSON schema or the value is nested too deeply", "Make it flatter.") from None


@dataclass
class _Judge:
    """``root``: what references are of. ``left``: how many schemas may still be looked at."""

    root: Any
    left: int = _MOST

    def faults(self, value: Any, schema: Any, at: str) -> Faults:
        self.left -= 1
        if self.left < 0:
            raise UsageError(
                f"the JSON schema asks for more than {_MOST:,} looks", "Let its references name something smaller."
            )
        if schema is True or schema == {}:
            return
        where = f"{at}: " if at else ""
        if not isinstance(schema, Mapping):
            yield f"{at or 'it'}: nothing is allowed here"
            return
        if "$ref" in schema:
            yield from self.faults(value, _resolved(schema["$ref"], self.root), at)
        types = schema.get("type")
        if types is not None:
            named = [types] if isinstance(types, str) else list(types)
            if not any(_TYPES[name](value) for name in named if name in _TYPES):
                yield f"{where}{_shown(value)} is not {_a(' or '.join(named))}"
                return
        if "const" in schema and not _same(value, schema["const"]):
            yield f"{where}{_shown(value)} is not {_shown(schema['const'])}"
        if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
            yield f"{where}{_shown(value)} is none of {', '.join(map(_shown, schema['enum']))}"
        yield from self._combined(value, schema, at, where)
        if isinstance(value, dict):
            yield from self._object(value, schema, at, where)
        elif isinstance(value, list):
            yield from self._array(value, schema, at, where)
        elif isinstance(value, str):
            yield from _counted(len(value), schema, "minLength", "maxLength", where, "characters")
        elif _TYPES["number"](value):
            yield from _number(value, schema, where)

    def fits(self, value: Any, schema: Any) -> bool:
        return next(self.faults(value, schema, ""), None) is None

    def _combined(self, value: Any, schema: Mapping[str, Any], at: str, where: str) -> Faults:
        for part in schema.get("allOf", ()):
            yield from self.faults(value, part, at)
        if "anyOf" in schema and not any(self.fits(value, part) for part in schema["anyOf"]):
            yield f"{where}{_shown(value)} fits none of what it may be"
        if "oneOf" in schema and (count := sum(self.fits(value, part) for part in schema["oneOf"])) != 1:
            yield f"{where}{_shown(value)} fits {count} of what it must be exactly one of"
        if "not" in schema and self.fits(value, schema["not"]):
            yield f"{where}{_shown(value)} is what it must not be"
        if "if" in schema:
            yield from self.faults(value, schema.get("then" if self.fits(value, schema["if"]) else "else", True), at)

    def _object(self, value: dict[str, Any], schema: Mapping[str, Any], at: str, where: str) -> Faults:
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{where}{name!r} is missing"
        for name, others in schema.get("dependentRequired", {}).items():
            yield from (f"{where}{name!r} needs {other!r}" for other in others if name in value and other not in value)
        yield from _counted(len(value), schema, "minProperties", "maxProperties", where, "properties")
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name, part in value.items():
            place = f"{at}.{name}" if at else name
            if name in known:
                yield from self.faults(part, known[name], place)
            elif others is False and not schema.get("patternProperties"):
                yield f"{where}{name!r} is not one of its properties"
            elif not schema.get("patternProperties"):
                yield from self.faults(part, others, place)
            yield from self.faults(name, schema.get("propertyNames", True), place)

    def _array(self, value: list[Any], schema: Mapping[str, Any], at: str, where: str) -> Faults:
        yield from _counted(len(value), schema, "minItems", "maxItems", where, "items")
        first, rest = schema.get("prefixItems", []), schema.get("items", True)
        if isinstance(rest, list):  # as drafts before 2020-12 have it
            first, rest = rest, schema.get("additionalItems", True)
        for place, part in enumerate(value):
            yield from self.faults(part, first[place] if place < len(first) else rest, f"{at}[{place}]")
        if schema.get("uniqueItems") and any(_same(a, b) for i, a in enumerate(value) for b in value[:i]):
            yield f"{where}two of its items are the same"
        if "contains" in schema:
            count = sum(self.fits(part, schema["contains"]) for part in value)
            if not schema.get("minContains", 1) <= count <= schema.get("maxContains", math.inf):
                yield f"{where}{count} of its items are what it must contain"


def _number(value: float, schema: Mapping[str, Any], where: str) -> Faults:
    bounds: dict[str, tuple[Callable[[float], bool], str]] = {
        "minimum": (lambda b: value >= b, "less than"),
        "maximum": (lambda b: value <= b, "more than"),
        "exclusiveMinimum": (lambda b: value > b, "not more than"),
        "exclusiveMaximum": (lambda b: value < b, "not less than"),
    }
    for key, (holds, word) in bounds.items():
        if key in schema and not holds(schema[key]):
            yield f"{where}{_shown(value)} is {word} {schema[key]}"
    step = schema.get("multipleOf")
    if step and abs(value / step - round(value / step)) > 1e-9:
        yield f"{where}{_shown(value)} is no multiple of {step}"


def _counted(count: int, schema: Mapping[str, Any], low: str, high: str, where: str, what: str) -> Faults:
    if count < schema.get(low, 0):
        yield f"{where}{count} {what}, at least {schema[low]} are needed"
    if count > schema.get(high, math.inf):
        yield f"{where}{count} {what}, at most {schema[high]} are allowed"


def _same(a: Any, b: Any) -> bool:
    """Equality as JSON has it: 1 is 1.0, and true is neither."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


def _resolved(reference: str, root: Any) -> Any:
    part = root
    try:
        if not reference.startswith("#"):
            raise KeyError(reference)
        for step in filter(None, reference[1:].split("/")):
            name = step.replace("~1", "/").replace("~0", "~")
            part = part[int(name)] if isinstance(part, list) else part[name]
    except (KeyError, IndexError, ValueError, TypeError):
        raise UsageError(f"the JSON schema has nothing at {reference!r}", "Name its parts in '$defs'.") from None
    return part


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _a(kind: str) -> str:
    return f"an {kind}" if kind[:1] in "aeiou" else f"a {kind}"
