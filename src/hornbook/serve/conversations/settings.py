"""What a reply is asked with: the model, the documents, the system text, how the next token is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hornbook.engine.parameters import most_tokens, sampling_fields
from hornbook.types import SamplingParams

# What people know from other programs of this kind; the engine's own default (greedy) tires in a conversation.
USUAL: Mapping[str, Any] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.9,
    "repetition_penalty": 1.1,
    "max_tokens": 1024,
}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Sampling(Body):
    """None: the model's own, else the usual one."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=0, le=1000)
    min_p: float | None = Field(default=None, ge=0, le=1)
    repetition_penalty: float | None = Field(default=None, ge=0.5, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    seed: int | None = Field(default=None, ge=0, le=2**53)
    stop: list[Annotated[str, Field(min_length=1, max_length=100)]] | None = Field(default=None, max_length=8)


class ReplySettings(Body):
    """Kept with the conversation. ``model`` None: the server's own; ``collection`` None: the model alone answers."""

    model: str | None = Field(default=None, min_length=1, max_length=300)
    collection: str | None = Field(default=None, min_length=1, max_length=100)
    system: str = Field(default="", max_length=100_000)
    sampling: Sampling = Field(default_factory=Sampling)


def params_of(sampling: Sampling, own: Mapping[str, Any]) -> SamplingParams:
    """The parameters of a reply; ``own``: a created model's, as its Modelfile names them."""
    values = {**USUAL, **sampling_fields(own)}
    if (most := most_tokens(own)) is not None:
        values["max_tokens"] = most
    return SamplingParams(**values | sampling.model_dump(exclude_none=True), logprobs=False)
