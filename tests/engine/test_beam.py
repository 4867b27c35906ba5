"""Beam search: the token ids and scores of transformers, on tiny models with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import seq2seq_models
from hornbook.engine.beam import BeamParams, Hypothesis, beam_search
from hornbook.errors import GenerationError, UsageError
from hornbook.model.transformer import Transformer
from seq2seq_models import EOS, PAD, STRONG, VOCAB, loaded, sources

ENDS = frozenset({EOS})
LONGEST = 10


@cache
def pair(kind: str, seed: int = 0) -> tuple[nn.Module, Transformer]:
    """The reference's model and ours, of the same weights."""
    reference = getattr(seq2seq_models, kind)(seed, **STRONG)
    with TemporaryDirectory() as folder:
        return reference, loaded(reference, Path(folder)).model


def expected(reference: nn.Module, ids: Tensor, mask: Tensor, beams: int, **said: Any) -> list[Hypothesis]:
    """All that transformers finds, row by row; greedy search gives no score there, the sum stands in for it."""
    said = {"max_new_tokens": LONGEST, "num_return_sequences": beams} | said
    with torch.no_grad():
        out = reference.generate(
            input_ids=ids, attention_mask=mask.long(), num_beams=beams, do_sample=False,
            return_dict_in_generate=True, output_scores=True, **said,
        )  # fmt: skip
    begin = ids.shape[1] if not reference.config.is_encoder_decoder else 1
    ends = said.get("eos_token_id", [EOS])
    found = []
    for i, sequence in enumerate(out.sequences[:, begin:].tolist()):
        length = next((n for n, id in enumerate(sequence, 1) if id in ends), len(sequence))
        if beams > 1:
            score = float(out.sequences_scores[i])
        else:
            logprobs = [scores[i].float().log_softmax(-1) for scores in out.scores[:length]]
            score = sum(float(p[id]) for p, id in zip(logprobs, sequence, strict=False))
        found.append(Hypothesis(tuple(sequence[:length]), score))
    return found


def search(model: Transformer, ids: Tensor, mask: Tensor, **said: Any) -> list[list[Hypothesis]]:
    params = BeamParams(**{"max_tokens": LONGEST, "stop_ids": ENDS, "n_best": said.get("beams", 1)} | said)
    return beam_search(model, [[PAD]] * len(ids), params, memory=model.encode(ids, mask))


def assert_same(found: Sequence[Sequence[Hypothesis]], wanted: Sequence[Hypothesis]) -> None:
    flat = [one for row in found for one in row]
    assert [one.ids for one in flat] == [one.ids for one in wanted]
    assert [one.score for one in flat] == pytest.approx([one.score for one in wanted], rel=2e-5, abs=1e-4)


@pytest.mark.parametrize("beams", [2, 4, 5])
@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_sequences_and_scores_are_those_of_transformers(kind: str, beams: int) -> None:
    reference, model = pair(kind)
    ids, mask = sources()
    ended = 0
    for penalty, early in product((0.0, 0.6, 1.0, 2.0), (True, False)):
        said = {"length_penalty": penalty, "early_stopping": early}
        found = search(model, ids, mask, beams=beams, **said)
        assert_same(found, expected(reference, ids, mask, beams, **said))
        ended += sum(one.ids[-1] == EOS for row in found for one in row)
        assert all(a.score >= b.score for row in found for a, b in zip(row, row[1:], strict=False))
    assert ended > 8, "of sequences that never end nothing is learned about stopping"


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_other_weights_and_the_patient_search(kind: str, seed: int) -> None:
    reference, model = pair(kind, seed)
    ids, mask = sources(seed=seed)
    for penalty, early in ((1.0, "never"), (-0.5, "never"), (0.0, "never"), (1.0, False)):
        said = {"length_penalty": penalty, "early_stopping": early}
        found = search(model, ids, mask, beams=4, n_best=2, **said)
        assert_same(found, expected(reference, ids, mask, 4, num_return_sequences=2, **said))


@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_one_beam_is_greedy_search(kind: str) -> None:
    reference, model = pair(kind)
    ids, mask = sources()
    assert_same(search(model, ids, mask, length_penalty=0.0), expected(reference, ids, mask, 1))


CONSTRAINTS = [
    ({"min_tokens": 6}, {"min_new_tokens": 6}),
    ({"forced_first": 7}, {"forced_bos_token_id": 7}),
    ({"forced_last": (EOS,)}, {"forced_eos_token_id": EOS}),
    ({"bad_words": ((3,), (16,), (9, 11), (EOS,))}, {"bad_words_ids": [[3], [16], [9, 11], [EOS]]}),
    ({"no_repeat": 2}, {"no_repeat_ngram_size": 2}),
    ({"no_repeat": 1}, {"no_repeat_ngram_size": 1}),
    ({"renormalise": True, "bad_words": ((5,), (6,))}, {"renormalize_logits": True, "bad_words_ids": [[5], [6]]}),
    ({"stop_ids": frozenset({EOS, 3, 16})}, {"eos_token_id": [EOS, 3, 16]}),
]


