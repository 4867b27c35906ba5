"""What the config.json files of many architectures share: names of activations, and how rotary positions are said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.rules import choose, read_key
from hornbook.errors import ModelFileError
from hornbook.model.config import Rotary, RotaryScaling

# The first of several names for one function is the one that is written.
ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}


def read_activation(raw: Mapping[str, Any], key: str, default: str) -> Any:
    return choose(ACTIVATIONS, read_key(raw, key, str, default), f"the activation ({key})")


def write_activation(ours: str) -> str:
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


def read_rotary(raw: Mapping[str, Any], base: float) -> Rotary:
    """From ``rope_theta`` and ``rope_scaling``, or the later ``rope_parameters`` which hold both."""
    said = raw.get("rope_parameters") or {"rope_theta": raw.get("rope_theta"), **(raw.get("rope_scaling") or {})}
    if not isinstance(said, Mapping):
        raise ModelFileError(f"rope_parameters is {said!r:.60}, not an object", "Fetch the model's config.json again.")
    return read_rotary_parameters(said, base)


def read_rotary_parameters(said: Mapping[str, Any], base: float) -> Rotary:
    base = read_key(said, "rope_theta", float, base)
    kind = said.get("rope_type", said.get("type", "default"))
    known = {"default": None, "linear": _linear, "llama3": _llama3}
    read = choose(known, str(kind), "the rotary scaling (rope_type)")
    return Rotary(base, read and read(said))


def write_rotary_parameters(rotary: Rotary) -> dict[str, Any]:
    """Raises ValueError for per-frequency factors, for which this format has no place."""
    scaling = rotary.scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": rotary.base}
    if scaling.kind == "factors":
        raise ValueError("rotary factors by frequency cannot be written to a config.json")
    said = {"rope_type": scaling.kind, "rope_theta": rotary.base, "factor": scaling.factor}
    if scaling.kind == "llama3":
        said |= {
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_context,
        }
    return said


def _linear(said: Mapping[str, Any]) -> RotaryScaling:
    return RotaryScaling("linear", read_key(said, "factor", float))


def _llama3(said: Mapping[str, Any]) -> RotaryScaling:
    return RotaryScaling(
        "llama3",
        read_key(said, "factor", float),
        read_key(said, "low_freq_factor", float),
        read_key(said, "high_freq_factor", float),
        read_key(said, "original_max_position_embeddings", int),
    )
