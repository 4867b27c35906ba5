"""T5 (arXiv 1910.10683): encoder and decoder, pre-RMSNorm, no positions but a bias by distance that all layers share, scores
that are not scaled.

1.0 has ReLU and a tied head whose scores are scaled; 1.1, FLAN and mT5 (arXiv 2010.11934) have a gated GELU and no scale.
In GGUF ReLU says 1.0, and llama.cpp leaves out the scale, which changes no likeliest token.
"""

from __future__ import annotations

from typing import Any

from hornbook.checkpoint import ggml, hugging_face
from hornbook.checkpoint.copies import Tied
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import MULTI_HEAD, Also, Has, Implied, Key, Part, Twice, Words
from hornbook.checkpoint.parts import Encoder, Inner, Switch
from hornbook.checkpoint.rules import Table, layer, table
from hornbook.model.config import ModelConfig, Relative

# feed_forward_proj: whether it is gated, and its activation; a gated "gelu" is the tanh form.
PROJECTIONS = {name: (False, ours) for name, ours in hugging_face.ACTIVATIONS.items()}
PROJECTIONS |= {f"gated-{name}": (True, ours) for name, (_, ours) in PROJECTIONS.items()}
PROJECTIONS["gated-gelu"] = (True, "gelu_tanh")
GATED = Words({name: gated for name, (gated, _) in PROJECTIONS.items()})
ACTIVATION = Words({name: activation for name, (_, activation) in PROJECTIONS.items()})
TABLES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # one, under any of its names
DISTANCE = 128  # from where on all share a bucket; in GGUF always


def keys(projection: str) -> tuple[Part, ...]:
    """What T5 and mT5 say alike; ``projection``: the feed-forward of a file that does not say."""
    return (
        Key("vocab_size", "vocab_size", int), Key("d_model", "width", int), Key("d_kv", "head_width", int, 64),
        Key("d_ff", "feedforward_width", int), Key("num_heads", "heads", int), MULTI_HEAD[0],
        Key("n_positions", "context_length", int, 512),  # what it was trained on: nothing else limits it
        Key("layer_norm_epsilon", "norm_epsilon", float, 1e-6),
        Key("dropout_rate", "dropout", float, 0.1), Key("dropout_rate", "attention_dropout", float, 0.1),
        Key("feed_forward_proj", "activation", ACTIVATION, projection),
        Key("feed_forward_proj", "gated", GATED, projection), Twice("is_gated_act", "gated"),
        Twice("dense_act_fn", "activation", hugging_face.OLD_ACTIVATION),
        Inner("relative", Relative, (
            Key("relative_attention_num_buckets", "buckets", int, 32),
            Key("relative_attention_max_distance", "distance", int, DISTANCE),
        )),
        Encoder((Key("num_layers", "layers", int),)),
        Key("num_decoder_layers", "layers", int, lambda fields: fields["encoder"].layers),
        Tied("lm_head.weight", TABLES),
    )  # fmt: skip


# Whether T5's scores are scaled; older files say it by what is called tied.
SCALE = Switch("tie_word_embeddings", "logit_scale", lambda fields: fields["width"] ** -0.5, True)
SCALED = (SCALE, SCALE._replace(theirs="scale_decoder_outputs", default=lambda fields: fields["logit_scale"] != 1.0))
SHAPE: Fields = {"query_scale": 1.0, "shared_tokens": True}
NAMES = {
    "embed.tokens": "shared", "head.tokens": "lm_head",
    "norm": "decoder.final_layer_norm", "relative": "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    "encoder.norm": "encoder.final_layer_norm",
    "encoder.relative": "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
}  # fmt: skip


def projections(ours: str, theirs: str) -> dict[str, str]:
    letters = {"query": "q", "key": "k", "value": "v", "output": "o"}
    return {f"{ours}.{name}": theirs + letter for name, letter in letters.items()}


SELF = {"attention_norm": "layer.0.layer_norm"} | projections("attention", "layer.0.SelfAttention.")
CROSS = {"cross_norm": "layer.1.layer_norm"} | projections("cross", "layer.1.EncDecAttention.")


