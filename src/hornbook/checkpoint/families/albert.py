"""ALBERT: a BERT whose layers share their weights, and whose tables are narrower than its states (arXiv 1909.11942)."""

from __future__ import annotations

from functools import partial

from hornbook.checkpoint import hugging_face
from hornbook.checkpoint.families import bert
from hornbook.checkpoint.family import Family
from hornbook.checkpoint.fields import Key, Only, Part
from hornbook.checkpoint.rules import layer

KEYS: tuple[Part, ...] = (
    *bert.keys(0.0, "gelu_new", hugging_face.OLD_ACTIVATION),
    Key("embedding_size", "embedding_width", int, 128),
    Key("num_hidden_groups", "layer_groups", int, 1),
    Only("inner_group_num", 1, "has groups in which each layer is several"),
)
NAMES = bert.NAMES | {
    "embed.projection": ".encoder.embedding_hidden_mapping_in",
    **layer(".encoder.albert_layer_groups.{i}.albert_layers.0.", {
        "attention.query": "attention.query", "attention.key": "attention.key", "attention.value": "attention.value",
        "attention.output": "attention.dense", "attention_post_norm": "attention.LayerNorm",
        "feedforward.up": "ffn", "feedforward.down": "ffn_output", "feedforward_post_norm": "full_layer_layer_norm",
    }),
    "pooler.dense": ".pooler", "head.dense": "predictions.dense", "head.norm": "predictions.LayerNorm",
    "head.bias": "predictions.bias", "next_sentence": "sop_classifier.classifier",
}  # fmt: skip
HUGGING_FACE = Family(
    "albert", KEYS, partial(bert.maps, names=NAMES), bert.SHAPE,
    partial(bert.read, head="predictions.", pooler="pooler.weight"),
    heads=bert.heads("Albert") | {"AlbertForPreTraining": bert.MASKED | bert.PAIRED}, prefix="albert",
    unused=(r"embeddings\.position_ids", r"pooler\..*", r"predictions\..*", r"sop_classifier\..*"), aliases=bert.GAMMA,
)  # fmt: skip
