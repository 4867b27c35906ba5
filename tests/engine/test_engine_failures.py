"""What goes wrong in the middle of a step, and when: it takes nobody with it, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
from toy_executor import ToyExecutor, drain, engine_of, expected

from hornbook.engine.requests import Handle, Request
from hornbook.errors import GenerationError
from hornbook.types import SamplingParams


def prompt(length: int, salt: int = 0) -> list[int]:
    return [4 + (7 * i + salt) % 57 for i in range(length)]


def test_pages_of_a_request_that_failed_are_not_used_again() -> None:
    """They may hold what is no number; those that others have too stay, and what goes on from forgotten ones is forgotten."""
    executor = ToyExecutor()
    executor.poison = {60}
    engine = engine_of(executor)
    beginning = prompt(32)
    (_,) = drain(engine, [engine.submit(Request([*beginning, *prompt(20, 1)], SamplingParams(max_tokens=1)))])
    bad = engine.submit(Request([*beginning, *prompt(20, 2), 60], SamplingParams(max_tokens=5)))
    (error,) = drain(engine, [bad])
    assert isinstance(error, GenerationError) and engine.stats().pages_cached == 0
    assert engine.stats().pages_free == executor.pages

    slow = engine.submit(Request([*beginning, *prompt(9, 3)], SamplingParams(max_tokens=30, logit_bias={60: -100})))
    engine.step()
    bad = engine.submit(Request([*beginning, *prompt(20, 2), 60], SamplingParams(max_tokens=5)))
    drain(engine, [slow, bad])
    before = engine.stats().hit_tokens
    drain(engine, [engine.submit(Request([*beginning, 5], SamplingParams(max_tokens=1)))])
    assert engine.stats().hit_tokens - before == 32


def test_a_request_that_is_cancelled_while_a_step_begins_never_runs() -> None:
    """It came after the step had looked for new ones, and was cancelled before the step looked for those."""
    executor = ToyExecutor()
    engine = engine_of(executor)
    first = engine.submit(Request(prompt(5), SamplingParams(max_tokens=3, ignore_eos=True)))
    late: list[Handle] = []
    end_early = engine._under_way.end_early

    def between() -> None:
        if not late:
            late.append(engine.submit(Request(prompt(9, 1), SamplingParams(max_tokens=100, ignore_eos=True))))
            engine.cancel(late[0])
        end_early()

    engine._under_way.end_early = between  # type: ignore[method-assign]
    drain(engine, [first])
    assert late[0].done and sum(executor.tokens) == 5 + 2


def test_an_answer_that_is_interrupted_in_the_middle_of_a_token_fails_by_name_and_no_other() -> None:
    executor = ToyExecutor()
    engine = engine_of(executor)
    requests = [Request(prompt(20, salt), SamplingParams(max_tokens=9, ignore_eos=True)) for salt in (1, 2, 3)]
    handles = [engine.submit(request) for request in requests]
    heard = engine._under_way.hear
    calls = [0]

    def interrupted(one: Any, choice: Any) -> bool:
        calls[0] += 1
        goes_on = heard(one, choice) if calls[0] != 5 else one.reply.accept(choice.id) and True
        if calls[0] == 5:  # its text is one token ahead of its ids
            raise KeyboardInterrupt
        return goes_on

    engine._under_way.hear = interrupted  # type: ignore[method-assign]

    def step() -> None:
        if calls[0] == 3:
            with pytest.raises(KeyboardInterrupt):
                engine.step()

    first, second, third = drain(engine, handles, each_step=step)
    assert [first, third] == [expected(executor, requests[0]), expected(executor, requests[2])]
    assert isinstance(second, GenerationError) and "interrupted" in second.what
