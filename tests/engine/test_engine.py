"""The engine over an executor that answers from its pages alone: whatever runs beside a request, its answer is the same."""

from __future__ import annotations

import math
import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_executor import ToyExecutor, drain, engine_of, expected

from hornbook.engine.choose import log_sum
from hornbook.engine.requests import Request
from hornbook.errors import ContextTooLong, DeadlineExceeded, GenerationError, ModelClosed, UsageError
from hornbook.types import SamplingParams, Score


def random_request(rng: random.Random, longest: int = 90) -> Request:
    """Prompts that often share a beginning; every kind of sampling, with a seed."""
    begin = [7 + rng.randrange(2)] * 16 * rng.randint(0, 3)
    ids = [*begin, *(rng.randrange(4, 61) for _ in range(rng.randint(1, max(1, longest - len(begin)))))]
    params = SamplingParams(
        max_tokens=rng.randint(1, 30),
        temperature=rng.choice([0.0, 0.0, 0.7, 1.3]),
        top_k=rng.choice([0, 0, 5]),
        top_p=rng.choice([1.0, 0.9]),
        min_p=rng.choice([0.0, 0.05]),
        repetition_penalty=rng.choice([1.0, 1.2]),
        repetition_window=rng.choice([-1, 0, 3]),
        frequency_penalty=rng.choice([0.0, 0.3]),
        presence_penalty=rng.choice([0.0, 0.2]),
        stop=rng.choice([(), (), ("AB", "Q"), ("Zz", "xyz")]),
        seed=rng.randrange(2**40),
        ignore_eos=rng.random() < 0.2,
        n=rng.choice([1, 1, 1, 2, 3]),
        logit_bias=rng.choice([{}, {}, {9: 3.0}]),
    )
    return Request(ids, params, priority=rng.choice([0, 0, 0, 1, -2]))


@pytest.mark.parametrize("seed", range(200))
def test_a_request_in_a_mix_is_answered_as_if_it_were_alone(seed: int) -> None:
    """Batched, chunked, shared, preempted, forked, with others coming while it runs, in random proportions."""
    rng = random.Random(seed)
    executor = ToyExecutor(pages=rng.choice([9, 14, 24, 200]), context_length=rng.choice([100, 256]))
    requests = [random_request(rng) for _ in range(rng.randint(1, 9))]
    engine = engine_of(
        executor,
        max_running=rng.choice([1, 2, 5, 64]),
        step_tokens=rng.choice([16, 40, 512]),
        share=rng.random() < 0.7,
    )
    late, handles = list(requests), []

    def submit_some() -> None:
        for _ in range(rng.randint(0 if engine.has_work else 1, 3)):
            if late:
                handles.append(engine.submit(late.pop(0)))

    for handle, found in zip(handles, drain(engine, handles, each_step=submit_some), strict=True):
        assert found == expected(executor, handle.request), handle.number
    assert len(handles) == len(requests)


# --- each of these once more, alone, so that a failure has a name


def prompt(length: int, salt: int = 0) -> list[int]:
    return [4 + (7 * i + salt) % 57 for i in range(length)]


def test_preempted_answers_are_those_of_a_cache_that_is_large_enough() -> None:
    requests = [Request(prompt(30, salt), SamplingParams(max_tokens=60, ignore_eos=True)) for salt in range(6)]
    small, large = ToyExecutor(pages=13), ToyExecutor(pages=100)
    results = []
    for executor in (small, large):
        engine = engine_of(executor)
        results.append(drain(engine, [engine.submit(request) for request in requests]))
        assert (engine.stats().preemptions > 0) == (executor is small)
    assert results[0] == results[1] == [expected(small, request) for request in requests]


def test_a_long_prompt_is_cut_into_chunks_and_others_go_on_meanwhile() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor, step_tokens=32)
    short = engine.submit(Request(prompt(5), SamplingParams(max_tokens=30, ignore_eos=True)))
    engine.step()
    long = engine.submit(Request(prompt(200, 1), SamplingParams(max_tokens=3)))
    events = [engine.step() for _ in range(6)]
    assert all([event.handle for event in step] == [short] for step in events)  # a token at every step
    assert executor.tokens[1:7] == [17] * 6  # and a chunk beside it, cut at a page's border
    drain(engine, [short, long])
    assert max(executor.tokens) <= 32


