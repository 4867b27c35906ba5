"""Random JSON schemas over everything that an answer can be held to, and a stranger's judgement of an answer."""

from __future__ import annotations

import datetime
import decimal
import json
import random
from decimal import Decimal
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

PATTERNS = [
    "^[a-z]{2,5}$", "^\\d{3}-\\d{4}$", "b+", "^(ab|cd)*$", "[一-龥]{1,3}$", "^\\w+@\\w+\\.com$", "^[^\\s\"]{1,8}$",
]  # fmt: skip
FORMATS = ["date", "time", "date-time", "email", "hostname", "ipv4", "ipv6", "uuid", "duration", "uri"]
NAMES = ["name", "age", "名前", "a b", 'q"t', "x", "id", "tags"]
LEAVES = ["string", "integer", "number", "boolean", "null", "enum", "const", "types"]
TREES = ["object"] * 4 + ["array"] * 3 + ["anyOf", "oneOf", "allOf"]


def random_schema(seed: int) -> dict[str, Any]:
    r = random.Random(seed)
    named = ["node", "leaf"] if r.random() < 0.3 else []
    schema = _schema(r, r.randint(1, 3), named)
    if named:
        tail = {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
        node = _object({"v": _schema(r, 0, []), "next": tail}, ["v"], False)
        schema = {**schema, "$defs": {"leaf": _schema(r, 0, []), "node": node}}
    return schema


def _schema(r: random.Random, depth: int, named: list[str]) -> dict[str, Any]:
    kind = r.choice(LEAVES + (TREES if depth else []) + (["ref"] if named else []))
    if kind == "string":
        return {"type": "string"} | _string(r)
    if kind in ("integer", "number"):
        return {"type": kind} | _number(r, kind == "integer")
    if kind == "enum":
        return {"enum": r.sample([1, -2.5, "red", "蓝", "", None, True, [1, 2], {"k": "v"}], r.randint(1, 4))}
    if kind == "const":
        return {"const": r.choice([0, "fixed", "é\n", {"a": [1]}, [], False, 1e3])}
    if kind == "types":
        return {"type": r.sample(["string", "integer", "boolean", "null"], 2), "maxLength": 6, "minimum": 0}
    if kind == "ref":
        return {"$ref": f"#/$defs/{r.choice(named)}"}
    if kind == "anyOf":
        return {"anyOf": [_schema(r, depth - 1, named) for _ in range(r.randint(1, 3))]}
    if kind == "oneOf":
        return {
            "oneOf": [_object({"kind": {"const": c}, "v": _schema(r, depth - 1, named)}, ["kind"], False) for c in "ab"]
        }
    if kind == "allOf":
        left = {"type": "object", "properties": {"p": _schema(r, 0, named)}, "required": ["p"]}
        objects = [left, {"type": "object", "properties": {"q": {"type": "integer"}}}]
        return {"allOf": r.choice([objects, [{"type": "string", "minLength": 1}, {"maxLength": 7}]])}
    if kind == "array":
        return {"type": "array", "maxItems": r.randint(2, 4)} | _array(r, depth, named)
    if kind == "object":
        names = r.sample(NAMES, r.randint(0, 4))
        fields = {name: _schema(r, depth - 1, named) for name in names}
        others = r.choice([False, False, False, None, _schema(r, 0, [])])
        schema = _object(fields, r.sample(names, r.randint(0, len(names))), others)
        if others is False and r.random() < 0.2:
            schema["patternProperties"] = {"^z_[a-z]$": _schema(r, 0, [])}
        return schema
    return {"type": kind}


def _object(fields: dict[str, Any], required: list[str], others: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": fields, "required": required}
    return schema if others is None else {**schema, "additionalProperties": others}


def _string(r: random.Random) -> dict[str, Any]:
    kind = r.random()
    if kind < 0.25:
        return {"pattern": r.choice(PATTERNS)}
    if kind < 0.5:
        return {"format": r.choice(FORMATS)}
    return {"maxLength": r.randint(3, 12)} | ({"minLength": r.randint(0, 3)} if r.random() < 0.5 else {})


def _number(r: random.Random, whole: bool) -> dict[str, Any]:
    low = r.choice([0, -5, 1, 100, -1000, 12345] if whole else [0, -0.5, 1.25, 1, -100, 3.14159])
    high = low + (r.randint(6, 500) if whole else r.choice([1, 0.5, 0.25, 1000]))
    schema: dict[str, Any] = {}
    if r.random() < 0.7:
        schema[r.choice(["minimum", "exclusiveMinimum"])] = low
    if r.random() < 0.7:
        schema[r.choice(["maximum", "exclusiveMaximum"])] = high
    if r.random() < 0.2 and (whole or high - low >= 1):
        schema["multipleOf"] = r.choice([2, 5] if whole else [0.5, 0.25])
    return schema


def _array(r: random.Random, depth: int, named: list[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    if r.random() < 0.8:
        schema["items"] = _schema(r, depth - 1, named)
    if r.random() < 0.2:
        schema["prefixItems"] = [_schema(r, 0, named) for _ in range(2)]
    if r.random() < 0.5:
        schema["minItems"] = r.randint(0, 2)
    return schema


# -------------------------------------------------------------------------------------------------------- judgement

FORMAT_CHECKER = FormatChecker(["date", "email", "ipv4", "ipv6", "uuid"])


@FORMAT_CHECKER.checks("date-time", raises=ValueError)
def _is_date_time(value: Any) -> bool:
    return not isinstance(value, str) or bool(datetime.datetime.fromisoformat(_short(value).upper()))


@FORMAT_CHECKER.checks("time", raises=ValueError)
def _is_time(value: Any) -> bool:
    return not isinstance(value, str) or bool(datetime.time.fromisoformat(_short(value).upper()) is not None)


def _short(value: str) -> str:
    """Python reads at most six digits of a second."""
    before, dot, after = value.partition(".")
    digits = len(after) - len(after.lstrip("0123456789"))
    return before + dot + after[: min(digits, 6)] + after[digits:]


def complaint(text: str, schema: dict[str, Any]) -> str | None:
    """What is wrong with an answer, None where it is valid. Numbers are the decimals that stand there."""
    with decimal.localcontext(decimal.Context(prec=1000)):
        exact = json.loads(json.dumps(schema), parse_float=Decimal)
        try:
            value = json.loads(text, parse_float=Decimal)
        except ValueError as error:
            return f"no JSON: {error}"
        error = next(iter(Draft202012Validator(exact, format_checker=FORMAT_CHECKER).iter_errors(value)), None)
    return error and error.message
