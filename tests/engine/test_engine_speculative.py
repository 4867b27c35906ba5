"""Speculation in the engine: the same answers in fewer steps, whatever is guessed, and nothing left behind."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from toy_executor import ToyExecutor, drain, engine_of, expected

from hornbook.engine.choose import filtered
from hornbook.engine.requests import Request
from hornbook.engine.speculative import Draft, Payoff, PromptLookup
from hornbook.errors import GenerationError
from hornbook.types import SamplingParams


class Oracle:
    """A drafter that guesses right with a given chance: it knows the executor, and follows what was chosen."""

    def __init__(self, executor: ToyExecutor, right: float, *, chances: bool = False) -> None:
        self.executor, self.right, self.chances = executor, right, chances
        self.rng = random.Random(3)
        self.ids: dict[int, list[int]] = {}
        self.params: dict[int, SamplingParams] = {}
        self.ended: list[int] = []

    def start(self, key: int, ids: Sequence[int], params: SamplingParams, sample: int = 0) -> None:
        assert key not in self.ids
        self.ids[key], self.params[key] = list(ids), params

    def accept(self, key: int, ids: Sequence[int]) -> None:
        self.ids[key] += ids

    def forget(self, key: int) -> None:
        del self.ids[key]
        self.ended.append(key)

    def propose(self, keys: Sequence[int], counts: Sequence[int]) -> list[Draft]:
        return [self._draft(key, count) for key, count in zip(keys, counts, strict=True)]

    def close(self) -> None:
        self.ids.clear()

    def _draft(self, key: int, count: int) -> Draft:
        ids, tokens, chances = list(self.ids[key]), [], []
        chances_wanted = self.chances and self.params[key].seed is None
        for _ in range(count):
            logits = self.executor.logits(ids).astype(np.float64)
            if chances_wanted:  # the model's own distribution, flattened
                weights = np.exp((logits - logits.max()) / 2.0)
                chances.append(weights / weights.sum())
                tokens.append(self.rng.choices(range(len(weights)), weights)[0])
            else:
                tokens.append(int(logits.argmax()) if self.rng.random() < self.right else self.rng.randrange(4, 61))
            ids.append(tokens[-1])
        return Draft(tokens, np.array(chances) if chances_wanted else None)


@pytest.fixture
def always_drafting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it pays is another test's business."""
    monkeypatch.setattr(Payoff, "plan", lambda self, keys, most: [most] * len(keys))


def random_request(rng: random.Random) -> Request:
    params = SamplingParams(
        max_tokens=rng.randint(1, 40),
        temperature=rng.choice([0.0, 0.0, 0.8]),
        repetition_penalty=rng.choice([1.0, 1.3]),
        repetition_window=rng.choice([-1, 3]),
        stop=rng.choice([(), ("AB", "Q")]),
        seed=rng.randrange(99),
        n=rng.choice([1, 1, 3]),
    )
    return Request([7] * 16 * rng.randint(0, 2) + [rng.randrange(4, 61) for _ in range(rng.randint(1, 40))], params)


@pytest.mark.parametrize("seed", range(40))
def test_answers_are_the_same_with_speculation_and_without(seed: int, always_drafting: None) -> None:
    rng = random.Random(seed)
    executor = ToyExecutor(pages=rng.choice([9, 20, 100]), context_length=100)
    drafter: Any = PromptLookup() if rng.random() < 0.3 else Oracle(executor, rng.choice([0.0, 0.5, 0.9, 1.0]))
    engine = engine_of(executor, drafter=drafter, drafts=rng.choice([1, 4, 20]), max_running=rng.choice([2, 64]))
    requests = [random_request(rng) for _ in range(rng.randint(1, 8))]
    found = drain(engine, [engine.submit(request) for request in requests])
    assert found == [expected(executor, request) for request in requests]
    if isinstance(drafter, Oracle):
        assert not drafter.ids, "a sequence that ended is still followed"


def test_right_guesses_save_steps(always_drafting: None) -> None:
    executor = ToyExecutor()
    engine = engine_of(executor, drafter=Oracle(executor, 1.0), drafts=4)
    request = Request([9] * 10, SamplingParams(max_tokens=41, ignore_eos=True))
    assert drain(engine, [engine.submit(request)]) == [expected(executor, request)]
    stats = engine.stats()
    assert stats.steps == 1 + 8 and stats.kept_tokens == stats.drafted_tokens == 32


def test_a_draft_never_displaces_an_answer(always_drafting: None) -> None:
    """Where no page is left, drafts go first: only what is certain may preempt."""
    executor = ToyExecutor(pages=2)
    engine = engine_of(executor, drafter=Oracle(executor, 1.0), drafts=8)
    request = Request([9] * 10, SamplingParams(max_tokens=6, ignore_eos=True, n=2, temperature=0.5, seed=1))
    assert drain(engine, [engine.submit(request)]) == [expected(executor, request)]
    assert engine.stats().preemptions == 0