def test_a_shared_beginning_is_computed_once() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor)
    first = Request(prompt(100), SamplingParams(max_tokens=1))
    second = Request([*prompt(96), 5, 5], SamplingParams(max_tokens=1))
    drain(engine, [engine.submit(first)])
    (found,) = drain(engine, [engine.submit(second)])
    assert executor.tokens == [100, 2] and engine.stats().hit_tokens == 96
    assert found == expected(executor, second)


def test_those_that_come_together_compute_their_shared_beginning_once() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor)
    requests = [Request([*prompt(96), salt], SamplingParams(max_tokens=1)) for salt in range(10, 18)]
    found = drain(engine, [engine.submit(request) for request in requests])
    assert executor.tokens == [97, 7]
    assert found == [expected(executor, request) for request in requests]


def test_an_answer_is_a_known_beginning_for_the_next_turn() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor)
    request = Request(prompt(20), SamplingParams(max_tokens=40, ignore_eos=True))
    ((answer,),) = drain(engine, [engine.submit(request)])
    executor.tokens.clear()
    drain(engine, [engine.submit(Request([*prompt(20), *answer.ids, 9], SamplingParams(max_tokens=1)))])
    assert executor.tokens == [61 - 48]


def test_answers_to_one_prompt_share_its_pages_and_differ() -> None:
    executor = ToyExecutor(pages=20)
    engine = engine_of(executor)
    request = Request(prompt(40), SamplingParams(max_tokens=20, temperature=1.0, seed=4, n=4))
    handle = engine.submit(request)
    engine.step()
    assert engine.stats().pages_used == 2 + 4 and executor.tokens == [40]
    drain(engine, [handle])
    answers = expected(executor, request)
    assert len({tuple(answer.ids) for answer in answers}) == 4


def test_more_answers_than_places_or_pages_are_worked_off_in_turn() -> None:
    executor = ToyExecutor(pages=8)
    request = Request(prompt(40), SamplingParams(max_tokens=30, temperature=1.0, seed=4, n=9))
    for max_running in (2, 64):
        engine = engine_of(executor, max_running=max_running)
        assert drain(engine, [engine.submit(request)]) == [expected(executor, request)]


def test_a_seed_gives_the_same_answer_whatever_runs_beside_it() -> None:
    executor = ToyExecutor(pages=16)
    mine = Request(prompt(10), SamplingParams(max_tokens=50, temperature=1.0, seed=9, ignore_eos=True))
    rng = random.Random(1)
    alone = expected(executor, mine)
    for _ in range(5):
        engine = engine_of(executor)
        handles = [engine.submit(one) for one in [random_request(rng), mine, random_request(rng), random_request(rng)]]
        assert drain(engine, handles)[1] == alone


def test_without_a_seed_two_answers_differ() -> None:
    engine = engine_of()
    request = Request(prompt(10), SamplingParams(max_tokens=30, temperature=2.0, ignore_eos=True))
    one, other = drain(engine, [engine.submit(request), engine.submit(request)])
    assert one != other


def test_a_stop_string_is_found_across_tokens_and_nothing_of_it_is_heard() -> None:
    executor = ToyExecutor()
    free = Request(prompt(12), SamplingParams(max_tokens=40, ignore_eos=True))
    (whole,) = expected(executor, free)
    stop = whole.text[10:13]
    engine = engine_of(executor)
    ((answer,),) = drain(engine, [engine.submit(replace(free, params=replace(free.params, stop=(stop,))))])
    assert answer.text == whole.text[: whole.text.index(stop)] and answer.reason == "stop"


def test_the_likeliest_tokens_are_told_where_they_are_asked_for() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor)
    handle = engine.submit(Request(prompt(12), SamplingParams(max_tokens=1, top_logprobs=5)))
    (event,) = engine.step()
    logits = executor.logits(prompt(12)).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum())
    assert event.handle is handle and event.token is not None and event.token.top_logprobs is not None
    assert [id for id, _ in event.token.top_logprobs] == np.argsort(-logprobs)[:5].tolist()
    for id, value in event.token.top_logprobs:
        assert value == pytest.approx(logprobs[id], abs=1e-5)
    assert event.token.logprob == pytest.approx(event.token.top_logprobs[0][1])


# --- likelihoods


