"""Phi-3, 3.5 and 4: Llama's shape with queries, keys and values in one matrix, gate and up in another.

The long-context models divide each rotary frequency by a factor of its own, which changes beyond the first context
(LongRoPE, arXiv 2402.13753); Phi-4-mini turns three quarters of a head. Sources: arXiv 2404.14219, 2412.08905, 2503.01743.
A GGUF file says the window too; llama.cpp warns that it sees everything all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint import ggml, hugging_face
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import Also, Key, Part
from hornbook.checkpoint.rules import Map, Split, Table, TensorSource, override
from hornbook.model.config import ModelConfig

ORIGINAL = 4096  # the first context, where a file does not say


class LongRope(hugging_face.Rope):
    """Rotary positions of a part of each head, all where nothing is said, and the first context."""

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        said = {"original_max_position_embeddings": ORIGINAL, **raw}
        for key in ("rope_scaling", "rope_parameters"):  # the first files call LongRoPE "su" or "yarn"
            scaling = raw.get(key)
            if isinstance(scaling, Mapping) and "yarn" in (scaling.get("rope_type"), scaling.get("type")):
                said[key] = {**scaling, "rope_type": "longrope"}
        return super().read(said, source, fields)

    def write(self, config: ModelConfig) -> dict[str, Any]:
        scaling = hugging_face.pattern_rotary(config).scaling
        original = ORIGINAL if scaling is None else scaling.original_context
        return super().write(config) | {"original_max_position_embeddings": original}


KEYS: tuple[Part, ...] = (
    *hugging_face.decoder(ORIGINAL, 1e-5, rope=LongRope(part=1.0)), hugging_face.Window(usual=None),
    Key("resid_pdrop", "dropout", float, 0.0), Also("embd_pdrop", "dropout"),
)  # fmt: skip
GATED = ("blocks.{i}.feedforward.gate", "blocks.{i}.feedforward.up")


def fused(base: Table, attention: str, feedforward: str) -> Table:
    halves = Map(GATED, (feedforward,), lambda config: Split((config.feedforward_width,) * 2))
    return override(base, Map(ggml.FUSED, (attention,), ggml.thirds), halves)


HUGGING_FACE = Family(
    "phi3", KEYS, fused(hugging_face.DECODER, ".layers.{i}.self_attn.qkv_proj", ".layers.{i}.mlp.gate_up_proj"),
    heads=hugging_face.decoder_heads("Phi3"), prefix="model", unused=hugging_face.UNUSED, twin="phi3",
)  # fmt: skip
GGUF = Family(
    "phi3", ggml.decoder("phi3", windows=True), fused(ggml.DECODER, "blk.{i}.attn_qkv", "blk.{i}.ffn_up"),
    unused=(r"rope_factors_(long|short)\.weight",), twin="phi3",
)  # fmt: skip