def maps(config: ModelConfig) -> Table:
    """The feed-forward stands behind one attention in the encoder, behind two in the decoder."""
    matrices = {"gate": "wi_0", "up": "wi_1" if config.gated else "wi", "down": "wo"}

    def behind(place: int) -> dict[str, str]:
        names = {f"feedforward.{ours}": f"layer.{place}.DenseReluDense.{name}" for ours, name in matrices.items()}
        return {"feedforward_norm": f"layer.{place}.layer_norm"} | names

    encoder = layer("encoder.block.{i}.", SELF | behind(1), "encoder.blocks.{i}.")
    return table(NAMES | encoder | layer("decoder.block.{i}.", SELF | CROSS | behind(2)))


def write(config: ModelConfig) -> dict[str, Any]:
    projection = Words(PROJECTIONS).word((config.gated, config.activation))
    return {
        "is_encoder_decoder": True, "decoder_start_token_id": 0,  # the padding, of every T5
        "feed_forward_proj": projection, "tie_word_embeddings": config.logit_scale != 1.0,
    }  # fmt: skip


HEADS = {
    "T5ForConditionalGeneration": {"language_head": True}, "T5Model": {"language_head": False},
    "T5WithLMHeadModel": {"language_head": True},  # what it was called first
}  # fmt: skip
HUGGING_FACE = Family(
    "t5", (*keys("relu"), *SCALED), maps, SHAPE, write=write, heads=HEADS,
    unused=(
        r"(encoder|decoder)\.embed_tokens\.weight", r"lm_head\.weight",
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    ),
    aliases=((r"^(encoder|decoder)\.embed_tokens\.", "shared."),), twin="t5",
)  # fmt: skip
MT5 = HUGGING_FACE._replace(
    name="mt5", keys=keys("gated-gelu"),
    heads={name.replace("T5", "MT5"): implied for name, implied in list(HEADS.items())[:2]},
)  # fmt: skip

# ------------------------------------------------------------------------------------------------------------- GGUF

BLOCKS, *SIZES = ggml.sizes("t5")  # the first says how many layers: here the encoder's
KEYS_GGUF: tuple[Part, ...] = (
    *SIZES,
    Also("t5.attention.layer_norm_epsilon", "norm_epsilon"),
    Has("dec.blk.0.ffn_gate.weight", "gated"),
    Implied("activation", lambda fields: "gelu_tanh" if fields["gated"] else "relu"),
    Inner("relative", Relative, (
        Key("t5.attention.relative_buckets_count", "buckets", int), Implied("distance", lambda fields: DISTANCE),
    )),
    Encoder((BLOCKS,)),
    Key("t5.decoder_block_count", "layers", int, lambda fields: fields["encoder"].layers),
    Implied("logit_scale", lambda fields: 1.0 if fields["gated"] else fields["width"] ** -0.5),
)  # fmt: skip
LAYER_GGUF = {
    "attention_norm": "attn_norm", **projections("attention", "attn_"),
    "cross_norm": "cross_attn_norm", **projections("cross", "cross_attn_"),
    "feedforward_norm": "ffn_norm", **{f"feedforward.{name}": f"ffn_{name}" for name in ("gate", "up", "down")},
}  # fmt: skip
NAMES_GGUF = {
    "embed.tokens": "token_embd", "head.tokens": "output", "norm": "dec.output_norm",
    "relative": "dec.blk.0.attn_rel_b", "encoder.norm": "enc.output_norm", "encoder.relative": "enc.blk.0.attn_rel_b",
    **layer("enc.blk.{i}.", LAYER_GGUF, "encoder.blocks.{i}."), **layer("dec.blk.{i}.", LAYER_GGUF),
}  # fmt: skip
GGUF = Family(
    "t5", KEYS_GGUF, table(NAMES_GGUF), SHAPE, write=lambda config: {"t5.decoder_start_token_id": 0},
    unused=(r"dec\.blk\.\d+\.cross_attn_rel_b\.weight",), twin="t5",
)  # fmt: skip