@pytest.mark.parametrize("step_tokens", [16, 512])
@pytest.mark.parametrize("start", [1, 17, 119, 120])
def test_a_likelihood_is_the_sum_over_the_given_tokens(start: int, step_tokens: int) -> None:
    executor = ToyExecutor(pages=9)
    ids = prompt(120)
    engine = engine_of(executor, step_tokens=step_tokens)
    beside = [engine.submit(Request(prompt(20, salt), SamplingParams(max_tokens=40))) for salt in (1, 2)]
    handles = [*beside, engine.submit(Request(ids, score_from=start))]
    score = drain(engine, handles)[-1]
    total, greedy = 0.0, True
    for place in range(start, 120):
        logits = executor.logits(ids[:place])
        total += float(logits[ids[place]]) - log_sum(logits)
        greedy = greedy and int(logits.argmax()) == ids[place]
    assert isinstance(score, Score) and score.tokens == 120 - start
    assert score.logprob == pytest.approx(total, abs=1e-4) and score.is_greedy == greedy


def test_the_logits_of_a_likelihood_are_bounded() -> None:
    executor = ToyExecutor(vocab_size=61)
    engine = engine_of(executor, max_running=4)
    engine.scheduler.max_rows = 10
    drain(engine, [engine.submit(Request(prompt(200), score_from=50))])
    assert max(executor.rows) <= 10 and sum(executor.rows) == 150


def test_a_greedy_continuation_is_told_to_be_one() -> None:
    executor = ToyExecutor()
    (answer,) = expected(executor, Request(prompt(9), SamplingParams(max_tokens=20, ignore_eos=True)))
    engine = engine_of(executor)
    (score,) = drain(engine, [engine.submit(Request([*prompt(9), *answer.ids], score_from=9))])
    assert score.is_greedy and score.logprob == pytest.approx(math.fsum(answer.logprobs), abs=1e-4)


# --- ends


def test_a_cancelled_request_ends_at_the_next_step_and_gives_everything_back() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor)
    handle = engine.submit(Request(prompt(40), SamplingParams(max_tokens=100, n=3, temperature=1.0, ignore_eos=True)))
    waits = engine.submit(Request(prompt(9), SamplingParams(max_tokens=100)))
    engine.step()
    engine.cancel(handle)
    engine.cancel(waits)
    engine.cancel(handle)
    events = engine.step()
    assert [event.token.finish_reason for event in events if event.token] == ["cancelled"] * 4
    assert [event.last for event in events] == [False, False, True, True]
    assert not engine.has_work and engine.stats().pages_used == 0
    engine.cancel(handle)
    assert engine.sweep() == []


def test_a_request_that_is_cancelled_before_it_began_never_runs() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor)
    engine.cancel(engine.submit(Request(prompt(40))))
    (event,) = engine.step()
    assert event.last and executor.tokens == []


def test_text_that_was_held_back_is_released_by_a_cancel() -> None:
    executor = ToyExecutor()
    free = Request(prompt(12), SamplingParams(max_tokens=40, ignore_eos=True))
    (whole,) = expected(executor, free)
    engine = engine_of(executor)
    handle = engine.submit(replace(free, params=replace(free.params, stop=(whole.text[:3] + "?",))))
    heard = [engine.step()[0].token for _ in range(2)]
    engine.cancel(handle)
    heard.append(engine.step()[0].token)
    assert [token.text for token in heard if token] == ["", "", whole.text[:2]]


def test_a_deadline_fails_the_request_by_name_and_no_other() -> None:
    now = [100.0]
    engine = engine_of(clock=lambda: now[0])
    late = engine.submit(Request(prompt(9), SamplingParams(max_tokens=100, ignore_eos=True), deadline=2.0))
    other = engine.submit(Request(prompt(9), SamplingParams(max_tokens=10, ignore_eos=True), deadline=50.0))

    def pass_time() -> None:
        now[0] += 0.5

    error, answers = drain(engine, [late, other], each_step=pass_time)
    assert isinstance(error, DeadlineExceeded) and "2 s" in error.what and "new tokens" in error.what
    assert answers[0].reason == "length"


def test_deadlines_that_were_met_are_not_kept() -> None:
    engine = engine_of()
    for _ in range(300):
        drain(engine, [engine.submit(Request([4], SamplingParams(max_tokens=1), deadline=1e6))])
    assert len(engine._under_way._deadlines) < 100


def test_logits_that_are_no_numbers_fail_that_request_by_name_and_no_other() -> None:
    executor = ToyExecutor()
    executor.poison = {60}
    engine = engine_of(executor)
    bad = Request([*prompt(20), 60], SamplingParams(max_tokens=5, n=3))
    good = Request(prompt(20), SamplingParams(max_tokens=5, logit_bias={60: -100}, logprobs=False))
    error, judged, answers = drain(
        engine, [engine.submit(bad), engine.submit(replace(bad, ids=[*bad.ids, 4], score_from=3)), engine.submit(good)]
    )
    for one in (error, judged):
        assert isinstance(one, GenerationError) and "61 of 61 logits" in one.what
    assert answers == expected(executor, good)


