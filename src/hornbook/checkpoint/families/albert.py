"""ALBERT: a BERT whose layers share their weights, and whose tables are narrower than its states (arXiv 1909.11942)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import bert
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import Key, read_key
from hornbook.checkpoint.rules import TensorSource, override, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import ModelConfig

KEYS = (
    *bert.KEYS,
    Key("hidden_dropout_prob", "dropout", float, 0.0),  # where nothing is said, for these two
    Key("attention_probs_dropout_prob", "attention_dropout", float, 0.0),
    Key("embedding_size", "embedding_width", int, 128),
    Key("num_hidden_groups", "layer_groups", int, 1),
)
LAYER = ".encoder.albert_layer_groups.{i}.albert_layers.0"
MAPS = override(
    bert.ENCODER,
    *table(
        {
            "embed.projection": ".encoder.embedding_hidden_mapping_in",
            "blocks.{i}.attention.query": f"{LAYER}.attention.query",
            "blocks.{i}.attention.key": f"{LAYER}.attention.key",
            "blocks.{i}.attention.value": f"{LAYER}.attention.value",
            "blocks.{i}.attention.output": f"{LAYER}.attention.dense",
            "blocks.{i}.attention_post_norm": f"{LAYER}.attention.LayerNorm",
            "blocks.{i}.feedforward.up": f"{LAYER}.ffn",
            "blocks.{i}.feedforward.down": f"{LAYER}.ffn_output",
            "blocks.{i}.feedforward_post_norm": f"{LAYER}.full_layer_layer_norm",
            "pooler.dense": ".pooler",
            "head.dense": "predictions.dense",
            "head.norm": "predictions.LayerNorm",
            "head.bias": "predictions.bias",
            "next_sentence": "sop_classifier.classifier",
        }
    ),
)


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    if (inner := read_key(raw, "inner_group_num", int, 1)) != 1:
        raise UnsupportedModel(
            f"each layer is {inner} layers (inner_group_num)",
            "Take an ALBERT where it is 1, as in all that were released.",
        )
    return bert.read_encoder(raw, source, fields, head="predictions.", pooler="pooler.weight", activation="gelu_new")


def write(config: ModelConfig) -> dict[str, Any]:
    tanh = {"hidden_act": "gelu_new"} if config.activation == "gelu_tanh" else {}  # as the released ones say
    return bert.write_encoder(config) | tanh | {"inner_group_num": 1}


HUGGING_FACE = Family(
    "albert",
    KEYS,
    lambda config: bert.spans(MAPS, config),
    bert.SHAPE,
    read=read,
    write=write,
    heads=bert.heads("Albert") | bert.pretraining_heads("Albert"),
    prefix="albert",
    unused=(r"embeddings\.position_ids", r"pooler\..*", r"predictions\..*", r"sop_classifier\..*"),
    aliases=bert.GAMMA,
)
