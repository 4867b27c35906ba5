"""GPT-2: pre-LayerNorm, learned positions, the tanh form of GELU, a head tied to the tokens, and one matrix [in, out] that
makes queries, keys and values.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3. In GGUF the matrices
stand [out, in], as everywhere there. ``reorder_and_upcast_attn`` asks for attention in float32, which changes no formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import ggml, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, read_key
from hornbook.checkpoint.rules import Chain, Map, TensorSource, Transposed, override, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import ModelConfig

KEYS = (
    Key("vocab_size", "vocab_size", int),
    Key("n_positions", "context_length", int, 1024),
    Key("n_embd", "width", int),
    Key("n_layer", "layers", int),
    Key("n_head", "heads", int),
    Key("layer_norm_epsilon", "norm_epsilon", float, 1e-5),
    Key("tie_word_embeddings", "tied_head", bool, True),
    Key("resid_pdrop", "dropout", float, 0.1),
    Key("attn_pdrop", "attention_dropout", float, 0.1),
)
SHAPE: dict[str, Any] = {
    "positions": "learned",
    "norm": "layer",
    "qkv_bias": True,
    "attention_output_bias": True,
    "gated": False,
    "feedforward_bias": True,
}
NAMES = {
    "embed.tokens": ".wte",
    "embed.positions": ".wpe",
    "norm": ".ln_f",
    "head.tokens": "lm_head",
    "classifier.linear": "score",
    "blocks.{i}.attention_norm": ".h.{i}.ln_1",
    "blocks.{i}.attention.output": ".h.{i}.attn.c_proj",
    "blocks.{i}.feedforward_norm": ".h.{i}.ln_2",
    "blocks.{i}.feedforward.up": ".h.{i}.mlp.c_fc",
    "blocks.{i}.feedforward.down": ".h.{i}.mlp.c_proj",
}
# Masks that older versions of the reference wrote beside the weights, and a tied head that is written a second time.
UNUSED = (r"h\.\d+\.attn\.(attention\.)?(masked_)?bias", r"lm_head\.weight")


def transposed(names: Mapping[str, str]) -> tuple[Map, ...]:
    """``names`` and the fused projection, with matrices [in, out] inside the layers."""
    inside = {ours: theirs for ours, theirs in names.items() if ".attention." in ours or ".feedforward." in ours}
    return override(
        table(names),
        *(Map((ours,), (theirs,), Transposed()) for ours, theirs in inside.items()),
        Map(ggml.FUSED, (".h.{i}.attn.c_attn",), lambda c: Chain((Transposed(), ggml.thirds(c)))),
    )


def heads(stem: str, language: str) -> dict[str, dict[str, Any]]:
    """The classes of transformers but the one for tokens, whose layer has another name in these families."""
    known = hugging_face.decoder_heads(stem, language)
    return {name: implied for name, implied in known.items() if not name.endswith("ForTokenClassification")}


def write_activation(config: ModelConfig) -> str:
    """By the name that the tanh form has in the configurations of that time."""
    return "gelu_new" if config.activation == "gelu_tanh" else hugging_face.write_activation(config.activation)


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    for key, what in {
        "scale_attn_by_inverse_layer_idx": "divides its scores by the number of the layer",
        "add_cross_attention": "looks at an encoder's states",
    }.items():
        if read_key(raw, key, bool, False):
            raise UnsupportedModel(f"this GPT-2 {what} ({key})", "Take a model without it, as the published ones are.")
    return {
        "kv_heads": fields["heads"],
        "head_width": hugging_face.read_head_width(fields),
        "feedforward_width": read_key(raw, "n_inner", int, 4 * fields["width"]),
        "activation": hugging_face.read_activation(raw, "activation_function", "gelu_new"),
        "query_scale": None if read_key(raw, "scale_attn_weights", bool, True) else 1.0,
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_inner": config.feedforward_width,
        "activation_function": write_activation(config),
        "scale_attn_weights": config.query_scale is None,
        "embd_pdrop": config.dropout,
    }


HUGGING_FACE = Family(
    "gpt2",
    KEYS,
    transposed(NAMES),
    shape=SHAPE,
    read=read,
    write=write,
    heads=heads("GPT2", "LMHeadModel"),
    prefix="transformer",
    unused=UNUSED,
    twin="gpt2",
)
GGUF = Family(
    "gpt2",
    ggml.keys("gpt2", ggml.LAYER),
    override(ggml.DECODER, ggml.QKV),
    shape=SHAPE | {"activation": "gelu_tanh"},
    read=lambda raw, source, fields: ggml.read_sizes(raw, source, fields, "gpt2"),
    write=lambda config: ggml.write_sizes(config, "gpt2"),
    twin="gpt2",
)