@pytest.mark.parametrize("error", [MemoryError(), GenerationError("the kernel said no", "Try again.")])
def test_what_the_executor_cannot_run_fails_those_that_took_part(error: Exception) -> None:
    executor = ToyExecutor()
    engine = engine_of(executor, max_running=1)
    executor.broken = error
    request = Request(prompt(20), SamplingParams(max_tokens=5))
    failed, answers = drain(engine, [engine.submit(request), engine.submit(request)])
    assert isinstance(failed, GenerationError)
    assert answers == expected(executor, request)
    assert engine.stats().hit_tokens == 0  # nothing is read from what the broken step may have written


def test_an_interrupted_step_loses_no_token() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor)
    requests = [Request(prompt(20, salt), SamplingParams(max_tokens=20, n=2, temperature=1, seed=1)) for salt in (1, 2)]
    handles = [engine.submit(request) for request in requests]
    steps = [0]

    def interrupt() -> None:
        steps[0] += 1
        if steps[0] in (1, 4, 5):
            executor.broken = KeyboardInterrupt()
            with pytest.raises(KeyboardInterrupt):
                engine.step()

    assert drain(engine, handles, each_step=interrupt) == [expected(executor, request) for request in requests]


# --- what is refused


@pytest.mark.parametrize(
    ("request_", "error", "match"),
    [
        (Request([]), UsageError, "empty"),
        (Request([4, 61]), UsageError, "token id 61 is out of range: the vocabulary has 61"),
        (Request([-1]), UsageError, "token id -1"),
        (Request([4] * 256), ContextTooLong, "256 tokens; the model's context holds 256"),
        (Request([4] * 160), ContextTooLong, "160 tokens; the memory set aside for keys and values holds 160"),
        (Request([4] * 258, score_from=3), ContextTooLong, "258 tokens; the model's context holds 256"),
        (Request([4] * 162, score_from=3), ContextTooLong, "162 tokens; the memory"),
        (Request([4] * 9, score_from=0), UsageError, "begins at token 0 of 9"),
        (Request([4] * 9, score_from=10), UsageError, "begins at token 10 of 9"),
        (Request([4], deadline=0.0), UsageError, "deadline"),
        (Request([4], adapter="poet"), UsageError, "no adapter called 'poet'"),
        (Request([4], SamplingParams(logit_bias={61: 1.0})), UsageError, "logit_bias names token id 61"),
        (Request([4], SamplingParams(regex="a+")), UsageError, "structured output"),
    ],
)
def test_bad_requests_are_refused_by_name_before_any_work(request_: Request, error: Any, match: str) -> None:
    executor = ToyExecutor(pages=10)
    engine = engine_of(executor)
    with pytest.raises(error, match=match):
        engine.submit(request_)
    assert not engine.has_work and executor.tokens == []


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"stop": ("a", "")}, "stop string"),
        ({"stop": ("a", 1)}, "stop must be strings"),
        ({"n": 0}, "n must lie"),
        ({"n": 10**9}, "n must lie"),
        ({"max_tokens": 1.5}, "max_tokens must be a whole number"),
        ({"max_tokens": None}, "max_tokens must be a whole number"),
        ({"top_k": 2**40}, "top_k"),
        ({"seed": "a"}, "seed must be a whole number"),
        ({"temperature": "hot"}, "temperature must be a finite number"),
        ({"temperature": math.inf}, "temperature"),
        ({"frequency_penalty": math.nan}, "frequency_penalty"),
        ({"logit_bias": {"3": 1.0}}, "an id in logit_bias must be a whole number"),
        ({"regex": 5}, "regex"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"logit_bias": {3: math.inf}}, "logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"temperature": math.nan}, "temperature"),
    ],
)
def test_bad_parameters_are_refused_by_name(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SamplingParams(**wrong)


def test_parameters_may_be_numpy_s() -> None:
    numbers = np.array([3, 7])
    params = SamplingParams(max_tokens=numbers[0], seed=numbers[1], temperature=np.float32(0.5), stop=None)  # type: ignore[arg-type]
    assert params == SamplingParams(max_tokens=3, seed=7, temperature=0.5) and type(params.max_tokens) is int


def test_an_unknown_parameter_is_refused() -> None:
    with pytest.raises(TypeError, match="top_q"):
        SamplingParams(top_q=1)  # type: ignore[call-arg]


def test_an_answer_ends_where_the_context_or_the_pages_end() -> None:
    for executor in (ToyExecutor(context_length=40), ToyExecutor(pages=2)):
        engine = engine_of(executor)
        room = min(executor.context_length, 16 * executor.pages) - 20
        ((answer,),) = drain(
            engine, [engine.submit(Request(prompt(20), SamplingParams(max_tokens=99, ignore_eos=True)))]
        )
        assert len(answer.ids) == room and answer.reason == "length"


def test_an_engine_that_was_closed_says_so() -> None:
    engine = engine_of()
    engine.submit(Request(prompt(4)))
    engine.close()
    engine.close()
    for use in (engine.step, lambda: engine.submit(Request(prompt(4)))):
        with pytest.raises(ModelClosed):
            use()
    assert not engine.has_work


def test_a_budget_makes_steps_smaller_or_is_refused_with_the_numbers() -> None:
    executor = ToyExecutor(pages=10)  # 640 bytes of pages; a step over 512 takes 51,200 and its logits
    assert engine_of(executor, memory=100_000_000).scheduler.step_tokens == 512
    assert engine_of(executor, memory=60_000).scheduler.step_tokens == 128
    with pytest.raises(UsageError, match="the budget is"):
        engine_of(executor, memory=2_000)


def test_no_step_takes_more_than_the_budget() -> None:
    """However many answers run at once, and prompts beside them."""
    executor = ToyExecutor(pages=500)
    memory = executor.pages * executor.page_bytes + 15_000
    engine = engine_of(executor, memory=memory)
    requests = [Request(prompt(12, salt), SamplingParams(max_tokens=80, ignore_eos=True)) for salt in range(60)]
    drain(engine, [engine.submit(request) for request in requests])
    steps = zip(executor.tokens, executor.rows, strict=True)
    assert max(executor.scratch_bytes(tokens, rows) for tokens, rows in steps) <= 15_000


@pytest.mark.parametrize("wrong", [{"max_running": 0}, {"step_tokens": 8}, {"drafts": -1}])
def test_an_engine_that_could_never_run_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="cannot run"):
        engine_of(**wrong)


