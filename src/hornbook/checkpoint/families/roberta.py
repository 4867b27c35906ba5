"""RoBERTa, and in other languages XLM-RoBERTa and CamemBERT: BERT without its task of the next sentence.

Sources: arXiv 1907.11692, 1911.02116, 1911.03894. The first position stands behind the rows that padding has. A text is
summed up by a layer of the classifier's own, which computes what BERT's pooler does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.checkpoint.families import bert
from hornbook.checkpoint.family import Family, Fields
from hornbook.checkpoint.fields import read_key
from hornbook.checkpoint.rules import Table, TensorSource, override, table
from hornbook.errors import UnsupportedModel
from hornbook.model.config import ModelConfig


def maps(config: ModelConfig) -> Table:
    changes = table({"head.dense": "lm_head.dense", "head.norm": "lm_head.layer_norm", "head.bias": "lm_head.bias"})
    if config.classifier is not None and config.classifier.over == "sequence":
        changes += table({"pooler.dense": "classifier.dense", "classifier.linear": "classifier.out_proj"})
    return bert.spans(override(bert.ENCODER, *changes), config)


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    found = bert.read_encoder(raw, source, fields, head="lm_head.", pooler="pooler.dense.weight")
    if found.get("language_head", fields["language_head"]) and found["activation"] != "gelu":
        raise UnsupportedModel(
            f"the layers' activation is {found['activation']} and the language head's gelu",
            "Take one where both are gelu.",
        )
    offset = read_key(raw, "pad_token_id", int, 1) + 1
    return found | {
        "position_offset": offset,
        "context_length": read_key(raw, "max_position_embeddings", int, 512) - offset,
    }


def write(config: ModelConfig) -> dict[str, Any]:
    return bert.write_encoder(config) | {
        "pad_token_id": config.position_offset - 1,
        "max_position_embeddings": config.context_length + config.position_offset,
    }


def family(name: str, stem: str) -> Family:
    return bert.HUGGING_FACE._replace(
        name=name,
        keys=bert.SIZES,
        maps=maps,
        read=read,
        write=write,
        heads=bert.heads(stem),
        prefix="roberta",
        unused=(r"embeddings\.position_ids", r"pooler\..*", r"lm_head\..*"),
    )


ROBERTA = family("roberta", "Roberta")
XLM_ROBERTA = family("xlm-roberta", "XLMRoberta")
CAMEMBERT = family("camembert", "Camembert")
