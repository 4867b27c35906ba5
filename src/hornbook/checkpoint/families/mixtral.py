"""Mixtral: a Mistral whose every feed-forward is a mixture; a router picks two experts of eight for each token.

Source: arXiv 2401.04088. In GGUF it is a "llama" with experts (see llama.py), all of a layer's in one tensor or, in the
first files, each in its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hornbook.checkpoint.families import hugging_face, mistral
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import read_key
from hornbook.checkpoint.rules import Map, Stacked, TensorSource, override
from hornbook.model.config import Experts, ModelConfig

NAMES = {"gate": "w1", "down": "w2", "up": "w3"}
MIXTURE = ".layers.{i}.block_sparse_moe"
MAPS = override(
    hugging_face.DECODER,
    Map(("blocks.{i}.feedforward.router",), (f"{MIXTURE}.gate",)),
    *(
        Map((f"blocks.{{i}}.feedforward.{ours}",), (f"{MIXTURE}.experts.{{e}}.{theirs}.weight",), Stacked())
        for ours, theirs in NAMES.items()
    ),
)


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    found = mistral.read(raw, source, fields, usual=None)
    top, count = read_key(raw, "num_experts_per_tok", int, 2), read_key(raw, "num_local_experts", int, 8)
    return found | {
        "experts": Experts(count, top, fields["feedforward_width"]),
        "pattern": tuple(replace(kind, sparse=True) for kind in found["pattern"]),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    assert config.experts is not None, "Mixtral is a mixture, and this model is not"
    counts = {"num_local_experts": config.experts.count, "num_experts_per_tok": config.experts.top}
    return mistral.write(config) | counts


HUGGING_FACE = Family(
    "mixtral", hugging_face.decoder_keys(131_072, 1e-5), MAPS, read=read, write=write,
    heads=hugging_face.decoder_heads("Mixtral"), prefix="model", unused=mistral.HUGGING_FACE.unused, twin="llama",
)  # fmt: skip
