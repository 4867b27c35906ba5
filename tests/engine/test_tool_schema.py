"""Arguments are judged as jsonschema judges them, and what is wrong is said in words."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from random_schemas import random_schema

from hornbook.engine.tool_schema import fault
from hornbook.errors import UsageError

VALUES: list[Any] = [
    *[None, True, False, 0, 1, -5, 2.5, 1.0, 100, "", "red", "ab", "abcd", "蓝", "2024-02-29", "z", [], [1], [1, 2]],
    *[["a", 1], {}, {"k": "v"}, {"kind": "a", "v": 1}, {"p": 1, "q": 2}, {"name": "x", "age": 3}, {"a": [1]}],
]
WORDS: list[tuple[Any, Any, str | None]] = [
    ({"city": 5}, {"properties": {"city": {"type": "string"}}}, "city: 5 is not a string"),
    ({}, {"required": ["city"]}, "'city' is missing"),
    ({"a": [1, {"b": 3}]}, {"properties": {"a": {"items": {"properties": {"b": {"enum": [1, 2]}}}}}}, "a[1].b: 3 is none of 1, 2"),
    ({"x": 1}, {"additionalProperties": False}, "'x' is not one of its properties"),
    (["a", "a"], {"uniqueItems": True}, "two of its items are the same"),
    (True, {"type": "integer"}, "true is not an integer"),
    (1.0, {"type": "integer"}, None),
    (1, {"const": True}, "1 is not true"),
    (7, {"multipleOf": 2, "maximum": 5}, "7 is more than 5"),
    ({"a": 1}, {"not": {"required": ["a"]}}, '{"a": 1} is what it must not be'),
    ({"a": 1}, {"if": {"required": ["a"]}, "then": {"required": ["b"]}}, "'b' is missing"),
    ([3], {"contains": {"type": "string"}}, "0 of its items are what it must contain"),
    ({"a": 1}, {"dependentRequired": {"a": ["b"]}}, "'a' needs 'b'"),
    ({"a": 1}, False, "it: nothing is allowed here"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "schema", "expected"), WORDS)
def test_what_is_wrong_is_said(value: Any, schema: Any, expected: str | None) -> None:
    assert fault(value, schema) == expected
    assert Draft202012Validator(schema).is_valid(value) == (expected is None)


def test_a_decimal_is_a_multiple_of_another_also_where_floats_say_it_is_not() -> None:
    assert fault(0.3, {"multipleOf": 0.1}) is None
    assert fault(0.35, {"multipleOf": 0.1}) == "0.35 is no multiple of 0.1"


def test_judges_as_jsonschema_does() -> None:
    r = random.Random(7)
    good = 0
    for seed in range(250):
        schema = without_patterns(random_schema(seed))
        validator = Draft202012Validator(schema)
        for value in [*VALUES, *(made(r, schema) for _ in range(6))]:
            expected = validator.is_valid(value)
            good += expected
            assert (fault(value, schema) is None) == expected, (schema, value)
    assert good > 500


def without_patterns(schema: Any) -> Any:
    """Regular expressions are not judged."""
    if isinstance(schema, list):
        return list(map(without_patterns, schema))
    if not isinstance(schema, dict):
        return schema
    return {key: without_patterns(part) for key, part in schema.items() if key not in ("pattern", "patternProperties")}


def test_no_schema_makes_the_judge_run_for_ever() -> None:
    assert fault("a" * 40 + "!", {"pattern": "^(a+)+$", "patternProperties": {"(a+)+$": False}}) is None
    assert fault({"a" * 40 + "!": 1}, {"patternProperties": {"^(a+)+$": False}, "additionalProperties": False}) is None
    doubled = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(60)} | {"d60": {"const": 1}}
    with pytest.raises(UsageError, match="more than 20,000"):
        fault(2, {"$ref": "#/$defs/d0", "$defs": doubled})
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"items": deep}
    assert fault(5, deep) is None


def made(r: random.Random, schema: Any) -> Any:
    """A value that is near the schema."""
    value: dict[str, Any] = {}
    for name, part in schema.get("properties", {}).items():
        if r.random() < 0.8:
            value[name] = r.choice([made(r, part) if "properties" in part else None, *VALUES])
            for key in ("const", "enum"):
                if key in part and r.random() < 0.8:
                    value[name] = copy.deepcopy(part[key] if key == "const" else part[key][0])
    return value if schema.get("type") == "object" else r.choice([value, [value], *VALUES])


def test_references_are_followed_and_end() -> None:
    tree = {"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}}}
    assert fault({"next": {"next": {}}}, tree) is None
    assert fault({"next": {"next": 1}}, tree) == "next.next: 1 is not an object"
    for bad in ({"$ref": "#"}, {"$ref": "http://example.org/x"}, {"$ref": "#/$defs/none"}):
        with pytest.raises(UsageError):
            fault(1, bad)
