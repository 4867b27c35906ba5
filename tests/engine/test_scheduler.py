"""Who runs, who waits, who gives way: the order of the line, budgets, and that everybody's turn comes."""

from __future__ import annotations

from typing import Any

import pytest
from toy_executor import ToyExecutor, drain, engine_of

from hornbook.engine.engine import Engine
from hornbook.engine.requests import Handle, Request
from hornbook.engine.scheduler import PATIENCE
from hornbook.types import SamplingParams


def prompt(length: int, salt: int = 0) -> list[int]:
    return [4 + (7 * i + salt * 13) % 57 for i in range(length)]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def ask(engine: Engine, length: int = 8, tokens: int = 5, salt: int = 0, **options: Any) -> Handle:
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    return engine.submit(Request(prompt(length, salt), params, **options))


def order_of_ends(engine: Engine, handles: list[Handle]) -> list[int]:
    """The places of the handles, in the order in which they end."""
    ends: list[int] = []

    def note() -> None:
        ends.extend(place for place, handle in enumerate(handles) if handle.done and place not in ends)

    drain(engine, handles, each_step=note)
    return ends


def test_equals_are_served_in_the_order_they_came() -> None:
    engine = engine_of(max_running=1)
    assert order_of_ends(engine, [ask(engine, salt=salt) for salt in range(5)]) == [0, 1, 2, 3, 4]


def test_a_higher_priority_goes_first() -> None:
    engine = engine_of(max_running=1, clock=Clock())
    assert order_of_ends(engine, [ask(engine, priority=p) for p in (0, 2, -1, 1)]) == [1, 3, 0, 2]


def test_a_higher_priority_takes_the_place_of_what_runs_and_that_loses_nothing() -> None:
    clock = Clock()
    engine = engine_of(max_running=1, clock=clock)
    low = ask(engine, tokens=30)
    for _ in range(5):
        engine.step()
    high = ask(engine, tokens=3, salt=1, priority=1)
    heard = {low: 5, high: 0}
    ended = []
    while engine.has_work:
        for event in engine.step():
            heard[event.handle] += 1
            ended += [event.handle] * event.last
    assert ended == [high, low] and heard == {low: 30, high: 3} and engine.stats().preemptions == 1


def test_nobody_waits_for_ever_behind_higher_priorities() -> None:
    """One urgent request after the other, each there before the last has ended: the modest one waits its PATIENCE."""
    clock = Clock()
    engine = engine_of(max_running=1, clock=clock)
    modest = ask(engine, tokens=2)
    asked = [ask(engine, tokens=2, salt=1, priority=1)]
    while not modest.done:
        clock.now += 0.5
        engine.step()
        if len([handle for handle in asked if not handle.done]) < 2:
            asked.append(ask(engine, tokens=2, salt=1, priority=1))
        assert clock.now < 1000 + 2 * PATIENCE
    assert clock.now > 1000 + PATIENCE / 2  # they did go first


def test_equals_never_preempt_each_other_for_a_place() -> None:
    engine = engine_of(max_running=2)
    drain(engine, [ask(engine, salt=salt, tokens=10) for salt in range(8)])
    assert engine.stats().preemptions == 0


def test_where_pages_run_out_the_last_of_the_line_gives_way() -> None:
    executor = ToyExecutor(pages=6)
    engine = engine_of(executor)
    handles = [ask(engine, 16, 60, salt) for salt in range(3)]
    assert order_of_ends(engine, handles) == [0, 1, 2]
    assert engine.stats().preemptions > 0


def test_a_preempted_answer_is_not_taken_in_again_before_it_can_grow() -> None:
    """Preemptions stay few: no ping-pong over the last page."""
    executor = ToyExecutor(pages=20)
    engine = engine_of(executor)
    handles = [ask(engine, 30, 100, salt) for salt in range(8)]
    drain(engine, handles)
    assert 0 < engine.stats().preemptions <= 16
    assert engine.stats().steps < 8 * 100


def test_a_step_never_exceeds_its_budget_and_never_leaves_prompts_out() -> None:
    executor = ToyExecutor(pages=200)
    engine = engine_of(executor, step_tokens=64)
    drain(engine, [ask(engine, 60 + salt, 20, salt) for salt in range(16)])
    assert max(executor.tokens) <= 64
    executor.tokens.clear()
    engine = engine_of(executor, step_tokens=16)
    handles = [ask(engine, 4, 90, salt) for salt in range(30)]
    for _ in range(12):
        engine.step()
    late = ask(engine, 100, 1, salt=31)
    for _ in range(8):
        engine.step()
    assert late.done  # a page of its prompt at every step, beside 30 answers
    drain(engine, handles)


def test_chunks_end_at_the_borders_of_pages() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor, step_tokens=50)
    drain(engine, [ask(engine, 130, 1)])
    assert executor.tokens == [48, 48, 34]


@pytest.mark.parametrize("share", [True, False])
def test_what_does_not_fit_waits_and_what_is_shared_does_not_count(share: bool) -> None:
    executor = ToyExecutor(pages=10)
    engine = engine_of(executor, share=share)
    params = SamplingParams(max_tokens=9, ignore_eos=True)
    handles = [engine.submit(Request([*prompt(96), salt], params)) for salt in range(10, 14)]
    engine.step()
    engine.step()
    assert len(engine.scheduler.running) == (2 if share else 1)
    drain(engine, handles)


def test_one_that_waits_for_pages_is_taken_in_once_they_are_there() -> None:
    engine = engine_of(ToyExecutor(pages=5))
    first, second = ask(engine, 40, 9), ask(engine, 40, 9, salt=1)
    engine.step()
    assert [len(engine.scheduler.running), len(engine.scheduler.waiting)] == [1, 1]
    engine.cancel(first)
    engine.step()
    assert [one.handle for one in engine.scheduler.running] == [second]
    drain(engine, [second])


def test_check_finds_books_that_differ() -> None:
    engine = engine_of()
    ask(engine, 40)
    engine.step()
    engine.scheduler._tables[engine.scheduler.running[0].slot, 0] += 1
    with pytest.raises(AssertionError):
        engine.scheduler.check()
