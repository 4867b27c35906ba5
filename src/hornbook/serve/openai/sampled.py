"""How an answer is sampled: the fields that chat and completions share, and what they mean to the engine.

    the request's field  >  the model's own parameter (its Modelfile)  >  the API's default

Beside OpenAI's fields stand those that vLLM gave a name: top_k, min_p, repetition_penalty, ignore_eos,
return_token_ids, and guided_* (shapes.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from hornbook.engine.parameters import most_tokens, sampling_fields
from hornbook.serve.openai.faults import RequestFault
from hornbook.serve.openai.fields import Flag, Harmless, Real, StreamOptions, Text, Whole
from hornbook.serve.openai.shapes import Guided
from hornbook.types import SamplingParams

SMALLEST_TOP_P = 1e-9  # for top_p 0, which the API allows: the likeliest token alone
# Where neither request nor model says a word about drawing: a whole distribution at temperature 1, the API's own default, is
# more than a small model's tail can stand. These are what llama.cpp's server and Ollama draw with.
UNSAID = {"temperature": 0.8, "top_k": 40, "top_p": 0.95}
_DRAWING = ("temperature", "top_k", "top_p", "min_p")
_GIVEN = ("temperature", "top_p", "n", "seed", "stop", "frequency_penalty", "presence_penalty", "top_k", "min_p",
          "repetition_penalty", "ignore_eos")  # fmt: skip

Stop = Text | Annotated[list[Text], Field(max_length=64)]


class Tuned(Harmless):
    """What every endpoint that writes lets a client tune."""

    model: Text
    temperature: Annotated[Real, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Real, Field(ge=0, le=1)] | None = None
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**64)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[Real, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Real, Field(ge=0.01, le=10)] | None = None
    stream: Flag = False


class Sampled(Tuned, Guided):
    n: Annotated[Whole, Field(ge=1, le=128)] | None = None
    stop: Stop | None = None
    frequency_penalty: Annotated[Real, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[Real, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[Text, Annotated[Real, Field(ge=-100, le=100)]] | None = None
    max_tokens: Annotated[Whole, Field(ge=1)] | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: Flag | None = None
    return_token_ids: Flag = False

    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        if self.stream_options is not None and not self.stream:
            raise RequestFault("stream_options is for streams", "Set stream, or leave it out.", param="stream_options")
        return self.stream_options is not None and self.stream_options.include_usage


def sampling(
    body: Tuned,
    parameters: Mapping[str, Any],
    *,
    max_tokens: int,
    shape: Mapping[str, Any],
    limit: int | None,
    logprobs: bool = False,
    top_logprobs: int = 0,
) -> SamplingParams:
    """What the engine is asked. parameters: the model's own.  limit: the most tokens that the request allows.
    max_tokens: where neither says how many.

    Raises RequestFault where the values do not go together.
    """
    said = any(getattr(body, name, None) is not None or name in parameters for name in _DRAWING)
    asked: dict[str, Any] = {"max_tokens": max_tokens} | ({"temperature": 1.0} if said else UNSAID)
    asked |= sampling_fields(parameters)
    if (most := most_tokens(parameters)) is not None:
        asked["max_tokens"] = most
    asked |= {name: value for name in _GIVEN if (value := getattr(body, name, None)) is not None}
    if limit is not None:
        asked["max_tokens"] = limit
    asked["top_k"] = max(0, asked.get("top_k", 0))  # -1 is vLLM's word for off
    asked["top_p"] = max(SMALLEST_TOP_P, asked.get("top_p", 1.0))
    try:
        given = body.logit_bias if isinstance(body, Sampled) else None
        bias = {_id(key): value for key, value in (given or {}).items()}
        return SamplingParams(**asked, **shape, logit_bias=bias, logprobs=logprobs, top_logprobs=top_logprobs)
    except ValueError as error:
        raise RequestFault(str(error)) from error


def _id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10):
        raise RequestFault(f"a key of logit_bias is a token's id, not {key[:40]!r}", param="logit_bias")
    return int(key)
