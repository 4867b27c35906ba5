"""GPT, the first: GPT-2's parts, but each norm stands behind the sum (post-LayerNorm), and none at the end.

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", section 4.1. What its
configuration calls "gelu" is the tanh form. GGUF has no such architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import gpt2, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, choose, read_key
from hornbook.checkpoint.rules import TensorSource
from hornbook.model.config import ModelConfig

KEYS = (*(key for key in gpt2.KEYS if key.ours != "context_length"), Key("n_positions", "context_length", int, 512))
ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}
NAMES = {ours: theirs for ours, theirs in gpt2.NAMES.items() if not ours.endswith("norm")} | {
    "embed.tokens": ".tokens_embed",
    "embed.positions": ".positions_embed",
    "blocks.{i}.attention_post_norm": ".h.{i}.ln_1",
    "blocks.{i}.feedforward_post_norm": ".h.{i}.ln_2",
}


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    return {
        "kv_heads": fields["heads"],
        "head_width": hugging_face.read_head_width(fields),
        "feedforward_width": 4 * fields["width"],
        "activation": choose(ACTIVATIONS, read_key(raw, "afn", str, "gelu"), "the activation (afn)"),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    names = [theirs for theirs, ours in ACTIVATIONS.items() if ours == config.activation]
    if not names:
        raise ValueError(f"its activation {config.activation} has no name there")
    return {"afn": names[0], "embd_pdrop": config.dropout}


HUGGING_FACE = Family(
    "openai-gpt",
    KEYS,
    gpt2.transposed(NAMES),
    shape=gpt2.SHAPE | {"norm_placement": "post"},
    read=read,
    write=write,
    heads=gpt2.heads("OpenAIGPT", "LMHeadModel"),
    prefix="transformer",
    unused=(*gpt2.UNUSED, r"position_ids"),
)