def test_wrong_guesses_are_soon_made_no_more() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor, drafter=Oracle(executor, 0.0), drafts=4)
    drain(engine, [engine.submit(Request([9] * 10, SamplingParams(max_tokens=200, ignore_eos=True)))])
    assert engine.stats().drafted_tokens < 60


def test_sampled_drafts_leave_the_distribution_as_it_is(always_drafting: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a seed, by rejection: the second and third token of 2,000 answers over a vocabulary of 6. Chi-square, 35
    degrees of freedom: 66.6 is exceeded once in a thousand. (What is drawn anew for each request is fixed here.)"""
    monkeypatch.setattr("hornbook.engine.engine.fresh_seed", iter(range(1000)).__next__)
    executor = ToyExecutor(vocab_size=6, context_length=64)
    executor._table /= 6  # all pairs of tokens come often enough
    params = SamplingParams(max_tokens=3, temperature=1.0, ignore_eos=True, top_p=0.97, n=50)
    engine = engine_of(executor, drafter=Oracle(executor, 0.0, chances=True), drafts=3)
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(40):
        (answers,) = drain(engine, [engine.submit(Request([1, 2], params))])
        counts.update(tuple(answer.ids[1:]) for answer in answers)
    assert engine.stats().kept_tokens > 1000

    def chances(ids: list[int]) -> list[tuple[int, float]]:
        left, weights = filtered(executor.logits(ids), params)
        return list(zip(left.tolist(), (weights / weights.sum()).tolist(), strict=True))

    exact: Counter[tuple[int, int]] = Counter()
    for first, p in chances([1, 2]):
        for second, q in chances([1, 2, first]):
            for third, r in chances([1, 2, first, second]):
                exact[second, third] += 2000 * p * q * r  # type: ignore[assignment]
    assert set(counts) <= set(exact)
    assert sum((counts[pair] - mean) ** 2 / mean for pair, mean in exact.items()) < 66.6


def test_a_processor_that_raises_fails_its_own_request(always_drafting: None) -> None:
    def breaks(ids: Sequence[int], logits: Any) -> Any:
        if len(ids) > 14:
            raise ZeroDivisionError("no more")
        return logits

    executor = ToyExecutor()
    engine = engine_of(executor, drafter=Oracle(executor, 0.9), drafts=3)
    good = Request([9] * 10, SamplingParams(max_tokens=20))
    bad = Request([9] * 10, SamplingParams(max_tokens=20, n=2, ignore_eos=True), processors=(breaks,))
    error, answers = drain(engine, [engine.submit(bad), engine.submit(good)])
    assert isinstance(error, GenerationError) and "ZeroDivisionError: no more" in error.what
    assert answers == expected(executor, good)


class Only:
    """A grammar that lets three tokens follow any other."""

    is_done = False

    def start(self) -> Only:
        return self

    def allowed(self) -> Any:
        return np.array([0b10101], np.uint32)

    def legal(self, ids: Sequence[int]) -> int:
        return next((place for place, id in enumerate(ids) if id not in (0, 2, 4)), len(ids))

    def forced(self) -> list[int]:
        return []

    def accept(self, id: int) -> None:
        assert self.legal([id])


def test_a_grammar_does_not_bend_what_is_drawn_with_drafts(
    always_drafting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guess that the grammar forbids is refused by the rule. The second token of 2,000 answers after each first one:
    chi-square, 6 degrees of freedom: 22.5 is exceeded once in a thousand."""
    monkeypatch.setattr("hornbook.engine.engine.fresh_seed", iter(range(1000)).__next__)
    executor = ToyExecutor(vocab_size=6, context_length=64)
    executor._table /= 3
    params = SamplingParams(max_tokens=3, temperature=1.0, ignore_eos=True, n=50)
    engine = engine_of(executor, drafter=Oracle(executor, 0.0, chances=True), drafts=1)
    counts: Counter[tuple[int, ...]] = Counter()
    for _ in range(60):
        handle = engine.submit(Request([1, 2], params))
        handle.language = Only()  # type: ignore[assignment]
        (answers,) = drain(engine, [handle])
        counts.update(tuple(answer.ids[:2]) for answer in answers)
    chi = 0.0
    for first in (0, 2, 4):
        weights = np.exp(executor.logits([1, 2, first])[[0, 2, 4]].astype(np.float64))
        seen = np.array([counts[first, second] for second in (0, 2, 4)])
        exact = seen.sum() * weights / weights.sum()
        chi += float(((seen - exact) ** 2 / exact).sum())
    assert chi < 22.5
