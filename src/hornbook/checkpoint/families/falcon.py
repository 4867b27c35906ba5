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

from hornbook.checkpoint import ggml, hugging_face
from hornbook.checkpoint.families import gpt2
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import DIVIDED, Has, Key, Only, Part, read_key
from hornbook.checkpoint.rules import Grouped, Map, Table, TensorSource, layer, override, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import LayerKind, ModelConfig

KEYS: tuple[Part, ...] = (
    Key("vocab_size", "vocab_size", int), Key("max_position_embeddings", "context_length", int, 2048),
    Key("hidden_size", "width", int, 4544, older="n_embed"),
    Key("num_hidden_layers", "layers", int, 32, older="n_layer"),
    Key("num_attention_heads", "heads", int, 71, older="n_head"), DIVIDED,
    Key("num_kv_heads", "kv_heads", int, lambda fields: fields["heads"], older="n_head_kv"),
    gpt2.inner("ffn_hidden_size"), Key("activation", "activation", hugging_face.ACTIVATION, "gelu"),
    Key("layer_norm_epsilon", "norm_epsilon", float, 1e-5), Key("tie_word_embeddings", "tied_head", bool, True),
    *(Key("bias", ours, bool, False) for ours in (*hugging_face.BIASED, "feedforward_bias")),
    Key("parallel_attn", "parallel", bool, True),
    Key("hidden_dropout", "dropout", float, 0.0), Key("attention_dropout", "attention_dropout", float, 0.0),
    Only("apply_residual_connection_post_layernorm", False, "adds what is normalised already"),
)  # fmt: skip
OLD_NAMES = ("RefinedWeb", "RefinedWebModel")  # model_type before transformers took the family in
SHAPE = {"norm": "layer", "gated": False}
NAMES = {
    "embed.tokens": ".word_embeddings", "norm": ".ln_f", "head.tokens": "lm_head", "classifier.linear": "score",
    **layer(".h.{i}.", {
        "attention_norm": "input_layernorm", "attention.output": "self_attention.dense",
        "feedforward_norm": "post_attention_layernorm",
        "feedforward.up": "mlp.dense_h_to_4h", "feedforward.down": "mlp.dense_4h_to_h",
    }),
}  # fmt: skip
FUSED = (".h.{i}.self_attention.query_key_value",)
TWO_NORMS = layer(".h.{i}.", {"attention_norm": "ln_attn", "feedforward_norm": "ln_mlp"})
TWO_NORMS_GGUF = layer("blk.{i}.", {"attention_norm": "attn_norm_2", "feedforward_norm": "attn_norm"})


def two_norms(config: ModelConfig) -> bool:
    return config.parallel and not config.shared_norm


def maps(config: ModelConfig) -> Table:
    fused = Map(ggml.FUSED, FUSED, Grouped(config.kv_heads, config.heads // config.kv_heads))
    return override((*table(NAMES), fused), *(table(TWO_NORMS) if two_norms(config) else ()))


def maps_gguf(config: ModelConfig) -> Table:
    return override(ggml.DECODER, ggml.QKV, *(table(TWO_NORMS_GGUF) if two_norms(config) else ()))


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    old = raw.get("model_type") in OLD_NAMES and "n_head_kv" in raw
    grouping, parallel = read_key(raw, "new_decoder_architecture", bool, old), fields["parallel"]
    norms = read_key(raw, "num_ln_in_parallel_attn", int, 2 if grouping else 1)
    refused = {
        "new_decoder_architecture without parallel_attn": grouping and not parallel,
        f"num_ln_in_parallel_attn {norms}": norms not in ((1, 2) if grouping or not parallel else (1,)),
    }
    for what in (what for what, said in refused.items() if said):
        raise UnsupportedModel(f"this Falcon has {what}", "No release of Falcon does: check its config.json.")
    alone = 1 if read_key(raw, "multi_query", bool, True) else fields["heads"]
    alibi = read_key(raw, "alibi", bool, False)
    return {
        "kv_heads": fields["kv_heads"] if grouping else alone,
        "shared_norm": parallel and norms == 1,
        "alibi": fields["head_width"] ** -0.5 if alibi else None,
        "pattern": (LayerKind(rotary=None if alibi else hugging_face.read_rotary(raw, 10_000.0)),),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    grouping = two_norms(config) or (config.parallel and config.kv_heads not in (1, config.heads))
    return {
        "new_decoder_architecture": grouping,
        "multi_query": config.kv_heads == 1,
        "num_ln_in_parallel_attn": 2 if two_norms(config) else 1,
        "alibi": config.alibi is not None,
        **({} if config.alibi is not None else hugging_face.Rope().write(config)),
    }


HEADS = gpt2.heads("Falcon")
HUGGING_FACE = Family(
    "falcon", KEYS, maps, SHAPE, read, write, HEADS | {"RWForCausalLM": HEADS["FalconForCausalLM"]},
    prefix="transformer", unused=(r"lm_head\.weight",),
    twin=lambda config: "falcon" if config.parallel and not config.qkv_bias and config.alibi is None else None,
)  # fmt: skip
KEYS_GGUF = (
    *ggml.decoder("falcon", ggml.LAYER),
    Has("blk.0.attn_norm_2.weight", "shared_norm", there=False, absent=True),
)
GGUF = Family(
    "falcon", KEYS_GGUF, maps_gguf, SHAPE | {"parallel": True, "activation": "gelu"},
    write=lambda config: {"falcon.tensor_data_layout": "jploski"}, twin="falcon",
)  # fmt: skip
