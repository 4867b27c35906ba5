"""GPT-J: attention and feed-forward side by side behind one LayerNorm, rotary pairs that are neighbours, a biased head.

Source: Wang & Komatsuzaki 2021, "GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model" (mesh-transformer-jax).
llama.cpp has no such architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint import hugging_face
from hornbook.checkpoint.families import gpt2
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Part, read_key
from hornbook.checkpoint.rules import TensorSource, layer, table
from hornbook.model.config import LayerKind, ModelConfig, Rotary

KEYS: tuple[Part, ...] = (*gpt2.sizes(2048, tied=False, dropout=0.0), gpt2.inner("n_inner"), gpt2.ACTIVATION)
SHAPE = gpt2.PLAIN | {"parallel": True, "shared_norm": True, "head_bias": True}
NAMES = gpt2.NAMES | {"head.bias": "lm_head.bias"} | layer(".h.{i}.", {
    "attention.query": "attn.q_proj", "attention.key": "attn.k_proj", "attention.value": "attn.v_proj",
    "attention.output": "attn.out_proj", "feedforward.up": "mlp.fc_in", "feedforward.down": "mlp.fc_out",
})  # fmt: skip


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    turned = read_key(raw, "rotary_dim", int, 64)
    rotary = Rotary(width=None if turned == fields["head_width"] else turned, interleaved=True)
    return {"pattern": (LayerKind(rotary=rotary),)}


def write(config: ModelConfig) -> dict[str, Any]:
    return {"rotary_dim": config.rotary_width(hugging_face.pattern_rotary(config))}


HUGGING_FACE = Family(
    "gptj", KEYS, table(NAMES), SHAPE, read, write, gpt2.heads("GPTJ"), prefix="transformer", unused=gpt2.UNUSED
)
