"""Phi-3, 3.5 and 4: Llama's shape with queries, keys and values in one matrix, gate and up in another.

The long-context models divide each rotary frequency by a factor of its own, which changes beyond the first context
(LongRoPE, arXiv 2402.13753); Phi-4-mini turns three quarters of a head. Sources: arXiv 2404.14219, 2412.08905, 2503.01743.
A GGUF file says the window too; llama.cpp warns that it sees everything all the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import ggml, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, read_key
from hornbook.checkpoint.rules import Map, Split, TensorSource, override
from hornbook.model.config import LayerKind, ModelConfig

GATED = ("blocks.{i}.feedforward.gate", "blocks.{i}.feedforward.up")
ORIGINAL = 4096  # the first context, where a file does not say


def _attention(config: ModelConfig) -> Split:
    shared = config.kv_heads * config.head_width
    return Split((config.heads * config.head_width, shared, shared))


def _feedforward(config: ModelConfig) -> Split:
    return Split((config.feedforward_width,) * 2)


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    said = {"original_max_position_embeddings": ORIGINAL, **raw}
    for key in ("rope_scaling", "rope_parameters"):  # the first files call LongRoPE "su" or "yarn"
        scaling = raw.get(key)
        if isinstance(scaling, Mapping) and "yarn" in (scaling.get("rope_type"), scaling.get("type")):
            said[key] = {**scaling, "rope_type": "longrope"}
    width = read_key(raw, "head_dim", int, hugging_face.read_head_width(fields))
    rotary = hugging_face.read_rotary(said, 10_000.0, head_width=width)
    return {
        "kv_heads": read_key(raw, "num_key_value_heads", int, fields["heads"]),
        "head_width": width,
        "activation": hugging_face.read_activation(raw, "hidden_act", "silu"),
        "pattern": (LayerKind(read_key(raw, "sliding_window", int, None), rotary),),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    (window,) = {kind.window for kind in config.pattern}
    rotary = hugging_face.pattern_rotary(config)
    own = {} if config.head_width * config.heads == config.width else {"head_dim": config.head_width}
    return {
        "num_key_value_heads": config.kv_heads,
        "hidden_act": hugging_face.write_activation(config.activation),
        "sliding_window": window,
        "original_max_position_embeddings": ORIGINAL if rotary.scaling is None else rotary.scaling.original_context,
        "embd_pdrop": config.dropout,
        **hugging_face.write_rotary(rotary, config.head_width),
        **own,
    }


HUGGING_FACE = Family(
    "phi3",
    (*hugging_face.decoder_keys(ORIGINAL, 1e-5), Key("resid_pdrop", "dropout", float, 0.0)),
    override(
        hugging_face.DECODER,
        Map(ggml.FUSED, (".layers.{i}.self_attn.qkv_proj",), _attention),
        Map(GATED, (".layers.{i}.mlp.gate_up_proj",), _feedforward),
    ),
    read=read,
    write=write,
    heads=hugging_face.decoder_heads("Phi3"),
    prefix="model",
    unused=(r".*rotary_emb\.inv_freq", r"lm_head\.weight"),
    twin="phi3",
)
GGUF = Family(
    "phi3",
    ggml.keys("phi3"),
    override(
        ggml.DECODER,
        Map(ggml.FUSED, ("blk.{i}.attn_qkv",), _attention),
        Map(GATED, ("blk.{i}.ffn_up",), _feedforward),
    ),
    read=lambda raw, source, fields: ggml.read_decoder(raw, source, fields, "phi3"),
    write=lambda config: ggml.write_decoder(config, "phi3", windows=True),
    unused=(r"rope_factors_(long|short)\.weight",),
    twin="phi3",
)
