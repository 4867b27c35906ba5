"""Llama 1 to 3 and all who took its shape, OpenLLaMA, SOLAR and SmolLM2 among them: pre-RMSNorm, rotary, grouped heads,
gated SiLU. Mistral adds a window (arXiv 2310.06825).

Sources: arXiv 2302.13971, 2307.09288, 2407.21783. In GGUF the rows of queries and keys stand interleaved, and the
long-context frequencies of Llama 3 come as a tensor, rope_freqs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import ggml, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, read_key
from hornbook.checkpoint.rules import TensorSource
from hornbook.model.config import LayerKind, ModelConfig

KEYS = (
    *hugging_face.decoder_keys(),
    *hugging_face.BIASES,
    Key("mlp_bias", "feedforward_bias", bool, False),
)


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    return {
        "kv_heads": read_key(raw, "num_key_value_heads", int, fields["heads"]),
        "head_width": read_key(raw, "head_dim", int, hugging_face.read_head_width(fields)),
        "activation": hugging_face.read_activation(raw, "hidden_act", "silu"),
        "pattern": (LayerKind(rotary=hugging_face.read_rotary(raw, 10_000.0)),),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": hugging_face.write_activation(config.activation),
        **hugging_face.write_rotary(hugging_face.pattern_rotary(config)),
    }


def read_gguf(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    return {
        "qkv_bias": "blk.0.attn_q.bias" in source.tensors,
        "attention_output_bias": "blk.0.attn_output.bias" in source.tensors,
        "feedforward_bias": "blk.0.ffn_up.bias" in source.tensors,
        **ggml.read_experts(raw, ggml.read_decoder(raw, source, fields, "llama"), "llama"),
    }


def write_gguf(config: ModelConfig) -> dict[str, Any]:
    """Raises ValueError for windows, which llama.cpp does not look through in this architecture, whatever a file says."""
    if any(kind.window for kind in config.pattern):
        raise ValueError("in GGUF, Llama's architecture sees everything, and this model only a window (sliding_window)")
    return ggml.write_decoder(config, "llama")


# A tied head may be in the file a second time; rotary angles are computed, and rope_freqs went into the configuration.
HUGGING_FACE = Family(
    "llama",
    KEYS,
    hugging_face.DECODER,
    read=read,
    write=write,
    heads=hugging_face.decoder_heads("Llama"),
    prefix="model",
    unused=(r".*rotary_emb\.inv_freq", r"lm_head\.weight"),
    twin="llama",
)
GGUF = Family(
    "llama",
    ggml.keys("llama"),
    ggml.interleaved(ggml.DECODER),
    read=read_gguf,
    write=write_gguf,
    unused=(r"rope_freqs\.weight",),
    older=((r"blk\.\d+\.ffn_up\.\d+\.weight", ggml.APART),),
    twin=lambda config: "mixtral" if config.experts else "mistral" if config.pattern[0].window else "llama",
)