# --- adapters


def test_adapters_mixed_are_adapters_alone_and_share_no_pages() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor)
    engine.add_adapter("poet", {"toy": None})  # type: ignore[dict-item]
    params = SamplingParams(max_tokens=20, ignore_eos=True)
    plain, poet = Request(prompt(40), params), Request(prompt(40), params, adapter="poet")
    together = drain(engine, [engine.submit(one) for one in (plain, poet, plain, poet)])
    assert together[0] == together[2] == expected(executor, plain)
    assert together[1] == together[3] != together[0]
    lone = engine_of()
    lone.add_adapter("p", {"toy": None})  # type: ignore[dict-item]
    assert drain(lone, [lone.submit(replace(poet, adapter="p"))]) == [together[1]]


def test_an_adapter_that_was_replaced_leaves_nothing_behind() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor)
    request = Request(prompt(40), SamplingParams(max_tokens=1), adapter="poet")
    for _ in range(2):
        engine.add_adapter("poet", {"toy": None})  # type: ignore[dict-item]
        drain(engine, [engine.submit(request)])
        engine.remove_adapter("poet")
    assert executor.tokens == [40, 40]


def test_adapters_are_refused_by_name() -> None:
    engine = engine_of()
    with pytest.raises(UsageError, match="another base"):
        engine.add_adapter("poet", {"other": None})  # type: ignore[dict-item]
    engine.add_adapter("poet", {"toy": None})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="already"):
        engine.add_adapter("poet", {"toy": None})  # type: ignore[dict-item]
    handle = engine.submit(Request(prompt(4), SamplingParams(max_tokens=1), adapter="poet"))
    with pytest.raises(UsageError, match="1 requests use"):
        engine.remove_adapter("poet")
    drain(engine, [handle])
    engine.remove_adapter("poet")
    with pytest.raises(UsageError, match="no adapter called 'poet'"):
        engine.remove_adapter("poet")


def test_a_soak_leaves_no_page_behind_and_no_wrong_book() -> None:
    """1,500 random requests as in benchmarks/soak.py, which runs 20,000."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from soak import soak

    result = soak(1500)
    ends, stats = result["ends"], result["stats"]
    assert {"stop", "length", "cancelled", "score", "DeadlineExceeded"} <= set(ends)
    assert stats.preemptions > 50 and stats.hit_tokens > 1000
