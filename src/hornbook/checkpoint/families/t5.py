"""T5 (arXiv 1910.10683): encoder and decoder, pre-RMSNorm, no positions but a bias by distance that all layers share, scores
that are not scaled.

1.0 has ReLU and a tied head whose scores are scaled; 1.1, FLAN and mT5 (arXiv 2010.11934) have a gated GELU and no scale.
In GGUF ReLU says 1.0, and llama.cpp leaves out the scale, which changes no likeliest token.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from hornbook.checkpoint.families import ggml, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, read_key
from hornbook.checkpoint.rules import Table, TensorSource, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import ModelConfig, Relative

KEYS = (
    Key("vocab_size", "vocab_size", int),
    Key("d_model", "width", int),
    Key("d_kv", "head_width", int, 64),
    Key("d_ff", "feedforward_width", int),
    Key("num_layers", "layers", int),
    Key("num_heads", "heads", int),
    Key("num_heads", "kv_heads", int),
    Key("n_positions", "context_length", int, 512),  # what it was trained on: nothing else limits it
    Key("layer_norm_epsilon", "norm_epsilon", float, 1e-6),
    Key("dropout_rate", "dropout", float, 0.1),
    Key("dropout_rate", "attention_dropout", float, 0.1),
)
SHAPE: Fields = {"query_scale": 1.0, "shared_tokens": True}
DISTANCE = 128  # relative_attention_max_distance, the only one in GGUF
TABLES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # one, under any of its names


def _stack(ours: str, theirs: str, attention: str, cross: str, parts: Mapping[str, str]) -> Table:
    """The layers of encoder or decoder; ``attention`` and ``cross`` say how theirs spells a projection."""
    letters = {"query": "q", "key": "k", "value": "v", "output": "o"}
    parts = {
        **parts,
        **{f"attention.{name}": attention + letter for name, letter in letters.items()},
        **{f"cross.{name}": cross + letter for name, letter in letters.items()},
    }
    return table({f"{ours}blocks.{{i}}.{name}": theirs + part for name, part in parts.items()})


def maps(config: ModelConfig) -> Table:
    up = {"gate": "wi_0", "up": "wi_1"} if config.gated else {"up": "wi"}
    stacks: Table = ()
    for ours, theirs, last in (("encoder.", "encoder", 1), ("", "decoder", 2)):
        parts = {"attention_norm": "layer.0.layer_norm", "cross_norm": "layer.1.layer_norm"}
        parts["feedforward_norm"] = f"layer.{last}.layer_norm"
        parts |= {f"feedforward.{n}": f"layer.{last}.DenseReluDense.{t}" for n, t in ({"down": "wo"} | up).items()}
        block = f"{theirs}.block.{{i}}."
        stacks += _stack(ours, block, "layer.0.SelfAttention.", "layer.1.EncDecAttention.", parts)
        bias = f"{theirs}.block.0.layer.0.SelfAttention.relative_attention_bias"
        stacks += table({f"{ours}norm": f"{theirs}.final_layer_norm", f"{ours}relative": bias})
    return (*stacks, *table({"embed.tokens": "shared", "head.tokens": "lm_head"}))


def _with_encoder(fields: Fields, layers: int) -> Fields:
    """``fields`` of the decoder, and an encoder of so many layers that is like it but for the tokens' order."""
    spared = ("language_head", "encoder", "shared_tokens", "tied_head", "logit_scale")
    alike = {name: value for name, value in (SHAPE | fields).items() if name not in spared}
    encoder = ModelConfig(**alike | {"layers": layers, "causal": False, "language_head": False})
    return fields | {"encoder": encoder}


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields, *, scaled: bool, activation: str) -> Fields:
    """``scaled``: whether the family ever scales its scores; ``activation``: what it has where none is said."""
    said = read_key(raw, "feed_forward_proj", str, activation)
    gated, name = said.startswith("gated-"), said.removeprefix("gated-")
    name = "gelu_new" if said == "gated-gelu" else name
    if raw.get("dense_act_fn", name) != name or raw.get("is_gated_act", gated) != gated:
        raise UnsupportedModel(
            f"feed_forward_proj is {said}, but dense_act_fn {raw.get('dense_act_fn')}", "Fetch the config.json again."
        )
    if scaled:
        scaled = read_key(raw, "scale_decoder_outputs", bool, raw.get("tie_word_embeddings") is not False)
    layers = read_key(raw, "num_decoder_layers", int, fields["layers"])
    found = fields | {
        "layers": layers,
        "gated": gated,
        "activation": hugging_face.read_activation({"feed_forward_proj": name}, "feed_forward_proj", name),
        "relative": Relative(
            read_key(raw, "relative_attention_num_buckets", int, 32),
            read_key(raw, "relative_attention_max_distance", int, DISTANCE),
        ),
        "tied_head": hugging_face.is_copy(source, "lm_head.weight", hugging_face.original_of(source, TABLES)),
        "logit_scale": fields["width"] ** -0.5 if scaled else 1.0,
    }
    return _with_encoder(found, fields["layers"])


