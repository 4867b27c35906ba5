"""Llama 1 to 3 and all who took its shape, SmolLM2 among them: pre-RMSNorm, rotary, grouped heads, gated SiLU.

Sources: arXiv 2302.13971, 2307.09288, 2407.21783. In GGUF the rows of queries and keys stand interleaved, and the
long-context frequencies of Llama 3 come as a tensor, rope_freqs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import ggml, hugging_face
from hornbook.checkpoint.rules import (
    Family,
    Interleaved,
    Key,
    Rule,
    TensorSource,
    linear,
    one,
    read_key,
    read_keys,
    write_keys,
)
from hornbook.model.config import LayerKind, ModelConfig

KEYS = (
    Key("vocab_size", "vocab_size", int),
    Key("hidden_size", "width", int),
    Key("intermediate_size", "feedforward_width", int),
    Key("num_hidden_layers", "layers", int),
    Key("num_attention_heads", "heads", int),
    Key("max_position_embeddings", "context_length", int, 2048),
    Key("rms_norm_eps", "norm_epsilon", float, 1e-6),
    Key("tie_word_embeddings", "tied_head", bool, False),
    Key("attention_bias", "qkv_bias", bool, False),
    Key("attention_bias", "attention_output_bias", bool, False),
    Key("mlp_bias", "feedforward_bias", bool, False),
)


def read_config(raw: Mapping[str, Any], source: TensorSource) -> ModelConfig:
    fields = read_keys(raw, KEYS)
    heads = max(fields["heads"], 1)
    return ModelConfig(
        **fields,
        kv_heads=read_key(raw, "num_key_value_heads", int, heads),
        head_width=read_key(raw, "head_dim", int, fields["width"] // heads),
        activation=hugging_face.read_activation(raw, "hidden_act", "silu"),
        pattern=(LayerKind(rotary=hugging_face.read_rotary(raw, 10_000.0)),),
    )


def write_config(config: ModelConfig) -> dict[str, Any]:
    rotary = config.pattern[0].rotary
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **write_keys(config, KEYS),
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": hugging_face.write_activation(config.activation),
        "rope_parameters": rotary and hugging_face.write_rotary_parameters(rotary),
    }


def rules(config: ModelConfig) -> list[Rule]:
    found = [one("model.embed_tokens.weight", "embed.tokens.weight"), one("model.norm.weight", "norm.weight")]
    if not config.tied_head:
        found.append(one("lm_head.weight", "head.weight"))
    for i in range(config.layers):
        their, our = f"model.layers.{i}.", f"blocks.{i}."
        found += [
            one(f"{their}input_layernorm.weight", f"{our}attention_norm.weight"),
            *linear(f"{their}self_attn.q_proj", f"{our}attention.query", bias=config.qkv_bias),
            *linear(f"{their}self_attn.k_proj", f"{our}attention.key", bias=config.qkv_bias),
            *linear(f"{their}self_attn.v_proj", f"{our}attention.value", bias=config.qkv_bias),
            *linear(f"{their}self_attn.o_proj", f"{our}attention.output", bias=config.attention_output_bias),
            one(f"{their}post_attention_layernorm.weight", f"{our}feedforward_norm.weight"),
            *linear(f"{their}mlp.gate_proj", f"{our}feedforward.gate", bias=config.feedforward_bias),
            *linear(f"{their}mlp.up_proj", f"{our}feedforward.up", bias=config.feedforward_bias),
            *linear(f"{their}mlp.down_proj", f"{our}feedforward.down", bias=config.feedforward_bias),
        ]
    return found


def read_gguf(raw: Mapping[str, Any], source: TensorSource) -> ModelConfig:
    fields = ggml.read_sizes(raw, source, "llama")
    return ModelConfig(
        **fields,
        tied_head="output.weight" not in source.tensors,
        qkv_bias="blk.0.attn_q.bias" in source.tensors,
        attention_output_bias="blk.0.attn_output.bias" in source.tensors,
        feedforward_bias="blk.0.ffn_up.bias" in source.tensors,
        pattern=(LayerKind(rotary=ggml.read_rotary(raw, source, "llama", fields["head_width"])),),
    )


def write_gguf(config: ModelConfig) -> dict[str, Any]:
    rotary = config.pattern[0].rotary
    return {
        **ggml.write_sizes(config, "llama"),
        "llama.rope.dimension_count": config.head_width,
        **(ggml.write_rotary(rotary, "llama") if rotary else {}),
    }


def gguf_rules(config: ModelConfig) -> list[Rule]:
    found = [one("token_embd.weight", "embed.tokens.weight"), one("output_norm.weight", "norm.weight")]
    if not config.tied_head:
        found.append(one("output.weight", "head.weight"))
    query, key = Interleaved(config.heads), Interleaved(config.kv_heads)
    for i in range(config.layers):
        their, our = f"blk.{i}.", f"blocks.{i}."
        found += [
            one(f"{their}attn_norm.weight", f"{our}attention_norm.weight"),
            *linear(f"{their}attn_q", f"{our}attention.query", query, bias=config.qkv_bias),
            *linear(f"{their}attn_k", f"{our}attention.key", key, bias=config.qkv_bias),
            *linear(f"{their}attn_v", f"{our}attention.value", bias=config.qkv_bias),
            *linear(f"{their}attn_output", f"{our}attention.output", bias=config.attention_output_bias),
            one(f"{their}ffn_norm.weight", f"{our}feedforward_norm.weight"),
            *linear(f"{their}ffn_gate", f"{our}feedforward.gate", bias=config.feedforward_bias),
            *linear(f"{their}ffn_up", f"{our}feedforward.up", bias=config.feedforward_bias),
            *linear(f"{their}ffn_down", f"{our}feedforward.down", bias=config.feedforward_bias),
        ]
    return found


# A tied head may be in the file a second time; rotary angles are computed, and rope_freqs went into the configuration.
HUGGING_FACE = Family(read_config, write_config, rules, unused=(r".*rotary_emb\.inv_freq", r"lm_head\.weight"))
GGUF = Family(read_gguf, write_gguf, gguf_rules, unused=(r"rope_freqs\.weight",))
