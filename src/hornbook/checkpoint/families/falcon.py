"""Falcon: one LayerNorm before attention and feed-forward side by side, and one matrix for queries, keys and values.

Source: arXiv 2311.16867. Its releases differ in what the configuration says, and one table serves them all:

    7B       one key head, one norm for both parts            RW 1B, 7B   a key head for each, one part after the other,
    40B on   groups of heads, and a norm for each part                    biases, ALiBi, which here is scaled with the scores

transformers rounds ALiBi, slopes and products, to bfloat16, which is exact for one to eight heads that are a power of two
and for the first 257 tokens; elsewhere the two differ by that rounding. Its "eager" attention adds ALiBi twice: compare "sdpa".
GGUF has the shapes with rotary positions and without biases. There attn_norm stands before the feed-forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import ggml, gpt2, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, read_key
from hornbook.checkpoint.rules import Grouped, Map, Table, TensorSource, override, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import LayerKind, ModelConfig

KEYS = (
    Key("vocab_size", "vocab_size", int),
    Key("max_position_embeddings", "context_length", int, 2048),
    Key("layer_norm_epsilon", "norm_epsilon", float, 1e-5),
    Key("tie_word_embeddings", "tied_head", bool, True),
    Key("bias", "qkv_bias", bool, False),
    Key("bias", "attention_output_bias", bool, False),
    Key("bias", "feedforward_bias", bool, False),
    Key("parallel_attn", "parallel", bool, True),
    Key("hidden_dropout", "dropout", float, 0.0),
    Key("attention_dropout", "attention_dropout", float, 0.0),
)
OLD_NAMES = ("RefinedWeb", "RefinedWebModel")  # model_type before transformers took the family in
SHAPE: dict[str, Any] = {"norm": "layer", "gated": False}
NAMES = table(
    {
        "embed.tokens": ".word_embeddings",
        "norm": ".ln_f",
        "head.tokens": "lm_head",
        "classifier.linear": "score",
        "blocks.{i}.attention_norm": ".h.{i}.input_layernorm",
        "blocks.{i}.attention.output": ".h.{i}.self_attention.dense",
        "blocks.{i}.feedforward_norm": ".h.{i}.post_attention_layernorm",
        "blocks.{i}.feedforward.up": ".h.{i}.mlp.dense_h_to_4h",
        "blocks.{i}.feedforward.down": ".h.{i}.mlp.dense_4h_to_h",
    }
)
NORMS = ("blocks.{i}.attention_norm", "blocks.{i}.feedforward_norm")


def grouped(config: ModelConfig) -> Grouped:
    return Grouped(config.kv_heads, config.heads // config.kv_heads)


def two_norms(config: ModelConfig) -> bool:
    return config.parallel and not config.shared_norm


def maps(config: ModelConfig) -> Table:
    base = override(NAMES, Map(ggml.FUSED, (".h.{i}.self_attention.query_key_value",), grouped))
    if two_norms(config):
        base = override(base, Map(NORMS[:1], (".h.{i}.ln_attn",)), Map(NORMS[1:], (".h.{i}.ln_mlp",)))
    return base


def gguf_maps(config: ModelConfig) -> Table:
    base = override(ggml.DECODER, ggml.QKV)
    if two_norms(config):
        base = override(base, Map(NORMS[:1], ("blk.{i}.attn_norm_2",)), Map(NORMS[1:], ("blk.{i}.attn_norm",)))
    return base


def _size(raw: Mapping[str, Any], name: str, before: str, default: int) -> int:
    """A size by its name of today, or by that of the RefinedWeb configurations."""
    size: int = read_key(raw, name, int, read_key(raw, before, int, default))
    return size


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    width, heads = _size(raw, "hidden_size", "n_embed", 4544), _size(raw, "num_attention_heads", "n_head", 71)
    grouping = read_key(
        raw, "new_decoder_architecture", bool, raw.get("model_type") in OLD_NAMES and "n_head_kv" in raw
    )
    norms = read_key(raw, "num_ln_in_parallel_attn", int, 2 if grouping else 1)
    refused = {
        "apply_residual_connection_post_layernorm": read_key(
            raw, "apply_residual_connection_post_layernorm", bool, False
        ),
        "new_decoder_architecture without parallel_attn": grouping and not fields["parallel"],
        f"num_ln_in_parallel_attn {norms}": norms not in ((1, 2) if grouping or not fields["parallel"] else (1,)),
    }
    for what in (what for what, said in refused.items() if said):
        raise UnsupportedModel(f"this Falcon has {what}", "No release of Falcon does: check its config.json.")
    if grouping:
        shared = _size(raw, "num_kv_heads", "n_head_kv", heads)
    else:
        shared = 1 if read_key(raw, "multi_query", bool, True) else heads
    head_width = width // max(heads, 1)
    alibi = read_key(raw, "alibi", bool, False)
    return {
        "layers": _size(raw, "num_hidden_layers", "n_layer", 32),
        "width": width,
        "heads": heads,
        "kv_heads": shared,
        "head_width": head_width,
        "feedforward_width": read_key(raw, "ffn_hidden_size", int, 4 * width),
        "activation": hugging_face.read_activation(raw, "activation", "gelu"),
        "shared_norm": fields["parallel"] and norms == 1,
        "alibi": head_width**-0.5 if alibi else None,
        "pattern": (LayerKind(rotary=None if alibi else hugging_face.read_rotary(raw, 10_000.0)),),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    grouping = two_norms(config) or (config.parallel and config.kv_heads not in (1, config.heads))
    return {
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_kv_heads": config.kv_heads,
        "ffn_hidden_size": config.feedforward_width,
        "activation": hugging_face.write_activation(config.activation),
        "new_decoder_architecture": grouping,
        "multi_query": config.kv_heads == 1,
        "num_ln_in_parallel_attn": 2 if two_norms(config) else 1,
        "alibi": config.alibi is not None,
        **({} if config.alibi is not None else hugging_face.write_rotary(hugging_face.pattern_rotary(config))),
    }


def read_gguf(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    shared = "blk.0.attn_norm_2.weight" not in source.tensors
    return ggml.read_decoder(raw, source, fields, "falcon") | {"shared_norm": shared}


HEADS = gpt2.heads("Falcon", "ForCausalLM")
HUGGING_FACE = Family(
    "falcon",
    KEYS,
    maps,
    shape=SHAPE,
    read=read,
    write=write,
    heads=HEADS | {"RWForCausalLM": HEADS["FalconForCausalLM"]},
    prefix="transformer",
    unused=(r"lm_head\.weight",),
    twin=lambda c: "falcon" if c.parallel and not c.qkv_bias and c.alibi is None else None,
)
GGUF = Family(
    "falcon",
    ggml.keys("falcon", ggml.LAYER),
    gguf_maps,
    shape=SHAPE | {"parallel": True, "activation": "gelu"},
    read=read_gguf,
    write=lambda c: ggml.write_decoder(c, "falcon") | {"falcon.tensor_data_layout": "jploski"},
    twin="falcon",
)
