"""What of JSON Schema an answer can be held to: a keyword that is not in these tables is refused by its name.

JSON Schema says that an unknown keyword is an annotation. Here it is an error, because a misspelt ``requried`` or an
OpenAPI ``nullable`` would otherwise be dropped in silence. Keywords whose name begins with "x-" are a person's own.

Two things are said more narrowly than they were meant, so that what the automaton lets through is never wrong:

    * A whole number as an exclusive bound of numbers (not of integers) is moved inwards by a billionth: llguidance 1.9
      forgets it where the other bound lies in the same unit, and would let 0 pass for 0 < x <= 0.5.
    * Dates are those of the calendar, from year 1 on, and times have no leap second: a format alone lets 2023-02-29 pass.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from hornbook.errors import UsageError

_ONE = frozenset(["items", "additionalItems", "additionalProperties"])  # a schema each
_MANY = frozenset(["anyOf", "oneOf", "allOf", "prefixItems", "items"])  # a list of schemas
_NAMED = frozenset(["properties", "patternProperties", "$defs", "definitions"])  # schemas by name
_PLAIN = frozenset(
    ["type", "enum", "const", "$ref", "required"]
    + ["minItems", "maxItems", "minProperties", "maxProperties"]
    + ["minLength", "maxLength", "pattern", "format"]
    + ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]
)
_SAID = frozenset(  # what only says something
    ["$schema", "$id", "id", "$anchor", "$comment", "title", "description", "default", "example", "examples"]
    + ["deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding", "contentSchema", "discriminator"]
)
_ESCAPED = frozenset("\b\t\n\f\r")  # control characters that JSON can write without \u

_LEAP_YEAR = "(\\d\\d(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_YEAR = "(\\d{3}[1-9]|\\d\\d[1-9]\\d|\\d[1-9]\\d\\d|[1-9]\\d{3})"
_DAY = "((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02-(0[1-9]|1\\d|2[0-8]))"
_DATE = f"({_YEAR}-{_DAY}|{_LEAP_YEAR}-02-29)"
_TIME = "\\d\\d:\\d\\d:[0-5]\\d"
_NARROWED = {"date": f"^{_DATE}$", "date-time": f"^{_DATE}[Tt]{_TIME}", "time": f"^{_TIME}"}


def prepared(text: str) -> str:
    """The JSON text of a schema, narrowed as above; raises UsageError with the place of what cannot be honoured."""
    try:
        schema = json.loads(text)
        for where, what, remedy in _faults(schema, "#"):
            raise UsageError(f"the JSON schema cannot be honoured: {what} at {where}", remedy)
        return json.dumps(_narrowed(schema), ensure_ascii=False)
    except RecursionError:
        raise UsageError("the JSON schema is nested too deeply", "Name its parts in '$defs'.") from None


def _faults(schema: Any, where: str) -> Iterator[tuple[str, str, str]]:
    """(place, what, remedy) of everything that is refused in a schema and those inside it."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield where, f"{json.dumps(schema)[:40]} is not a schema", "A schema is an object, true or false."
        return
    for key, value in schema.items():
        if key in ("const", "enum") and _has_control(value):
            yield where, f"{key!r} with control characters", "Take them out."
        elif key in ("exclusiveMinimum", "exclusiveMaximum") and isinstance(value, bool):
            yield where, f"the old form of {key!r}", "Give the bound itself, as drafts since 6 do."
        elif key in _NAMED and not isinstance(value, dict):
            yield where, f"{key!r} is not an object", "It holds schemas by name."
        elif key == "properties" and _has_control(list(value)):
            yield where, "a property's name with control characters", "Take them out."
        elif key not in _KNOWN and (key == "x-guidance" or not key.startswith("x-")):
            yield where, f"the keyword {key!r}", "Take it out, or say it in another way; see docs/python.md."
    for place, part in parts(schema):
        yield from _faults(part, "/".join([where, *map(str, place)]))
    fewest = schema.get("minProperties")
    if isinstance(fewest, int) and fewest > max(1, len(set(schema.get("required") or ()))):
        # Names that the schema leaves open may come twice, and count once.
        yield where, "'minProperties' of more than one beyond those required", "Name the properties in 'required'."


_KNOWN = _ONE | _MANY | _NAMED | _PLAIN | _SAID


def parts(schema: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """(path, schema) of the schemas that stand directly in this one."""
    for key, value in schema.items():
        if key in _MANY and isinstance(value, list):
            yield from (((key, number), part) for number, part in enumerate(value))
        elif key in _NAMED and isinstance(value, dict):
            yield from (((key, name), part) for name, part in value.items())
        elif key in _ONE:
            yield (key,), value


def _narrowed(schema: Any) -> Any:
    if isinstance(schema, bool):
        return schema
    out = dict(schema)
    for (key, *rest), part in parts(schema):
        if not rest:
            out[key] = _narrowed(part)
            continue
        if out[key] is schema[key]:
            out[key] = schema[key].copy()
        out[key][rest[0]] = _narrowed(part)
    for key, inwards in (("exclusiveMinimum", 1), ("exclusiveMaximum", -1)):
        bound = schema.get(key)
        if isinstance(bound, (int, float)) and bound == math.floor(bound) and schema.get("type") != "integer":
            moved = bound + inwards * 1e-9
            out[key] = moved if moved != bound else math.nextafter(bound, inwards * math.inf)
    pattern = _NARROWED.get(schema["format"]) if isinstance(schema.get("format"), str) else None
    if pattern and "pattern" in schema:
        out["allOf"] = [*out.get("allOf", ()), {"pattern": pattern}]
    elif pattern:
        out["pattern"] = pattern
    return out


def _has_control(value: Any) -> bool:
    if isinstance(value, str):
        return any(character < " " and character not in _ESCAPED for character in value)
    if isinstance(value, dict):
        return any(_has_control(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(map(_has_control, value))
