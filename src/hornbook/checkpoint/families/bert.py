"""BERT and the sentence encoders made of it, MiniLM among them: post-LayerNorm, learned positions, token types.

Source: arXiv 1810.04805. Heads of pre-training (cls.*) are no part of the encoder and are left in the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import ggml, hugging_face
from hornbook.checkpoint.rules import (
    Family,
    Key,
    Rule,
    TensorSource,
    choose,
    linear,
    one,
    read_key,
    read_keys,
    write_keys,
)
from hornbook.errors import UnsupportedModel
from hornbook.model.config import ModelConfig

KEYS = (
    Key("vocab_size", "vocab_size", int),
    Key("hidden_size", "width", int),
    Key("intermediate_size", "feedforward_width", int),
    Key("num_hidden_layers", "layers", int),
    Key("num_attention_heads", "heads", int),
    Key("max_position_embeddings", "context_length", int, 512),
    Key("type_vocab_size", "token_types", int, 2),
    Key("layer_norm_eps", "norm_epsilon", float, 1e-12),
)
SHAPE: dict[str, Any] = {
    "causal": False,
    "learned_positions": True,
    "embedding_norm": True,
    "norm": "layer",
    "norm_placement": "post",
    "qkv_bias": True,
    "attention_output_bias": True,
    "gated": False,
    "feedforward_bias": True,
    "language_head": False,
}


def read_config(raw: Mapping[str, Any], source: TensorSource) -> ModelConfig:
    positions = read_key(raw, "position_embedding_type", str, "absolute")
    if positions != "absolute" or read_key(raw, "is_decoder", bool, False):
        raise UnsupportedModel(
            f"this BERT has {positions} positions" if positions != "absolute" else "this BERT is a decoder",
            "Take an encoder with absolute positions.",
        )
    fields = read_keys(raw, KEYS)
    heads = max(fields["heads"], 1)
    return ModelConfig(
        **fields,
        **SHAPE,
        kv_heads=heads,
        head_width=fields["width"] // heads,
        activation=hugging_face.read_activation(raw, "hidden_act", "gelu"),
        pooler=any(name.endswith("pooler.dense.weight") for name in source.tensors),
    )


def write_config(config: ModelConfig) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        **write_keys(config, KEYS),
        "hidden_act": hugging_face.write_activation(config.activation),
    }


def rules(config: ModelConfig) -> list[Rule]:
    found = [
        one("embeddings.word_embeddings.weight", "embed.tokens.weight"),
        one("embeddings.position_embeddings.weight", "embed.positions.weight"),
        *linear("embeddings.LayerNorm", "embed.norm"),
    ]
    if config.token_types:
        found.append(one("embeddings.token_type_embeddings.weight", "embed.types.weight"))
    if config.pooler:
        found += linear("pooler.dense", "pooler.dense")
    for i in range(config.layers):
        their, our = f"encoder.layer.{i}.", f"blocks.{i}."
        found += [
            *linear(f"{their}attention.self.query", f"{our}attention.query"),
            *linear(f"{their}attention.self.key", f"{our}attention.key"),
            *linear(f"{their}attention.self.value", f"{our}attention.value"),
            *linear(f"{their}attention.output.dense", f"{our}attention.output"),
            *linear(f"{their}attention.output.LayerNorm", f"{our}attention_post_norm"),
            *linear(f"{their}intermediate.dense", f"{our}feedforward.up"),
            *linear(f"{their}output.dense", f"{our}feedforward.down"),
            *linear(f"{their}output.LayerNorm", f"{our}feedforward_post_norm"),
        ]
    return found


def read_gguf(raw: Mapping[str, Any], source: TensorSource) -> ModelConfig:
    pooling = read_key(raw, "bert.pooling_type", int, 0)
    return ModelConfig(
        **ggml.read_sizes(raw, source, "bert", "layer_norm_epsilon"),
        **SHAPE,
        token_types=ggml.rows(source, "token_types.weight"),
        activation="gelu",
        pooling=choose(ggml.POOLING, pooling, "the pooling (bert.pooling_type)"),
    )


def write_gguf(config: ModelConfig) -> dict[str, Any]:
    return {
        **ggml.write_sizes(config, "bert", "layer_norm_epsilon"),
        "bert.attention.causal": False,
        "bert.pooling_type": next(number for number, how in ggml.POOLING.items() if how == config.pooling),
        "tokenizer.ggml.token_type_count": config.token_types,
    }


def gguf_rules(config: ModelConfig) -> list[Rule]:
    found = [
        one("token_embd.weight", "embed.tokens.weight"),
        one("position_embd.weight", "embed.positions.weight"),
        one("token_types.weight", "embed.types.weight"),
        *linear("token_embd_norm", "embed.norm"),
    ]
    for i in range(config.layers):
        their, our = f"blk.{i}.", f"blocks.{i}."
        found += [
            *linear(f"{their}attn_q", f"{our}attention.query"),
            *linear(f"{their}attn_k", f"{our}attention.key"),
            *linear(f"{their}attn_v", f"{our}attention.value"),
            *linear(f"{their}attn_output", f"{our}attention.output"),
            *linear(f"{their}attn_output_norm", f"{our}attention_post_norm"),
            *linear(f"{their}ffn_up", f"{our}feedforward.up"),
            *linear(f"{their}ffn_down", f"{our}feedforward.down"),
            *linear(f"{their}layer_output_norm", f"{our}feedforward_post_norm"),
        ]
    return found


HUGGING_FACE = Family(
    read_config, write_config, rules, prefix="bert.", unused=(r"embeddings\.position_ids", r"cls\..*")
)
GGUF = Family(read_gguf, write_gguf, gguf_rules)
