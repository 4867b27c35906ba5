"""ALBERT, its layers shared all, in groups or not at all, with every head: the numbers of transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from family_parity import SMALL, Case, check_heads, check_rewritten, check_saved, reference_of

from hornbook.checkpoint import load
from hornbook.errors import ModelFileError, UnsupportedModel

ALBERT = SMALL | {"embedding_size": 16, "num_hidden_layers": 4, "max_position_embeddings": 64, "pad_token_id": 0}
LABELS = {"id2label": dict(enumerate(["B", "I", "O"]))}
CASES = [
    Case("albert", "AlbertModel", ALBERT),
    Case("albert, two groups", "AlbertForMaskedLM", ALBERT | {"num_hidden_groups": 2}),
    Case("albert, a group for each layer, wide tables", "AlbertForMaskedLM", ALBERT | {"num_hidden_groups": 4, "embedding_size": 48}),
    Case("albert, pre-training", "AlbertForPreTraining", ALBERT | {"hidden_act": "gelu"}),
    Case("albert, a text's label", "AlbertForSequenceClassification", ALBERT | LABELS),
    Case("albert, tokens' labels", "AlbertForTokenClassification", ALBERT | LABELS | {"hidden_act": "relu"}),
    Case("albert, spans", "AlbertForQuestionAnswering", ALBERT),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_states_and_every_head_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    check_heads(case, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_saved_is_read_by_transformers(case: Case, tmp_path: Path) -> None:
    check_saved(case, tmp_path)
    check_rewritten(case, tmp_path / "again")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"inner_group_num": 2}, "each layer is 2 layers"),
        ({"num_hidden_groups": 3}, "3 groups of weights cannot serve 4 layers"),
        ({"position_embedding_type": "relative_key_query"}, "position_embedding_type is 'relative_key_query'"),
    ],
)
def test_a_variant_that_computes_something_else_is_refused_by_name(
    said: dict[str, object], message: str, tmp_path: Path
) -> None:
    reference_of(CASES[0]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | said), "utf-8")
    with pytest.raises((UnsupportedModel, ModelFileError), match=message):
        load(tmp_path, device="cpu")