@pytest.mark.parametrize(("ours", "theirs"), CONSTRAINTS, ids=[next(iter(theirs)) for _, theirs in CONSTRAINTS])
def test_what_a_sequence_may_be_is_as_in_transformers(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    ids, mask = sources()
    for kind in ("marian", "t5"):
        reference, model = pair(kind)
        plain = search(model, ids, mask, beams=3)
        found = search(model, ids, mask, beams=3, **ours)
        assert found != plain, "the constraint changes nothing"
        assert_same(found, expected(reference, ids, mask, 3, **theirs))


@pytest.mark.parametrize("kind", ["marian", "t5"])
def test_a_source_may_be_padded_on_either_side_or_stand_alone(kind: str) -> None:
    model = pair(kind)[1]
    (right, mask), (left, other) = sources("right"), sources("left")
    left[other] = right[mask]
    together = search(model, right, mask, beams=4)
    flat = [one for row in together for one in row]
    assert_same(search(model, left, other, beams=4), flat)
    alone = [
        search(model, row[real][None], real[real][None], beams=4)[0] for row, real in zip(right, mask, strict=True)
    ]
    assert_same(alone, flat)


def test_a_decoder_alone_continues_ragged_prompts() -> None:
    reference, model = pair("llama")
    ids, mask = sources("left")
    prompts = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
    for penalty, early in product((0.0, 1.0), (True, False)):
        params = BeamParams(
            beams=4, n_best=4, max_tokens=LONGEST, stop_ids=ENDS, length_penalty=penalty, early_stopping=early
        )
        wanted = expected(reference, ids, mask, 4, length_penalty=penalty, early_stopping=early)
        assert_same(beam_search(model, prompts, params), wanted)


def test_a_processor_sees_whole_sequences_and_changes_their_scores() -> None:
    model = pair("marian")[1]
    ids, mask = sources()
    seen: list[list[int]] = []

    def no_sevens(sequences: Sequence[Sequence[int]], logprobs: Tensor) -> Tensor:
        assert len(sequences) == len(logprobs)
        seen.extend([*ids] for ids in sequences)
        return logprobs.index_fill(1, torch.tensor([7]), -torch.inf)

    params = BeamParams(beams=3, n_best=3, max_tokens=LONGEST, stop_ids=ENDS)
    memory = model.encode(ids, mask)
    found = beam_search(model, [[PAD]] * 4, params, memory=memory, processors=[no_sevens])
    assert all(7 not in one.ids for row in found for one in row)
    assert all(sequence[0] == PAD for sequence in seen) and max(map(len, seen)) == LONGEST
    assert found == search(model, ids, mask, beams=3, bad_words=((7,),))


def test_as_many_sequences_are_given_as_are_possible() -> None:
    model = pair("t5")[1]
    ids, mask = sources()
    found = search(model, ids, mask, beams=4, max_tokens=1, forced_last=(EOS,))
    assert [[one.ids for one in row] for row in found] == [[(EOS,)]] * 4


def test_unusable_scores_and_impossible_wishes_are_named() -> None:
    model = pair("t5")[1]
    ids, mask = sources()
    everything = tuple((id,) for id in range(VOCAB))
    with pytest.raises(GenerationError, match="every next token is forbidden for source 1"):
        search(model, ids, mask, beams=2, bad_words=everything, min_tokens=LONGEST)
    broken = model.encode(ids, mask)
    broken.hidden[2] = torch.nan
    with pytest.raises(GenerationError, match="source 3: its scores are not numbers"):
        beam_search(model, [[PAD]] * 4, BeamParams(beams=2, max_tokens=3), memory=broken)
    with pytest.raises(UsageError, match="a prompt is empty"):
        beam_search(model, [[]], BeamParams(), memory=model.encode(ids[:1]))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"stop_ids": frozenset({VOCAB})}, f"token id {VOCAB} is out of range"),
        ({"bad_words": ((3, 400),)}, "token id 400 is out of range"),
        ({"forced_first": -1}, "token id -1 is out of range"),
        ({"max_tokens": 65}, "a prompt of 1 tokens and 65 new ones do not fit: the model's context holds 64"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_any_work(said: dict[str, Any], message: str) -> None:
    model = pair("marian")[1]
    memory = model.encode(*sources())
    with pytest.raises(UsageError, match=message):
        beam_search(model, [[PAD]] * 4, BeamParams(**said), memory=memory)
    assert len(beam_search(model, [[PAD]] * 4, BeamParams(max_tokens=64), memory=memory)) == 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"beams": 0},
        {"n_best": 2},
        {"max_tokens": 0},
        {"min_tokens": 300},
        {"early_stopping": "soon"},
        {"no_repeat": -1},
    ],
    ids=str,
)
def test_params_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        BeamParams(**wrong)
