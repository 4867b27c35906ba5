"""Scores against the definition, with the stand-in model whose logits depend on the whole prefix."""

from __future__ import annotations

import hashlib
import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hornbook.engine import score as scoring
from hornbook.engine.generate import Generator
from hornbook.errors import ContextTooLong
from hornbook.types import Score

V = 31


class ListCache:
    def __init__(self, rows: int, capacity: int) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(rows)]

    def keep(self, rows: list[int]) -> None:
        raise AssertionError("scoring drops no rows")


def logits_of(prefix: list[int]) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(bytes(prefix)).digest()[:4], "big")
    return torch.randn(V, generator=torch.Generator().manual_seed(seed)) * 3


def model(ids: Tensor, *, mask: Tensor | None, cache: ListCache, logits: str) -> Any:
    out = torch.full((*ids.shape, V), torch.nan)  # padding must never be read
    for row, tokens in enumerate(cache.tokens):
        new = ids[row] if mask is None else ids[row][mask[row]]
        for t, id in enumerate(new.tolist()):
            tokens.append(id)
            if logits == "all":
                out[row, t] = logits_of(tokens)
    return SimpleNamespace(logits=out if logits == "all" else None)


def generator(**options: Any) -> Generator:
    return Generator(
        model,
        new_cache=ListCache,
        new_decoder=lambda: None,  # type: ignore[arg-type,return-value]
        context_length=50,
        vocab_size=V,
        **options,
    )


def definition(ids: list[int], start: int) -> Score:
    rows = [logits_of(ids[:t]) for t in range(start, len(ids))]
    logprob = sum(float(row.double().log_softmax(-1)[id]) for row, id in zip(rows, ids[start:], strict=True))
    greedy = all(int(row.argmax()) == id for row, id in zip(rows, ids[start:], strict=True))
    return Score(logprob, greedy, len(ids) - start)


@pytest.mark.parametrize(("rows", "prefill", "block"), [(1, 1024, 2**30), (4, 3, 2**30), (16, 64, 4 * V * 16 * 2)])
def test_scores_are_the_definition(monkeypatch: pytest.MonkeyPatch, rows: int, prefill: int, block: int) -> None:
    monkeypatch.setattr(scoring, "LOGITS_BYTES", block)
    draw = random.Random(4)
    requests = []
    for _ in range(20):
        ids = [draw.randrange(V) for _ in range(draw.randint(1, 45))]
        start = draw.randint(1, len(ids))
        if draw.random() < 0.5:  # make some of them greedy
            ids = ids[:start]
            for _ in range(draw.randint(0, 4)):
                ids.append(int(logits_of(ids).argmax()))
        requests.append((ids, start))
    ours = scoring.score(generator(rows=rows, prefill=prefill), requests)
    theirs = [definition(ids, start) for ids, start in requests]
    assert [(s.is_greedy, s.tokens) for s in ours] == [(s.is_greedy, s.tokens) for s in theirs]
    assert [s.logprob for s in ours] == pytest.approx([s.logprob for s in theirs], abs=1e-4)
    assert {s.is_greedy for s in ours} == {True, False}


def test_a_text_that_does_not_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(ContextTooLong, match=r"52 tokens.*holds 50"):
        scoring.score(generator(), [([1] * 52, 3)])
    assert scoring.score(generator(), [([1] * 51, 50)])[0].tokens == 1
