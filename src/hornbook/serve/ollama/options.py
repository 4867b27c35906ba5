"""Ollama's options -> what the engine is asked for. A request's win over those of a created model, those over Ollama's defaults.

Three of Ollama's defaults are not taken over: num_ctx is the model's whole context, repeat_penalty is off, and where it is on
it looks at the whole context, unless repeat_last_n says otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hornbook.checkpoint.modelfile import Value, parameter
from hornbook.engine.parameters import most_tokens, number, sampling_fields
from hornbook.errors import ContextTooLong, UsageError
from hornbook.serve.ollama.bodies import Asking
from hornbook.types import SamplingParams

DEFAULTS: Mapping[str, Value] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "num_predict": -1, "num_keep": 4}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class Wanted:
    """``context``: tokens that prompt and answer may have together."""

    values: Mapping[str, Value]
    context: int

    @property
    def predict(self) -> int | None:
        """The most tokens of the answer; None: until the context is full."""
        return most_tokens(self.values)

    def room(self, truncate: bool) -> int:
        """Tokens that a prompt must leave. One that is cut leaves room for an answer worth the name."""
        if not truncate:
            return 1
        return max(1, min(self.predict or self.context // 4, self.context // 2))

    def cut(self, ids: list[int], room: int, truncate: bool) -> tuple[list[int], int]:
        """(the ids that fit, how many were left out): the first num_keep stay and the last. Raises ContextTooLong with counts."""
        most = self.context - room
        if len(ids) <= most:
            return ids, 0
        keep = int(number(self.values, "num_keep"))
        if not truncate or not 0 <= keep < most:
            why = f", and num_keep {keep} leaves nothing to cut" if truncate else ""
            raise ContextTooLong(
                f"the prompt has {len(ids):,} tokens and the answer needs {room:,}; the context holds {self.context:,}{why}",
                'Shorten it, or send "truncate": true.',
            )
        return [*ids[:keep], *ids[len(ids) - (most - keep) :]], len(ids) - most

    def params(self, body: Asking, prompt_tokens: int) -> SamplingParams:
        """Raises UsageError."""
        left = max(1, self.context - prompt_tokens)
        schema = True if body.format == "json" else body.format or None
        try:
            return SamplingParams(
                **sampling_fields(self.values),
                max_tokens=min(self.predict or left, left),
                logprobs=body.logprobs,
                top_logprobs=body.top_logprobs if body.logprobs else 0,
                schema=schema,
            )
        except ValueError as error:
            raise UsageError(str(error), "Correct the options.") from error


def wanted(options: Mapping[str, Any], own: Mapping[str, Any], context_length: int) -> Wanted:
    """``own``: the created model's parameters. Raises UsageError for an option that cannot be honoured, by its name."""
    given = {name: parameter(name, value) for name, value in options.items() if value is not None}
    values: dict[str, Value] = {**DEFAULTS, **own, **given}
    context = values.get("num_ctx", context_length)
    assert isinstance(context, int)
    return Wanted(values, min(context, context_length))


def seconds(keep_alive: int | float | str | None) -> float | None:
    """Ollama's keep_alive: seconds, or Go's duration ("5m", "1h30m"); below zero: for ever, here -1. Raises UsageError."""
    if keep_alive is None:
        return None
    number = _seconds(keep_alive.strip()) if isinstance(keep_alive, str) else float(keep_alive)
    if number is None or not math.isfinite(number):
        raise UsageError(f"keep_alive {str(keep_alive)[:40]!r} is no duration", 'Give seconds, "5m", "1h30m", 0 or -1.')
    return -1.0 if number < 0 else number


def _seconds(text: str) -> float | None:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if re.fullmatch(r"\d{1,15}(\.\d{1,9})?", digits):
        return sign * float(digits)
    if not digits or len(digits) > 60 or not re.fullmatch(f"(?:{_DURATION.pattern})+", digits):
        return None
    return sign * sum(float(amount) * _UNITS[unit] for amount, unit in _DURATION.findall(digits))
