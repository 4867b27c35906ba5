"""The Transformer of 2017 (arXiv 1706.03762) as Marian's translators are kept: encoder and decoder, post-norm, sinusoids.

The sines of all frequencies stand before the cosines, as in ``model.positions.sinusoids``. Encoder and decoder share one
table of tokens, or each has its own; the head is the decoder's, and adds a bias. The sinusoids that old files hold as
tables are computed here. Source of Marian: Junczys-Dowmunt et al. 2018, arXiv 1804.00344.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint import hugging_face
from hornbook.checkpoint.copies import original_of
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import MULTI_HEAD, Has, Key, Only, Part
from hornbook.checkpoint.parts import Encoder, Switch
from hornbook.checkpoint.rules import Map, Reshaped, Table, TensorSource, layer, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import ModelConfig


def sizes(part: str) -> tuple[Part, ...]:
    """The sizes of the "encoder" or the "decoder"."""
    return (
        Key(f"{part}_layers", "layers", int), Key(f"{part}_ffn_dim", "feedforward_width", int),
        Key(f"{part}_attention_heads", "heads", int), *MULTI_HEAD,
    )  # fmt: skip


KEYS: tuple[Part, ...] = (
    Key("d_model", "width", int), Key("max_position_embeddings", "context_length", int, 1024),
    Key("dropout", "dropout", float, 0.1), Key("attention_dropout", "attention_dropout", float, 0.0),
    Key("activation_function", "activation", hugging_face.ACTIVATION, "gelu"),
    Switch("scale_embedding", "embedding_scale", lambda fields: fields["width"] ** 0.5, False),
    Encoder((Key("vocab_size", "vocab_size", int), *sizes("encoder"))),
    *sizes("decoder"),
    Key("decoder_vocab_size", "vocab_size", int, lambda fields: fields["encoder"].vocab_size),
    Key("share_encoder_decoder_embeddings", "shared_tokens", bool, True),
    Key("tie_word_embeddings", "tied_head", bool, True), Has("final_logits_bias", "head_bias"),
    # What sister models of this layout have.
    Only("normalize_before", False, "normalises before each part"),
    Only("normalize_embedding", False, "normalises what enters"),
    Only("add_final_layer_norm", False, "normalises at the end of each stack"),
    Only("static_position_embeddings", True, "has learned its positions"),
    Only("is_encoder_decoder", True, "is no encoder with a decoder"),
)  # fmt: skip
SHAPE: Fields = {
    "positions": "sinusoidal", "norm": "layer", "norm_placement": "post", "gated": False,
    "qkv_bias": True, "attention_output_bias": True, "feedforward_bias": True,
}  # fmt: skip
PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
LAYER = {
    **{f"attention.{ours}": f"self_attn.{theirs}" for ours, theirs in PROJECTIONS.items()},
    **{f"cross.{ours}": f"encoder_attn.{theirs}" for ours, theirs in PROJECTIONS.items()},
    "attention_post_norm": "self_attn_layer_norm", "cross_post_norm": "encoder_attn_layer_norm",
    "feedforward.up": "fc1", "feedforward.down": "fc2", "feedforward_post_norm": "final_layer_norm",
}  # fmt: skip
LAYERS = layer(".encoder.layers.{i}.", LAYER, "encoder.blocks.{i}.") | layer(".decoder.layers.{i}.", LAYER)
APART = {"embed.tokens": ".decoder.embed_tokens", "encoder.embed.tokens": ".encoder.embed_tokens"}
TABLES = ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")  # the tables that may be one


def maps(config: ModelConfig) -> Table:
    tokens = {"embed.tokens": ".shared"} if config.shared_tokens else APART
    bias = Map(("head.bias",), ("final_logits_bias",), Reshaped())
    return (*table(tokens | LAYERS | {"head.tokens": "lm_head"}), bias)


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    """Whether all tables are one, or two, one for each language. Raises UnsupportedModel where copies are none."""
    shared, tied = fields["shared_tokens"], fields["tied_head"]
    if shared and not tied:
        raise UnsupportedModel(
            "share_encoder_decoder_embeddings is true and tie_word_embeddings false",
            "Hornbook reads models that share all tables, or that have one for each language.",
        )
    if tied:
        alike = TABLES if shared else TABLES[2:]
        original_of(source, [f"{prefix}{name}.weight" for name in alike for prefix in ("model.", "")])
    return {"vocab_size": fields["encoder"].vocab_size} if shared else {}


def write(config: ModelConfig) -> dict[str, Any]:
    """Where Marian has the padding, with which its decoders begin."""
    encoder = config.encoder or config
    padding = min(encoder.vocab_size, config.vocab_size) - 1
    return {"is_encoder_decoder": True, "pad_token_id": padding, "decoder_start_token_id": padding}


HUGGING_FACE = Family(
    "marian", KEYS, maps, SHAPE, read, write, prefix="model",
    heads={"MarianMTModel": {"language_head": True}, "MarianModel": {"language_head": False}},
    unused=(r"(encoder|decoder)\.embed_(positions|tokens)\.weight", r"lm_head\.weight", "final_logits_bias"),
)  # fmt: skip
