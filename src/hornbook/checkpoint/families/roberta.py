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
from hornbook.checkpoint.rules import Table, TensorSource
from hornbook.errors import UnsupportedModel
from hornbook.model.config import ModelConfig

NAMES = bert.NAMES | {"head.dense": "lm_head.dense", "head.norm": "lm_head.layer_norm", "head.bias": "lm_head.bias"}
TEXT = {"pooler.dense": "classifier.dense", "classifier.linear": "classifier.out_proj"}  # of what scores a whole text


def maps(config: ModelConfig) -> Table:
    text = config.classifier is not None and config.classifier.over == "sequence"
    return bert.maps(config, NAMES | TEXT if text else NAMES)


def read(raw: Mapping[str, Any], source: TensorSource, fields: Fields) -> Fields:
    found = bert.read(raw, source, fields, head="lm_head.")
    if (fields | found)["language_head"] and fields["activation"] != "gelu":
        raise UnsupportedModel(
            f"the layers' activation is {fields['activation']} and the language head's gelu",
            "Take one where both are gelu.",
        )
    offset = read_key(raw, "pad_token_id", int, 1) + 1
    return found | {"position_offset": offset, "context_length": fields["context_length"] - offset}


def write(config: ModelConfig) -> dict[str, Any]:
    rows = config.context_length + config.position_offset
    return {"pad_token_id": config.position_offset - 1, "max_position_embeddings": rows}


def family(name: str, stem: str) -> Family:
    unused = (r"embeddings\.position_ids", r"pooler\..*", r"lm_head\..*")
    return bert.HUGGING_FACE._replace(
        name=name, maps=maps, read=read, write=write, heads=bert.heads(stem), prefix="roberta", unused=unused
    )


ROBERTA = family("roberta", "Roberta")
XLM_ROBERTA = family("xlm-roberta", "XLMRoberta")
CAMEMBERT = family("camembert", "Camembert")
