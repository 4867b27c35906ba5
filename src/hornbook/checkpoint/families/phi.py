"""Phi-1, 1.5 and 2: attention and feed-forward side by side behind one LayerNorm, a part of each head turned by rotary
positions, biases everywhere, the head's included.

Sources: arXiv 2306.11644, 2309.05463. GGUF calls the architecture phi2; its first files have one matrix for queries, keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import ggml, gpt2, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, read_key
from hornbook.checkpoint.rules import TensorSource, override, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import LayerKind, ModelConfig

KEYS = (
    Key("vocab_size", "vocab_size", int),
    Key("max_position_embeddings", "context_length", int, 2048),
    Key("hidden_size", "width", int),
    Key("intermediate_size", "feedforward_width", int),
    Key("num_hidden_layers", "layers", int),
    Key("num_attention_heads", "heads", int),
    Key("layer_norm_eps", "norm_epsilon", float, 1e-5),
    Key("tie_word_embeddings", "tied_head", bool, False),
    Key("resid_pdrop", "dropout", float, 0.0),
    Key("attention_dropout", "attention_dropout", float, 0.0),
)
SHAPE = gpt2.SHAPE | {"positions": "none", "parallel": True, "shared_norm": True, "head_bias": True}
NAMES = {
    "norm": ".final_layernorm",
    "head.bias": "lm_head.bias",
    "blocks.{i}.attention.output": ".layers.{i}.self_attn.dense",
    "blocks.{i}.feedforward.up": ".layers.{i}.mlp.fc1",
    "blocks.{i}.feedforward.down": ".layers.{i}.mlp.fc2",
}


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    if read_key(raw, "qk_layernorm", bool, False):
        raise UnsupportedModel(
            "this Phi puts a LayerNorm on queries and keys (qk_layernorm)", "Phi-1, 1.5 and 2 have none: take those."
        )
    width = hugging_face.read_head_width(fields)
    rotary = hugging_face.read_rotary({"partial_rotary_factor": 0.5, **raw}, 10_000.0, head_width=width)
    return {
        "kv_heads": read_key(raw, "num_key_value_heads", int, fields["heads"]),
        "head_width": width,
        "activation": hugging_face.read_activation(raw, "hidden_act", "gelu_new"),
        "pattern": (LayerKind(rotary=rotary),),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        "num_key_value_heads": config.kv_heads,
        "hidden_act": gpt2.write_activation(config),
        "embd_pdrop": config.dropout,
        **hugging_face.write_rotary(hugging_face.pattern_rotary(config), config.head_width),
    }


HUGGING_FACE = Family(
    "phi",
    KEYS,
    override(hugging_face.DECODER, *table(NAMES)),
    shape=SHAPE,
    read=read,
    write=write,
    heads=hugging_face.decoder_heads("Phi"),
    prefix="model",
    unused=(r".*rotary_emb\.inv_freq", r"lm_head\.weight"),
    twin=lambda config: None if config.tied_head else "phi2",  # there the head is never tied
)
GGUF = Family(
    "phi2",
    ggml.keys("phi2", ggml.LAYER),
    ggml.DECODER,
    shape=SHAPE | {"activation": "gelu_tanh"},
    read=lambda raw, source, fields: ggml.read_decoder(raw, source, fields, "phi2"),
    write=lambda config: ggml.write_decoder(config, "phi2"),
    older=((r"blk\.\d+\.attn_qkv\.weight", (ggml.QKV,)),),
    twin="phi",
)