def write(config: ModelConfig) -> dict[str, Any]:
    encoder, relative = config.encoder, config.relative
    if encoder is None or relative is None:
        raise ValueError("it has no encoder, or no positions relative to each other")
    name = "gelu" if config.gated and config.activation == "gelu_tanh" else None
    name = name or hugging_face.write_activation(config.activation)
    return {
        "is_encoder_decoder": True,
        "num_layers": encoder.layers,
        "num_decoder_layers": config.layers,
        "feed_forward_proj": f"gated-{name}" if config.gated else name,
        "relative_attention_num_buckets": relative.buckets,
        "relative_attention_max_distance": relative.distance,
        "tie_word_embeddings": config.logit_scale != 1.0,  # what is called so decides on the scale
        "decoder_start_token_id": 0,  # the padding, of every T5
    }


HEADS = {
    "T5ForConditionalGeneration": {"language_head": True},
    "T5Model": {"language_head": False},
    "T5WithLMHeadModel": {"language_head": True},  # what it was called first
}
HUGGING_FACE = Family(
    "t5",
    KEYS,
    maps,
    shape=SHAPE,
    read=partial(read, scaled=True, activation="relu"),
    write=write,
    heads=HEADS,
    unused=(
        r"(encoder|decoder)\.embed_tokens\.weight",
        r"lm_head\.weight",
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    ),
    aliases=((r"^(encoder|decoder)\.embed_tokens\.", "shared."),),
    twin="t5",
)
MT5 = HUGGING_FACE._replace(
    name="mt5",
    read=partial(read, scaled=False, activation="gated-gelu"),
    heads={name.replace("T5", "MT5"): implied for name, implied in list(HEADS.items())[:2]},
)


# ------------------------------------------------------------------------------------------------------------- GGUF


def maps_gguf(config: ModelConfig) -> Table:
    names = {"attention_norm": "attn_norm", "cross_norm": "cross_attn_norm", "feedforward_norm": "ffn_norm"}
    names |= {f"feedforward.{part}": f"ffn_{part}" for part in ("gate", "up", "down")}
    stacks: Table = ()
    for ours, theirs in (("encoder.", "enc"), ("", "dec")):
        stacks += _stack(ours, f"{theirs}.blk.{{i}}.", "attn_", "cross_attn_", names)
        stacks += table({f"{ours}norm": f"{theirs}.output_norm", f"{ours}relative": f"{theirs}.blk.0.attn_rel_b"})
    return (*stacks, *table({"embed.tokens": "token_embd", "head.tokens": "output"}))


def read_gguf(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    gated = "dec.blk.0.ffn_gate.weight" in source.tensors
    found = (
        fields
        | ggml.read_sizes(raw, source, fields, "t5")
        | {
            "layers": read_key(raw, "t5.decoder_block_count", int, fields["layers"]),
            "gated": gated,
            "activation": "gelu_tanh" if gated else "relu",
            "relative": Relative(read_key(raw, "t5.attention.relative_buckets_count", int), DISTANCE),
            "logit_scale": 1.0 if gated else fields["width"] ** -0.5,
        }
    )
    return _with_encoder(found, fields["layers"])


def write_gguf(config: ModelConfig) -> dict[str, Any]:
    if config.encoder is None or config.relative is None or not config.language_head:
        raise ValueError("it has no encoder, no language head, or no positions relative to each other")
    return {
        **ggml.write_sizes(config, "t5"),
        "t5.block_count": config.encoder.layers,
        "t5.decoder_block_count": config.layers,
        "t5.attention.relative_buckets_count": config.relative.buckets,
        "t5.attention.layer_norm_epsilon": config.norm_epsilon,
        "t5.decoder_start_token_id": 0,
    }


GGUF = Family(
    "t5",
    ggml.keys("t5"),
    maps_gguf,
    shape=SHAPE,
    read=read_gguf,
    write=write_gguf,
    unused=(r"dec\.blk\.\d+\.cross_attn_rel_b\.weight",),
    twin="t5",
)
