"""The Transformer of 2017 (arXiv 1706.03762) as Marian's translators are kept: encoder and decoder, post-norm, sinusoids.

The sines of all frequencies stand before the cosines, as in ``model.positions.sinusoids``. Encoder and decoder share one
table of tokens, or each has its own; the head is the decoder's, and adds a bias. The sinusoids that old files hold as
tables are computed here. Source of Marian: Junczys-Dowmunt et al. 2018, arXiv 1804.00344.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, read_key
from hornbook.checkpoint.rules import Map, Reshaped, Table, TensorSource, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import ModelConfig

KEYS = (
    Key("d_model", "width", int),
    Key("decoder_layers", "layers", int),
    Key("decoder_ffn_dim", "feedforward_width", int),
    Key("decoder_attention_heads", "heads", int),
    Key("decoder_attention_heads", "kv_heads", int),
    Key("max_position_embeddings", "context_length", int, 1024),
    Key("share_encoder_decoder_embeddings", "shared_tokens", bool, True),
    Key("tie_word_embeddings", "tied_head", bool, True),
    Key("dropout", "dropout", float, 0.1),
    Key("attention_dropout", "attention_dropout", float, 0.0),
)
SHAPE: Fields = {
    "positions": "sinusoidal",
    "norm": "layer",
    "norm_placement": "post",
    "gated": False,
    "qkv_bias": True,
    "attention_output_bias": True,
    "feedforward_bias": True,
}
# What sister models of this layout have and its files say they have not.
FIXED = {
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "static_position_embeddings": True,
    "is_encoder_decoder": True,
}
BIAS = "final_logits_bias"
TABLES = ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")  # the tables that may be one
PARTS = {
    "attention_post_norm": "self_attn_layer_norm",
    "cross_post_norm": "encoder_attn_layer_norm",
    "feedforward_post_norm": "final_layer_norm",
    "feedforward.up": "fc1",
    "feedforward.down": "fc2",
    **{
        f"{ours}.{part}": f"{theirs}.{name}_proj"
        for ours, theirs in {"attention": "self_attn", "cross": "encoder_attn"}.items()
        for part, name in {"query": "q", "key": "k", "value": "v", "output": "out"}.items()
    },
}


def maps(config: ModelConfig) -> Table:
    tokens = {"embed.tokens": ".decoder.embed_tokens", "encoder.embed.tokens": ".encoder.embed_tokens"}
    return (
        *table({"embed.tokens": ".shared"} if config.shared_tokens else tokens),
        *table({f"blocks.{{i}}.{ours}": f".decoder.layers.{{i}}.{theirs}" for ours, theirs in PARTS.items()}),
        *table({f"encoder.blocks.{{i}}.{ours}": f".encoder.layers.{{i}}.{theirs}" for ours, theirs in PARTS.items()}),
        Map(("head.tokens",), ("lm_head",)),
        Map(("head.bias",), (BIAS,), Reshaped()),
    )


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    for name, value in FIXED.items():
        if raw.get(name, value) != value:
            raise UnsupportedModel(
                f"{name} is {raw[name]}", f"Hornbook reads models of this layout where it is {value}."
            )
    sources = read_key(raw, "vocab_size", int)
    targets = read_key(raw, "decoder_vocab_size", int, sources)
    if fields["shared_tokens"]:
        if not fields["tied_head"]:
            raise UnsupportedModel(
                "share_encoder_decoder_embeddings is true and tie_word_embeddings false",
                "Hornbook reads models that share all tables, or that have one for each language.",
            )
        targets = sources
    if fields["tied_head"]:
        alike = TABLES if fields["shared_tokens"] else TABLES[2:]
        hugging_face.original_of(source, [f"{prefix}{name}.weight" for name in alike for prefix in ("model.", "")])
    width, heads = fields["width"], max(fields["heads"], 1)
    both = {
        "head_width": width // heads,
        "activation": hugging_face.read_activation(raw, "activation_function", "gelu"),
        "embedding_scale": width**0.5 if read_key(raw, "scale_embedding", bool, False) else 1.0,
    }
    reader = read_key(raw, "encoder_attention_heads", int)
    encoder = ModelConfig(
        **SHAPE
        | both
        | {name: fields[name] for name in ("width", "context_length", "dropout", "attention_dropout")}
        | {
            "vocab_size": sources,
            "layers": read_key(raw, "encoder_layers", int),
            "heads": reader,
            "kv_heads": reader,
            "head_width": width // max(reader, 1),
            "feedforward_width": read_key(raw, "encoder_ffn_dim", int),
            "causal": False,
            "language_head": False,
        }
    )
    return {**both, "vocab_size": targets, "encoder": encoder, "head_bias": BIAS in source.tensors}


def write(config: ModelConfig) -> dict[str, Any]:
    encoder = config.encoder
    if encoder is None:
        raise ValueError("it has no encoder")
    padding = min(encoder.vocab_size, config.vocab_size) - 1  # where Marian has it; its decoders start with it
    return {
        "is_encoder_decoder": True,
        "vocab_size": encoder.vocab_size,
        "decoder_vocab_size": config.vocab_size,
        "encoder_layers": encoder.layers,
        "encoder_ffn_dim": encoder.feedforward_width,
        "encoder_attention_heads": encoder.heads,
        "activation_function": hugging_face.write_activation(config.activation),
        "scale_embedding": config.embedding_scale != 1.0,
        "pad_token_id": padding,
        "decoder_start_token_id": padding,
    }


HUGGING_FACE = Family(
    "marian",
    KEYS,
    maps,
    shape=SHAPE,
    read=read,
    write=write,
    heads={"MarianMTModel": {"language_head": True}, "MarianModel": {"language_head": False}},
    prefix="model",
    unused=(r"(encoder|decoder)\.embed_(positions|tokens)\.weight", r"lm_head\.weight", BIAS),
)
