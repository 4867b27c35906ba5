"""ALBERT, its layers shared all, in groups or not at all, with every head: the numbers of transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family_parity import (
    SMALL,
    Case,
    answer_of,
    batch,
    check_heads,
    check_rewritten,
    check_saved,
    edited,
    reference_of,
    relative,
    tensors_of,
)

from hornbook.checkpoint import load, save
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
        ({"inner_group_num": 2}, r"each layer is several \(inner_group_num is 2\)"),
        ({"num_hidden_groups": 3}, "3 groups of weights cannot serve 4 layers"),
        ({"position_embedding_type": "relative_key_query"}, "position_embedding_type is 'relative_key_query'"),
    ],
)
def test_a_variant_that_computes_something_else_is_refused_by_name(
    said: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises((UnsupportedModel, ModelFileError), match=message):
        load(edited(CASES[0], tmp_path, **said), device="cpu")


def test_a_chinese_one_is_loaded_as_it_was_released(tmp_path: Path) -> None:
    """Like the CKIP lab's: fields of the first release, the tied head written again, a pooler that no head uses."""
    case = CASES[1]
    tensors = tensors_of(case) | {"albert.embeddings.position_ids": torch.arange(64)[None]}
    tensors |= {"albert.pooler.weight": torch.ones(48, 48), "albert.pooler.bias": torch.ones(48)}
    tensors |= {"sop_classifier.classifier.weight": torch.ones(2, 48), "sop_classifier.classifier.bias": torch.ones(2)}
    assert {"predictions.decoder.weight", "predictions.decoder.bias"} <= tensors.keys()
    folder = edited(
        case, tmp_path / "theirs", tensors=tensors, classifier_dropout_prob=0.1, down_scale_factor=1, gap_size=0,
        net_structure_type=0, num_memory_blocks=0, position_embedding_type="absolute", tokenizer_class="BertTokenizerFast",
    )  # fmt: skip
    checkpoint = load(folder, device="cpu")
    ids, mask = batch(case.vocab)
    logits = checkpoint.model(ids, mask=mask).logits
    assert logits is not None
    assert relative(logits[0].detach(), answer_of(reference_of(case), ids[:1]).logits[0]) < 1e-5
    bare = load(edited(case, tmp_path / "theirs", tensors=tensors, architectures=["AlbertModel"]), device="cpu")
    assert bare.config.pooler and not bare.config.language_head
    save(checkpoint, tmp_path / "ours")
    assert load(tmp_path / "ours", device="cpu").config == checkpoint.config
