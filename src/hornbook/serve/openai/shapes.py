"""The shape that an answer must have, enforced token by token: response_format, and vLLM's guided_* fields.

    response_format {"type": "json_object"}                       any JSON object
                    {"type": "json_schema", "json_schema": ...}   one that satisfies the schema, ``strict`` or not
    guided_json, guided_regex, guided_grammar (Lark's notation), guided_choice

An answer that is cut (finish_reason "length") may lack its end; no other fails its shape.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field

from hornbook.serve.openai.faults import RequestFault
from hornbook.serve.openai.fields import Body, Flag, Object, Text


class NamedSchema(Body):
    name: Annotated[Text, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    description: Text | None = None
    schema_: Annotated[Object, Field(alias="schema")]
    strict: Flag = False


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


class Guided(Body):
    guided_json: Object | Text | None = None
    guided_regex: Text | None = None
    guided_grammar: Text | None = None
    guided_choice: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None


def shape_of(body: Guided, format: ResponseFormat | None = None) -> dict[str, Any]:
    """The fields of SamplingParams that say the shape; {} for plain text. Raises RequestFault for more than one."""
    found: dict[str, dict[str, Any]] = {}
    if format is not None and format.type == "json_schema":
        if format.json_schema is None:
            what = "response_format of type json_schema needs a json_schema"
            raise RequestFault(what, "Give its name and schema.", param="response_format.json_schema")
        found["response_format"] = {"schema": format.json_schema.schema_}
    elif format is not None and format.json_schema is not None:
        what = f"response_format has a json_schema but is of type {format.type}"
        raise RequestFault(what, "Set its type to json_schema.", param="response_format.type")
    elif format is not None and format.type == "json_object":
        found["response_format"] = {"schema": True}
    if body.guided_json is not None:
        found["guided_json"] = {"schema": body.guided_json}
    if body.guided_regex is not None:
        found["guided_regex"] = {"regex": body.guided_regex}
    if body.guided_grammar is not None:
        found["guided_grammar"] = {"grammar": body.guided_grammar}
    if body.guided_choice is not None:
        if not all(body.guided_choice):
            raise RequestFault("a choice of guided_choice is empty", param="guided_choice")
        found["guided_choice"] = {"regex": "|".join(_literal(text) for text in body.guided_choice)}
    if len(found) > 1:
        what = f"an answer has one shape, and {' and '.join(found)} each ask for one"
        raise RequestFault(what, "Leave all but one out.", param=list(found)[1])
    return next(iter(found.values()), {})


def _literal(text: str) -> str:
    """A regex that matches the text and nothing else."""
    return re.sub(r"[\\.+*?()|\[\]{}^$#&~-]", r"\\\g<0>", text)
