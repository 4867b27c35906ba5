"""GPT-J: attention and feed-forward side by side behind one LayerNorm, rotary pairs that are neighbours, a biased head.

Source: Wang & Komatsuzaki 2021, "GPT-J-6B: A 6 Billion Parameter Autoregressive Language Model" (mesh-transformer-jax).
llama.cpp has no such architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import gpt2, hugging_face
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, read_key
from hornbook.checkpoint.rules import TensorSource, table
from hornbook.model.config import LayerKind, ModelConfig, Rotary

KEYS = (
    *(key for key in gpt2.KEYS if key.ours not in ("tied_head", "dropout", "attention_dropout")),
    Key("tie_word_embeddings", "tied_head", bool, False),
    Key("resid_pdrop", "dropout", float, 0.0),
    Key("attn_pdrop", "attention_dropout", float, 0.0),
)
SHAPE: dict[str, Any] = {
    "norm": "layer",
    "gated": False,
    "feedforward_bias": True,
    "parallel": True,
    "shared_norm": True,
    "head_bias": True,
}
NAMES = {
    "embed.tokens": ".wte",
    "norm": ".ln_f",
    "head.tokens": "lm_head",
    "head.bias": "lm_head.bias",
    "classifier.linear": "score",
    "blocks.{i}.attention_norm": ".h.{i}.ln_1",
    "blocks.{i}.attention.query": ".h.{i}.attn.q_proj",
    "blocks.{i}.attention.key": ".h.{i}.attn.k_proj",
    "blocks.{i}.attention.value": ".h.{i}.attn.v_proj",
    "blocks.{i}.attention.output": ".h.{i}.attn.out_proj",
    "blocks.{i}.feedforward.up": ".h.{i}.mlp.fc_in",
    "blocks.{i}.feedforward.down": ".h.{i}.mlp.fc_out",
}


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    width, turned = hugging_face.read_head_width(fields), read_key(raw, "rotary_dim", int, 64)
    rotary = Rotary(width=None if turned == width else turned, interleaved=True)
    return {
        "kv_heads": fields["heads"],
        "head_width": width,
        "feedforward_width": read_key(raw, "n_inner", int, 4 * fields["width"]),
        "activation": hugging_face.read_activation(raw, "activation_function", "gelu_new"),
        "pattern": (LayerKind(rotary=rotary),),
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_inner": config.feedforward_width,
        "activation_function": gpt2.write_activation(config),
        "rotary_dim": config.rotary_width(hugging_face.pattern_rotary(config)),
        "embd_pdrop": config.dropout,
    }


HUGGING_FACE = Family(
    "gptj",
    KEYS,
    table(NAMES),
    shape=SHAPE,
    read=read,
    write=write,
    heads=gpt2.heads("GPTJ", "ForCausalLM"),
    prefix="transformer",
    unused=gpt2.UNUSED,
)
