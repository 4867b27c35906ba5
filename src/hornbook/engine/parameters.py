"""A Modelfile's parameters, which are Ollama's options too -> the fields of SamplingParams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.modelfile import Value

_SAME = ("temperature", "min_p", "presence_penalty", "frequency_penalty", "stop")


def sampling_fields(values: Mapping[str, Value]) -> dict[str, Any]:
    """Those that say how a token is chosen; what is not among ``values`` is not among the fields."""
    fields: dict[str, Any] = {name: values[name] for name in _SAME if name in values}
    if "top_k" in values:
        fields["top_k"] = max(0, int(number(values, "top_k")))
    if "top_p" in values:
        fields["top_p"] = max(1e-9, number(values, "top_p"))  # 0: the likeliest alone
    if "repeat_penalty" in values:
        fields["repetition_penalty"] = number(values, "repeat_penalty")
    if "repeat_last_n" in values:
        fields["repetition_window"] = int(number(values, "repeat_last_n"))
    if "seed" in values:
        seed = values["seed"]
        fields["seed"] = seed if isinstance(seed, int) and seed >= 0 else None
    return fields


def most_tokens(values: Mapping[str, Value]) -> int | None:
    """num_predict: the most tokens of an answer; None: until the context is full."""
    most = int(number(values, "num_predict"))
    return most if most > 0 else None


def number(values: Mapping[str, Value], name: str, otherwise: float = 0.0) -> float:
    """A parameter that is no text."""
    value = values.get(name, otherwise)
    assert not isinstance(value, tuple)
    return value
