"""Several continuations of one context: it is read once, and each is as likely as if it had been asked about alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from toy_executor import ToyExecutor, engine_of

import hornbook
from hornbook.engine.choose import log_sum
from hornbook.engine.engine import Engine
from hornbook.engine.requests import Handle, Request
from hornbook.errors import ContextTooLong, GenerationError, UsageError
from hornbook.types import SamplingParams, Score


def definition(executor: ToyExecutor, ids: list[int], start: int) -> Score:
    rows = [executor.logits(ids[:place]) for place in range(start, len(ids))]
    total = sum(float(row[id]) - log_sum(row) for row, id in zip(rows, ids[start:], strict=True))
    greedy = all(int(row.argmax()) == id for row, id in zip(rows, ids[start:], strict=True))
    return Score(total, greedy, len(ids) - start)


def all_scores(engine: Engine, requests: list[Request], each_step: Any = lambda: None) -> list[list[Score]]:
    found: dict[Handle, dict[int, Score]] = {}
    handles = [engine.submit(request) for request in requests]
    while engine.has_work:
        for event in engine.step():
            assert event.error is None, event.error
            if event.score is not None:
                of_handle = found.setdefault(event.handle, {})
                assert event.answer not in of_handle
                of_handle[event.answer] = event.score
                assert event.last == (len(of_handle) == 1 + len(event.handle.request.others))
        engine.scheduler.check()
        each_step()
    assert engine.stats().pages_used == 0
    return [[found[handle][answer] for answer in range(1 + len(handle.request.others))] for handle in handles]


def families(draw: random.Random, count: int, vocab: int = 61) -> list[Request]:
    made = []
    shots = [draw.randrange(4, vocab) for _ in range(40)]
    for _ in range(count):
        context = shots[: draw.choice((0, 16, 40))] + [draw.randrange(4, vocab) for _ in range(draw.randint(1, 40))]
        first, *others = (
            tuple(draw.randrange(4, vocab) for _ in range(draw.choice((1, 1, 2, 3, 17, 20)))) for _ in range(draw.randint(1, 6))
        )  # fmt: skip
        made.append(Request([*context, *first], score_from=len(context), others=tuple(others)))
    return made


@pytest.mark.parametrize("options", [{}, {"max_running": 2}, {"max_running": 3, "step_tokens": 16}, {"share": False}])
@pytest.mark.parametrize("pages", [200, 9])
def test_each_is_as_likely_as_alone(options: dict[str, Any], pages: int) -> None:
    executor = ToyExecutor(pages=pages, context_length=200)
    requests = families(random.Random(7), 40)
    for request, scores in zip(requests, all_scores(engine_of(executor, **options), requests), strict=True):
        start = request.score_from or 0
        tails = [tuple(request.ids[start:]), *request.others]
        for tail, score in zip(tails, scores, strict=True):
            wanted = definition(executor, [*request.ids[:start], *tail], start)
            assert (score.tokens, score.is_greedy) == (wanted.tokens, wanted.is_greedy)
            assert score.logprob == pytest.approx(wanted.logprob, abs=1e-4)


def test_the_context_is_read_once_and_no_row_is_computed_twice() -> None:
    executor = ToyExecutor()
    others = ((7,), (8,), (9, 10), (9, 10, 11, 12), tuple(range(20, 40)))
    all_scores(engine_of(executor), [Request([*range(4, 29), 6, 7, 8], score_from=25, others=others)])
    assert sum(executor.tokens) == 25 + 2 + 0 + 0 + 1 + 3 + 19
    assert sum(executor.rows) == 1 + 2 + 0 + 0 + 1 + 3 + 19
    executor.tokens.clear()
    letters = Request([*range(4, 29), 6], score_from=25, others=((7,), (8,), (9,)))
    (scores,) = all_scores(engine_of(executor), [letters])
    assert (sum(executor.tokens), len(executor.tokens)) == (25, 1)
    assert len({score.logprob for score in scores}) == 4


def test_a_full_engine_keeps_places_for_the_continuations_that_will_come() -> None:
    executor = ToyExecutor(pages=400)
    requests = [Request([*range(4, 30), k, 5], score_from=26, others=((k, 6, 7),) * 3) for k in range(8, 28)]
    engine = engine_of(executor, max_running=8)
    all_scores(engine, requests)
    assert sum(executor.tokens) == 26 + 20 * (1 + 3 * 2) + 19 * (26 - 16)  # nobody's context was read again


def test_likelihoods_go_on_beside_answers_and_tell_top_tokens() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor)
    beside = Request(list(range(4, 24)), SamplingParams(max_tokens=30, ignore_eos=True))
    judged = Request([4, 5, 6, 7], SamplingParams(top_logprobs=2), score_from=2, others=((9, 9, 9),))
    handles = [engine.submit(beside), engine.submit(judged)]
    scores = [event for _ in range(60) for event in engine.step() if event.score is not None]
    assert [len(event.score.logprobs or ()) for event in sorted(scores, key=lambda e: e.answer) if event.score] == [
        2,
        3,
    ]
    assert all(handle.done for handle in handles)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_cancelling_gives_everything_back(steps: int) -> None:
    engine = engine_of(ToyExecutor(), step_tokens=16)
    handle = engine.submit(Request([*range(4, 40), 5], score_from=20, others=((6, 7, 8), (9,))))
    for _ in range(steps):
        engine.step()
    engine.cancel(handle)
    engine.step()
    assert handle.done and not engine.has_work and engine.stats().pages_used == 0


def test_what_is_wrong_with_one_is_said_of_all() -> None:
    executor = ToyExecutor()
    executor.poison = {60}
    engine = engine_of(executor)
    bad = Request([*range(4, 20), 7], score_from=16, others=((6, 60, 8), (9, 5)))
    good = Request([*range(4, 20), 7], score_from=16, others=((6, 50, 8),))
    error, score = drain_scores(engine, [bad, good])
    assert isinstance(error, GenerationError) and isinstance(score, Score)


def drain_scores(engine: Engine, requests: list[Request]) -> list[Any]:
    last: dict[Handle, Any] = {}
    handles = [engine.submit(request) for request in requests]
    while engine.has_work:
        last |= {event.handle: event.error or event.score for event in engine.step()}
        engine.scheduler.check()
    return [last[handle] for handle in handles]


def test_an_interruption_loses_and_repeats_nothing() -> None:
    executor = ToyExecutor(context_length=200)
    requests = families(random.Random(3), 12)
    alone = all_scores(engine_of(executor), requests)
    engine, found = engine_of(executor, step_tokens=32), []
    handles = [engine.submit(request) for request in requests]
    for step in range(400):
        if step % 9 == 5 and step < 100:
            executor.broken = KeyboardInterrupt()
        try:
            found += engine.step()
        except KeyboardInterrupt:
            continue
        engine.scheduler.check()
    assert all(handle.done for handle in handles)
    assert {(handles.index(e.handle), e.answer): e.score.logprob for e in found if e.score} == pytest.approx(
        {(i, answer): score.logprob for i, scores in enumerate(alone) for answer, score in enumerate(scores)}, abs=1e-4
    )
    assert len(found) == sum(map(len, alone))


@pytest.mark.parametrize(
    ("request_", "error", "match"),
    [
        (Request([4, 5, 6], score_from=2, others=((),)), UsageError, "none may be empty"),
        (Request([4, 5, 6], score_from=3, others=((5,),)), UsageError, "none may be empty"),
        (Request([4, 5, 6], others=((5,),)), UsageError, "where they begin"),
        (Request([4, 5, 6], score_from=2, others=((61,),)), UsageError, "token id 61"),
        (Request([4, 5, 6], score_from=2, others=((5,) * 300,)), ContextTooLong, "302 tokens"),
        (Request([4, 5, 6], score_from=2, others=((5,) * 200,)), ContextTooLong, "202 tokens; the memory"),
    ],
)
def test_bad_requests_are_refused_before_any_work(request_: Request, error: type[Exception], match: str) -> None:
    engine = engine_of(ToyExecutor(pages=10))
    with pytest.raises(error, match=match):
        engine.submit(request_)
    assert not engine.has_work


# --------------------------------------------------------------------------------------------------- a model's own bits


def test_a_pair_has_the_same_bits_alone_and_among_others(tiny_llm_path: Path) -> None:
    shots = "Question: which?\nAnswer: this\n\n" * 3
    pairs: list[Any] = [
        (f"{shots}Question: {what}\nAnswer:", answer)
        for what in ("how?", "why so?", "who, then, was it?")
        for answer in (" one", " a", " b", " another, longer than that", " no")
    ]
    with hornbook.load(str(tiny_llm_path), device="cpu") as llm:
        assert llm.runs_on.startswith("native")
        pairs += [(llm.tokenizer.encode(context), tail) for context, tail in pairs[:5]]
        together = llm.score(pairs)
        order = list(range(len(pairs)))
        random.Random(1).shuffle(order)
        assert llm.score([pairs[i] for i in order]) == [together[i] for i in order]
    with hornbook.load(str(tiny_llm_path), device="cpu") as llm:
        assert [llm.score([pair])[0] for pair in reversed(pairs)] == together[::-1]
    with hornbook.load(str(tiny_llm_path), device="cpu", dtype="float32") as llm:  # with torch
        for mine, theirs in zip(llm.score(pairs), together, strict=True):
            assert mine.logprob == pytest.approx(theirs.logprob, rel=1e-3)
