"""Mistral: Llama's shape, and layers that look back over a window (arXiv 2310.06825); later models have none.

In GGUF it is a "llama", which llama.cpp runs without any window: a windowed Mistral cannot be said there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hornbook.checkpoint.families import hugging_face, llama
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import read_nullable
from hornbook.checkpoint.rules import TensorSource
from hornbook.errors import UnsupportedModel
from hornbook.model.config import ModelConfig

WINDOW = 4096  # where a file does not say


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields, usual: int | None = WINDOW) -> Fields:
    """``usual``: the window where a file does not say."""
    found = llama.read({"num_key_value_heads": 8, **raw}, source, fields)
    window = read_nullable(raw, "sliding_window", int, usual)
    if len(set(hugging_face.read_windowed(raw, fields["layers"], lambda i: window is not None))) > 1:
        raise UnsupportedModel(
            "the layers of this Mistral differ (layer_types)", "A Mistral's are all alike: take one."
        )
    return found | {"pattern": tuple(replace(kind, window=window) for kind in found["pattern"])}


def write(config: ModelConfig) -> dict[str, Any]:
    """Raises ValueError where windows differ."""
    (window,) = {kind.window for kind in config.pattern}
    return llama.write(config) | {"sliding_window": window}


HUGGING_FACE = Family(
    "mistral", hugging_face.decoder_keys(131_072), hugging_face.DECODER, read=read, write=write,
    heads=hugging_face.decoder_heads("Mistral"), prefix="model", unused=llama.HUGGING_FACE.unused, twin="llama",
)  # fmt: skip
