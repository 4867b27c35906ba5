"""GPT-2: pre-LayerNorm, learned positions, the tanh form of GELU, a head tied to the tokens, and one matrix [in, out] that
makes queries, keys and values.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3. In GGUF the matrices
stand [out, in], as everywhere there. ``reorder_and_upcast_attn`` asks for attention in float32, which changes no formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint import ggml, hugging_face
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import MULTI_HEAD, Also, Key, Only, Part, Words
from hornbook.checkpoint.rules import Chain, Map, Transposed, layer, override, table


def sizes(context: int = 1024, *, tied: bool = True, dropout: float = 0.1) -> tuple[Part, ...]:
    """What GPT, GPT-2 and GPT-J call alike; given are the values of a file that does not say."""
    return (
        Key("vocab_size", "vocab_size", int), Key("n_positions", "context_length", int, context),
        Key("n_embd", "width", int), Key("n_layer", "layers", int), Key("n_head", "heads", int), *MULTI_HEAD,
        Key("layer_norm_epsilon", "norm_epsilon", float, 1e-5), Key("tie_word_embeddings", "tied_head", bool, tied),
        Key("resid_pdrop", "dropout", float, dropout), Also("embd_pdrop", "dropout"),
        Key("attn_pdrop", "attention_dropout", float, dropout),
    )  # fmt: skip


def inner(theirs: str) -> Key:
    """The width inside the feed-forward, four times the model's where none is said."""
    return Key(theirs, "feedforward_width", int, lambda fields: 4 * fields["width"])


ACTIVATION = Key("activation_function", "activation", hugging_face.OLD_ACTIVATION, "gelu_new")
KEYS: tuple[Part, ...] = (
    *sizes(),
    inner("n_inner"),
    ACTIVATION,
    Key("scale_attn_weights", "query_scale", Words({True: None, False: 1.0}), True),
    Only("scale_attn_by_inverse_layer_idx", False, "divides its scores by the number of the layer"),
    Only("add_cross_attention", False, "looks at an encoder's states"),
)
PLAIN = {"norm": "layer", "gated": False, "feedforward_bias": True}  # what most decoders of that time have
SHAPE = PLAIN | {"positions": "learned", "qkv_bias": True, "attention_output_bias": True}
NAMES = {
    "embed.tokens": ".wte", "embed.positions": ".wpe", "norm": ".ln_f", "head.tokens": "lm_head",
    "classifier.linear": "score",
    **layer(".h.{i}.", {
        "attention_norm": "ln_1", "attention.output": "attn.c_proj",
        "feedforward_norm": "ln_2", "feedforward.up": "mlp.c_fc", "feedforward.down": "mlp.c_proj",
    }),
}  # fmt: skip
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


def heads(stem: str, language: str = "ForCausalLM") -> dict[str, dict[str, Any]]:
    """The classes of transformers but the one for tokens, whose layer has another name in these families."""
    known = hugging_face.decoder_heads(stem, language)
    return {name: implied for name, implied in known.items() if not name.endswith("ForTokenClassification")}


HUGGING_FACE = Family(
    "gpt2", KEYS, transposed(NAMES), SHAPE, heads=heads("GPT2", "LMHeadModel"), prefix="transformer", unused=UNUSED,
    twin="gpt2",
)  # fmt: skip
GGUF = Family(
    "gpt2", ggml.sizes("gpt2", ggml.LAYER), override(ggml.DECODER, ggml.QKV), SHAPE | {"activation": "gelu_tanh"},
    twin="gpt2",
)  # fmt: skip
