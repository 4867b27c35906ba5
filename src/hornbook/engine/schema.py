"""What of JSON Schema an answer can be held to: a keyword that is not in these tables is refused by its name.

JSON Schema says that an unknown keyword is an annotation. Here it is an error, because a misspelt ``requried`` or an
OpenAPI ``nullable`` would otherwise be dropped in silence. Keywords whose name begins with "x-" are a person's own.
"""

from __future__ import annotations

import json
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


def checked_schema(text: str) -> str:
    """The JSON text of a schema, if it has nothing that cannot be honoured; raises UsageError with the place."""
    schema = json.loads(text)
    for where, what, remedy in _faults(schema, "#"):
        raise UsageError(f"the JSON schema cannot be honoured: {what} at {where}", remedy)
    return text


def _faults(schema: Any, where: str) -> Iterator[tuple[str, str, str]]:
    """(place, what, remedy) of everything that is refused in a schema and those inside it."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield where, f"{json.dumps(schema)[:40]} is not a schema", "A schema is an object, true or false."
        return
    for key, value in schema.items():
        place = f"{where}/{key}"
        if key in _MANY and isinstance(value, list):
            for number, part in enumerate(value):
                yield from _faults(part, f"{place}/{number}")
        elif key in _ONE:
            yield from _faults(value, place)
        elif key in _NAMED:
            if not isinstance(value, dict):
                yield where, f"{key!r} is not an object", "It holds schemas by name."
                continue
            for name, part in value.items():
                yield from _faults(part, f"{place}/{name}")
                if key == "properties" and _has_control(name):
                    yield place, "a name with control characters", "Take them out."
        elif key in ("const", "enum") and _has_control(value):
            yield where, f"{key!r} with control characters", "Take them out."
        elif key not in _PLAIN and key not in _SAID and (key == "x-guidance" or not key.startswith("x-")):
            yield where, f"the keyword {key!r}", "Take it out, or say it in another way; see docs/python.md."
    fewest = schema.get("minProperties")
    if isinstance(fewest, int) and fewest > max(1, len(set(schema.get("required") or ()))):
        # Names that the schema leaves open may come twice, and count once.
        yield where, "'minProperties' of more than one beyond those required", "Name the properties in 'required'."


def _has_control(value: Any) -> bool:
    if isinstance(value, str):
        return any(character < " " and character not in _ESCAPED for character in value)
    if isinstance(value, dict):
        return any(_has_control(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(map(_has_control, value))
