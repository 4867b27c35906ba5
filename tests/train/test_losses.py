"""Training losses and their gradients are those of transformers' own classes, in training mode, on ragged batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from hornbook.checkpoint import load
from hornbook.model.transformer import Transformer
from hornbook.train import losses
from hornbook.train.batch import IGNORED, Batch, shift_right

LENGTHS = (11, 7, 4, 2)  # of the rows; sources are read backwards
VOCAB, LABELS, START = 61, 5, 0


class Case(NamedTuple):
    """A class of transformers, its configuration, our loss, and a batch for both."""

    model: str
    said: dict[str, Any]
    loss: losses.Objective
    make: Callable[[], tuple[Batch, dict[str, Tensor]]]

    def __str__(self) -> str:
        return self.model


def ids(rows: int = 4, seed: int = 1) -> Tensor:
    return torch.randint(3, VOCAB, (rows, LENGTHS[0]), generator=torch.Generator().manual_seed(seed))


def mask_of(lengths: tuple[int, ...]) -> Tensor:
    return torch.arange(LENGTHS[0]) < torch.tensor(lengths)[:, None]


MASK, SOURCE_MASK = mask_of(LENGTHS), mask_of(LENGTHS[::-1])
TYPES = (torch.arange(LENGTHS[0]) > 3).long().expand(4, -1)
FOLLOWS = torch.tensor([0, 1, 1, 0])


def some(labels: Tensor, every: int) -> Tensor:
    """Of real tokens every n-th."""
    return labels.masked_fill(~MASK | (torch.arange(labels.numel()).view_as(labels) % every != 1), IGNORED)


def next_token() -> tuple[Batch, dict[str, Tensor]]:
    labels = ids().masked_fill(~MASK, IGNORED)
    labels[0, :5], labels[1, 3] = IGNORED, IGNORED
    return Batch(ids(), labels, mask=MASK), {"labels": labels}


def read(labels: Tensor, **more: Tensor) -> tuple[Batch, dict[str, Tensor]]:
    batch = Batch(ids(), labels, mask=MASK, token_types=TYPES, follows=more.get("next_sentence_label"))
    return batch, {"token_type_ids": TYPES, "labels": labels, **more}


def masked() -> tuple[Batch, dict[str, Tensor]]:
    return read(some(ids(seed=3), 3))


def masked_and_next() -> tuple[Batch, dict[str, Tensor]]:
    return read(some(ids(seed=3), 3), next_sentence_label=FOLLOWS)


def spans() -> tuple[Batch, dict[str, Tensor]]:
    """Without padding, over which transformers lets an answer lie; one answer is cut off."""
    first, last = torch.tensor([2, 5, 0, 99]), torch.tensor([4, 10, 0, 99])
    batch = Batch(ids(), torch.stack([first, last], 1), token_types=TYPES)
    return batch, {"token_type_ids": TYPES, "start_positions": first, "end_positions": last}


def pairs() -> tuple[Batch, dict[str, Tensor]]:
    labels = ids(seed=4).masked_fill(~MASK, IGNORED)
    batch = Batch(shift_right(labels, START, START), labels, MASK, source=ids(), source_mask=SOURCE_MASK)
    return batch, {"labels": labels}


SMALL = {
    "vocab_size": VOCAB, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 32,
}  # fmt: skip
BERT = SMALL | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": LABELS}
ALBERT = BERT | {"embedding_size": 12, "num_hidden_groups": 1, "classifier_dropout_prob": 0.0}
LLAMA = SMALL | {"num_key_value_heads": 2, "pad_token_id": None}
MIXTRAL = LLAMA | {"num_local_experts": 4, "output_router_logits": True, "router_aux_loss_coef": 0.3}
T5 = {
    "vocab_size": VOCAB, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0,
    "decoder_start_token_id": START, "pad_token_id": START,
}  # fmt: skip
MARIAN = {
    "vocab_size": VOCAB, "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 32,
    "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0, "scale_embedding": True, "decoder_start_token_id": START, "pad_token_id": START,
    "eos_token_id": 1, "forced_eos_token_id": 1,
}  # fmt: skip

CASES = [
    Case("LlamaForCausalLM", LLAMA, losses.causal_lm(), next_token),
    Case("MixtralForCausalLM", MIXTRAL, losses.causal_lm(balance=0.3), next_token),
    Case("BertForMaskedLM", BERT, losses.masked_lm(), masked),
    Case("AlbertForMaskedLM", ALBERT, losses.masked_lm(), masked),
    Case("BertForPreTraining", BERT, losses.masked_lm_and_next_sentence(), masked_and_next),
    Case(
        "BertForSequenceClassification", BERT, losses.sequence_classification(),
        lambda: read(torch.tensor([3, 0, IGNORED, 4])),
    ),
    Case(
        "BertForTokenClassification", BERT, losses.token_classification(), lambda: read(some(ids() % LABELS, 2))
    ),
    Case("BertForQuestionAnswering", BERT | {"num_labels": 2}, losses.span(), spans),
    Case("T5ForConditionalGeneration", T5, losses.seq2seq(), pairs),
    Case("MarianMTModel", MARIAN, losses.seq2seq(), pairs),
]  # fmt: skip


@cache
def reference(name: str) -> Any:
    """A model of transformers in training mode, with weights that leave no part without effect."""
    import transformers

    case = next(case for case in CASES if case.model == name)
    torch.manual_seed(7)
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**case.said, attn_implementation="eager"))
    draw = torch.Generator().manual_seed(8)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        about = 1.0 if parameter.ndim == 1 and parameter.mean() > 0.5 else 0.0
        parameter.data = about + 0.2 * torch.randn(parameter.shape, generator=draw)
    return model.train()


def theirs(case: Case, given: dict[str, Tensor], batch: Batch) -> Any:
    read = {"input_ids": batch.ids, "attention_mask": batch.mask}
    if batch.source is not None:
        read = {"input_ids": batch.source, "attention_mask": batch.source_mask}
    return reference(case.model)(**{k: v for k, v in read.items() if v is not None}, **given)


def ours(case: Case, folder: Path) -> Transformer:
    reference(case.model).save_pretrained(folder)
    return load(folder, dtype="float32", device="cpu").model.requires_grad_(True).train()


def gradients(model: Any, folder: Path) -> dict[str, Tensor]:
    """The gradients of their parameters by our names: saved as if they were the weights, and loaded."""
    held = copy.deepcopy(model)
    for mine, parameter in zip(held.parameters(), model.parameters(), strict=True):
        mine.data = torch.zeros_like(mine) if parameter.grad is None else parameter.grad
    held.save_pretrained(folder)
    return dict(load(folder, dtype="float32", device="cpu").model.named_parameters())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_all_gradients_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    batch, given = case.make()
    model = ours(case, tmp_path / "weights")
    loss, parts = case.loss(model, batch)
    expected = theirs(case, given, batch).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert sum(part.item() for part in parts.values()) == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    reference(case.model).zero_grad()
    expected.backward()
    wanted = gradients(reference(case.model), tmp_path / "gradients")
    worst = 0.0
    for name, parameter in model.named_parameters():
        found, expected_gradient = parameter.grad, wanted[name].detach()
        assert found is not None, f"{name} learns nothing"
        if case.model == "MarianMTModel" and name == "head.bias":
            continue  # transformers never learns it
        if case.model == "MarianMTModel" and name == "embed.tokens.weight":
            found[START] = expected_gradient[START] = 0  # transformers' start token is padding, which it never learns
        scale = max(expected_gradient.abs().max().item(), 0.1)
        worst = max(worst, (found - expected_gradient).abs().max().item() / scale)
        assert worst < 1e-5, name
    print(f"\nloss {case.model}: {abs(loss.item() - expected.item()):.1e}, gradients within {worst:.1e}")


def test_label_smoothing_is_that_of_transformers_and_of_the_cited_paper(tmp_path: Path) -> None:
    from transformers.trainer_pt_utils import LabelSmoother

    case = next(case for case in CASES if case.model == "MarianMTModel")
    batch, given = case.make()
    found, _ = losses.seq2seq(smoothing=0.1)(ours(case, tmp_path), batch)
    expected = LabelSmoother(0.1)(theirs(case, given, batch), given["labels"])
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_label_smoothing_of_the_authors_own_code_is_a_larger_one_here() -> None:
    logits, labels = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    others = torch.full((6, 9), 0.1 / 8).scatter_(1, labels[:, None], 0.9)
    expected = -(others * logits.log_softmax(-1)).sum()
    assert losses.cross_entropy(logits, labels, smoothing=0.1 * 9 / 8).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_an_answer_is_never_sought_in_padding(tmp_path: Path) -> None:
    """A padded batch has the loss of its rows alone; an answer that lies in the padding teaches nothing."""
    case = next(case for case in CASES if case.model == "BertForQuestionAnswering")
    model = ours(case, tmp_path)
    places = torch.tensor([[2, 4], [5, 6], [3, 3], [0, 9]])
    whole, _ = losses.span()(model, Batch(ids(), places, mask=MASK))
    alone = [
        losses.span()(model, Batch(ids()[i : i + 1, :n], places[i : i + 1]), over={"start": 1, "end": 1})[1]
        for i, n in enumerate(LENGTHS)
    ]
    starts = sum(row["start"].item() for row in alone) / 4
    ends = sum(row["end"].item() for row in alone) / 3
    assert alone[3]["end"].item() == 0.0
    assert whole.item() == pytest.approx(starts + ends, rel=1e-5)
