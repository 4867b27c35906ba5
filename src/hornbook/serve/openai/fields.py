"""What the bodies of OpenAI's API share: strict numbers, and three kinds of fields that do nothing here.

    harmless   change no answer (user, metadata, service_tier ...): accepted, checked for form, and passed over
    refused    would change the answer and cannot be honoured: an error that names the field and says why
    unknown    no field of the API at all, most often a slip: an error that names it

A null is a field that was not given, as in the API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, model_validator

from hornbook.serve.openai.faults import RequestFault

Flag = StrictBool
Whole = StrictInt
Text = StrictStr
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Object = dict[str, Any]


class Body(BaseModel):
    """A body, or a part of one. ``refused``: field -> why; a field whose value asks for nothing is let through."""

    model_config = ConfigDict(extra="forbid")

    refused: ClassVar[Mapping[str, str]] = {}
    # field -> its values that ask for what is done anyway
    idle: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        kept: dict[str, Any] = {}
        for name, value in given.items():
            if value is None or (name in cls.idle and value in cls.idle[name]):
                continue
            if name in cls.refused:
                why = cls.refused[name]
                raise RequestFault(
                    f"{name} is not supported by this server: {why}", "Leave it out.", param=name,
                    code="unsupported_parameter",
                )  # fmt: skip
            kept[name] = value
        return kept


class Harmless(Body):
    """Fields of every endpoint that writes, which change no answer: who asks, how it is billed, where it is cached."""

    user: Text | None = None
    metadata: dict[str, Text] | None = None
    store: Flag | None = None
    service_tier: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    prompt_cache_retention: Text | None = None


class StreamOptions(Body):
    refused = {"include_obfuscation": "chunks are not padded to one length"}
    idle = {"include_obfuscation": (False,)}

    include_usage: Flag = False
