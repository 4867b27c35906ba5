"""Does a value satisfy a JSON schema? What a tool was called with is judged here, and what is wrong is said in a line.

    fault({"city": 5}, schema)   -> "city: 5 is not a string"
    fault({"city": "Oslo"}, schema) -> None

JSON Schema 2020-12 (json-schema.org/draft/2020-12), the keywords that tools' schemas use; those that it calls annotations, format
among them, are not judged. A reference that leads out of the schema raises UsageError.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hornbook.errors import UsageError

_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "integer": lambda v: not isinstance(v, bool) and (isinstance(v, int) or (isinstance(v, float) and v.is_integer())),
}
_DEEPEST = 200  # references in references; a schema may name itself


def fault(value: Any, schema: Any) -> str | None:
    """The first thing that is wrong with a value, None where it satisfies the schema."""
    return next(_faults(value, schema, schema, "", 0), None)


def _faults(value: Any, schema: Any, root: Any, at: str, depth: int) -> Iterator[str]:
    if schema is True or schema == {}:
        return
    if not isinstance(schema, Mapping):
        yield f"{at or 'it'}: nothing is allowed here"
        return
    if depth > _DEEPEST:
        raise UsageError("the JSON schema's references go round", "Let each name something smaller.")

    def inside(part: Any, other: Any, place: str = at) -> Iterator[str]:
        return _faults(part, other, root, place, depth + 1)

    def fits(other: Any) -> bool:
        return next(inside(value, other), None) is None

    where = f"{at}: " if at else ""
    if "$ref" in schema:
        yield from inside(value, _resolved(schema["$ref"], root))
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
    for part in schema.get("allOf", ()):
        yield from inside(value, part)
    if "anyOf" in schema and not any(map(fits, schema["anyOf"])):
        yield f"{where}{_shown(value)} fits none of what it may be"
    if "oneOf" in schema and (count := sum(map(fits, schema["oneOf"]))) != 1:
        yield f"{where}{_shown(value)} fits {count} of what it must be exactly one of"
    if "not" in schema and fits(schema["not"]):
        yield f"{where}{_shown(value)} is what it must not be"
    if "if" in schema:
        yield from inside(value, schema.get("then" if fits(schema["if"]) else "else", True))
    judge = _of_kind(value)
    if judge is not None:
        yield from judge(value, schema, where, inside, at)


def _of_kind(value: Any) -> Callable[..., Iterator[str]] | None:
    if isinstance(value, dict):
        return _object
    if isinstance(value, list):
        return _array
    if isinstance(value, str):
        return _string
    return _number if _TYPES["number"](value) else None


def _object(value: dict[str, Any], schema: Mapping[str, Any], where: str, inside: Any, at: str) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where}{name!r} is missing"
    for name, others in schema.get("dependentRequired", {}).items():
        yield from (f"{where}{name!r} needs {other!r}" for other in others if name in value and other not in value)
    yield from _counted(len(value), schema, "minProperties", "maxProperties", where, "properties")
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, part in value.items():
        place = f"{at}.{name}" if at else name
        if name in known:
            yield from inside(part, known[name], place)
        matching = [other for pattern, other in patterns.items() if re.search(pattern, name)]
        for other in matching:
            yield from inside(part, other, place)
        if name not in known and not matching and "additionalProperties" in schema:
            if schema["additionalProperties"] is False:
                yield f"{where}{name!r} is not one of its properties"
            else:
                yield from inside(part, schema["additionalProperties"], place)
        yield from inside(name, schema.get("propertyNames", True), place)


def _array(value: list[Any], schema: Mapping[str, Any], where: str, inside: Any, at: str) -> Iterator[str]:
    yield from _counted(len(value), schema, "minItems", "maxItems", where, "items")
    items = schema.get("items", True)
    first, rest = (items, schema.get("additionalItems", True)) if isinstance(items, list) else (
        schema.get("prefixItems", []), items
    )  # fmt: skip
    for place, part in enumerate(value):
        yield from inside(part, first[place] if place < len(first) else rest, f"{at}[{place}]")
    if schema.get("uniqueItems") and any(_same(a, b) for i, a in enumerate(value) for b in value[:i]):
        yield f"{where}two of its items are the same"
    if "contains" in schema:
        count = sum(next(inside(part, schema["contains"]), None) is None for part in value)
        if not schema.get("minContains", 1) <= count <= schema.get("maxContains", math.inf):
            yield f"{where}{count} of its items are what it must contain"


def _string(value: str, schema: Mapping[str, Any], where: str, _: Any, __: str) -> Iterator[str]:
    yield from _counted(len(value), schema, "minLength", "maxLength", where, "characters")
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{where}{_shown(value)} does not match {schema['pattern']}"


def _number(value: float, schema: Mapping[str, Any], where: str, _: Any, __: str) -> Iterator[str]:
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


def _counted(count: int, schema: Mapping[str, Any], low: str, high: str, where: str, what: str) -> Iterator[str]:
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
