"""Threads that share an engine: each gets its own answer, nobody waits for a slow one, nothing is left behind."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from toy_executor import Answer, ToyExecutor, engine_of, expected

from hornbook.engine.driver import Driver, Stream, _acquire
from hornbook.engine.executor import Stopped
from hornbook.engine.requests import Request
from hornbook.errors import ModelClosed, UsageError
from hornbook.types import SamplingParams


def prompt(length: int, salt: int = 0) -> list[int]:
    return [4 + (7 * i + salt) % 57 for i in range(length)]


ENDLESS = Request(prompt(10), SamplingParams(max_tokens=200, ignore_eos=True))


def heard(stream: Stream, requests: int) -> list[list[Answer]]:
    answers: list[dict[int, Answer]] = [{} for _ in range(requests)]
    for place, event in stream:
        assert event.token is not None
        answers[place].setdefault(event.answer, Answer()).hear(event.token)
    return [[of_one[number] for number in sorted(of_one)] for of_one in answers]


def in_threads(works: list[Callable[[], Any]]) -> list[Any]:
    """Run them at the same time; raise what one of them raised."""
    results: list[Any] = [None] * len(works)

    def run(place: int) -> None:
        try:
            results[place] = works[place]()
        except BaseException as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(place,), daemon=True) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread waits for ever"
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def test_every_thread_gets_the_answers_that_it_asked_for() -> None:
    executor = ToyExecutor(pages=30)
    driver = Driver(engine_of(executor))

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(6):
            requests = [
                Request(
                    prompt(rng.randint(1, 60), rng.randrange(3)),
                    SamplingParams(max_tokens=rng.randint(1, 20), temperature=0.8, seed=rng.randrange(99), n=2),
                )
                for _ in range(rng.randint(1, 3))
            ]
            assert heard(driver.ask(requests), len(requests)) == [expected(executor, one) for one in requests]

    in_threads([lambda seed=seed: work(seed) for seed in range(8)])
    with driver.alone() as engine:
        assert not engine.has_work and engine.stats().pages_used == 0
        engine.scheduler.check()


def test_while_nobody_waits_nothing_runs() -> None:
    executor = ToyExecutor()
    driver = Driver(engine_of(executor))
    threads = threading.active_count()
    stream = driver.ask([ENDLESS])
    next(stream)
    time.sleep(0.02)
    assert len(executor.tokens) == 1 and threading.active_count() == threads
    stream.close()


def test_nobody_waits_for_a_stream_that_is_not_read() -> None:
    executor = ToyExecutor()
    driver = Driver(engine_of(executor))
    slow = driver.ask([ENDLESS])
    next(slow)
    quick = Request(prompt(9), SamplingParams(max_tokens=20))
    assert in_threads([lambda: heard(driver.ask([quick]), 1)]) == [[expected(executor, quick)]]
    assert len(heard(slow, 1)[0][0].ids) == 199  # and it has missed nothing


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_stream_that_is_closed_or_dropped_leaves_nothing_behind(how: str) -> None:
    driver = Driver(engine_of())
    stream = driver.ask([ENDLESS, replace(ENDLESS, ids=prompt(30, 1))])
    next(stream)
    assert driver.engine.stats().pages_used > 0
    if how == "close":
        stream.close()
        assert len(list(stream)) == 1 and list(stream) == []
    del stream
    gc.collect()
    assert not driver.engine.has_work and driver.engine.stats().pages_used == 0


def test_a_stream_that_nobody_ever_read_leaves_nothing_behind() -> None:
    driver = Driver(engine_of())
    driver.ask([ENDLESS])
    gc.collect()
    assert not driver.engine.has_work


def test_where_one_request_is_refused_none_is_asked() -> None:
    executor = ToyExecutor()
    driver = Driver(engine_of(executor))
    with pytest.raises(UsageError, match="token id 99"):
        driver.ask([ENDLESS, Request([99])])
    assert not driver.engine.has_work and executor.tokens == []


def test_a_thread_that_leaves_in_the_middle_hands_the_work_over() -> None:
    executor = ToyExecutor()
    driver = Driver(engine_of(executor))

    def leaves(seed: int) -> int:
        stream = driver.ask([replace(ENDLESS, ids=prompt(10, seed))])
        count = sum(1 for _ in zip(range(3 + seed), stream, strict=False))
        stream.close()
        return count

    stays = replace(ENDLESS, ids=prompt(17))
    *counts, answers = in_threads(
        [*(lambda seed=seed: leaves(seed) for seed in range(6)), lambda: heard(driver.ask([stays]), 1)]
    )
    assert counts == [3, 4, 5, 6, 7, 8] and answers == [expected(executor, stays)]
    assert driver.engine.stats().pages_used == 0


def test_closing_ends_all_open_streams_by_name() -> None:
    driver = Driver(engine_of())
    begun = threading.Barrier(4)

    def read(seed: int) -> str:
        stream = driver.ask([replace(ENDLESS, ids=prompt(10, seed))] * 4)
        next(stream)
        begun.wait()
        try:
            for _ in stream:
                time.sleep(0.001)
        except ModelClosed as error:
            return error.what
        return "went on"

    def close() -> str:
        begun.wait()
        driver.close()
        return "closed"

    assert in_threads([*(lambda seed=seed: read(seed) for seed in range(3)), close]) == ["the model was closed"] * 3 + [
        "closed"
    ]
    with pytest.raises(ModelClosed):
        driver.ask([ENDLESS])
    driver.close()


def test_what_interrupts_the_one_that_leads_does_not_stop_the_others() -> None:
    executor = ToyExecutor()
    driver = Driver(engine_of(executor))
    executor.broken = KeyboardInterrupt()
    stream = driver.ask([ENDLESS])
    with pytest.raises(KeyboardInterrupt):
        next(stream)
    other = Request(prompt(9), SamplingParams(max_tokens=20))
    assert in_threads([lambda: heard(driver.ask([other]), 1)]) == [[expected(executor, other)]]
    assert heard(stream, 1) == [expected(executor, ENDLESS)]


def test_the_engine_can_be_had_alone_while_others_generate() -> None:
    driver = Driver(engine_of())

    def change() -> None:
        for number in range(20):
            with driver.alone() as engine:
                engine.add_adapter(f"poet {number}", {"toy": None})  # type: ignore[dict-item]

    in_threads([change, *(lambda: heard(driver.ask([ENDLESS]), 1) for _ in range(4))])


def test_who_wants_the_engine_alone_gets_it_also_where_the_leader_is_interrupted() -> None:
    executor = ToyExecutor()
    driver = Driver(engine_of(executor))
    began, go = threading.Event(), threading.Event()
    run = executor.run

    def interrupted(batch: Any) -> Any:
        executor.run = run  # type: ignore[method-assign]
        began.set()
        go.wait(10)
        raise KeyboardInterrupt

    executor.run = interrupted  # type: ignore[method-assign]

    def lead() -> None:
        with pytest.raises(KeyboardInterrupt):
            next(driver.ask([ENDLESS]))

    def close() -> None:
        began.wait(10)
        waits = threading.Timer(0.05, go.set)  # when close() waits for the step to end
        waits.start()
        driver.close()

    in_threads([lead, close])


def test_an_interrupted_wait_hands_the_lead_on() -> None:
    """The one that was just woken to lead is interrupted: another one leads."""
    driver = Driver(engine_of())
    with driver.alone():
        other = Request(prompt(9), SamplingParams(max_tokens=5))
        found: list[Any] = []
        first, second = driver.ask([ENDLESS]), driver.ask([other])

        def interrupted() -> None:
            waited()
            raise KeyboardInterrupt

        waited, first.awake.wait = first.awake.wait, interrupted  # type: ignore[method-assign, assignment]

        def read(stream: Stream) -> None:
            try:
                found.append(len(heard(stream, 1)[0][0].ids))
            except KeyboardInterrupt:
                found.append("interrupted")

        threads = []
        for count, stream in enumerate((first, second), 1):
            threads.append(threading.Thread(target=read, args=(stream,), daemon=True))
            threads[-1].start()
            while len(driver._waiting) < count:
                time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert found == ["interrupted", 5]


def test_closing_a_stream_wakes_the_thread_that_reads_it() -> None:
    driver = Driver(engine_of())
    stream = driver.ask([ENDLESS])

    def close() -> None:
        while not driver._waiting:
            time.sleep(0.001)
        stream.close()

    with driver.alone():
        assert in_threads([lambda: next(stream, None), close]) == [None, None]


def test_an_interruption_just_after_the_lock_was_had_is_raised_with_the_lock_held_once() -> None:
    class Interrupting:
        """A lock that is interrupted twice: while it is waited for, and when it has just been had."""

        def __init__(self) -> None:
            self.lock = threading.RLock()
            self.tries = 0

        def acquire(self) -> None:
            self.tries += 1
            if self.tries == 2:
                self.lock.acquire()
            raise KeyboardInterrupt

        def _is_owned(self) -> bool:
            return self.lock._is_owned()  # type: ignore[attr-defined, no-any-return]

    lock = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        _acquire(lock)
    assert lock.tries == 2 and lock._is_owned()
    lock.lock.release()
    assert not lock._is_owned()


class Slow(ToyExecutor):
    """A run goes on until it is stopped."""

    def __init__(self) -> None:
        super().__init__(pages=40)
        self.runs, self.slow = threading.Event(), True
        self._stopped = threading.Event()

    def run(self, batch: Any) -> Any:
        if not self.slow:
            return super().run(batch)
        self.runs.set()
        assert self._stopped.wait(30), "nobody stops the step"
        self._stopped.clear()
        raise Stopped

    def stop(self) -> None:
        self.slow = False
        self._stopped.set()


def test_a_step_that_nobody_wants_any_more_is_not_waited_for() -> None:
    executor = Slow()
    driver = Driver(engine_of(executor))
    stream = driver.ask([ENDLESS])
    reader = threading.Thread(target=lambda: list(stream), daemon=True)
    reader.start()
    assert executor.runs.wait(30)
    stream.close()
    reader.join(30)
    assert not reader.is_alive()
    wanted = Request(prompt(20, 3), SamplingParams(max_tokens=5, ignore_eos=True))
    ((answer,),) = heard(driver.ask([wanted]), 1)
    assert [answer] == expected(executor, wanted)


def test_a_step_for_others_too_goes_on() -> None:
    executor = Slow()
    driver = Driver(engine_of(executor))
    streams = [driver.ask([ENDLESS]), driver.ask([ENDLESS])]
    reader = threading.Thread(target=lambda: list(streams[0]), daemon=True)
    reader.start()
    assert executor.runs.wait(30)
    streams[1].close()
    assert executor.slow, "one of two wants the step"
    streams[0].close()
    reader.join(30)
    assert not executor.slow and not reader.is_alive()


def test_closing_does_not_wait_for_the_step() -> None:
    executor = Slow()
    driver = Driver(engine_of(executor))
    errors: list[Exception] = []

    def read() -> None:
        try:
            list(driver.ask([ENDLESS]))
        except ModelClosed as error:
            errors.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert executor.runs.wait(30)
    driver.close()
    reader.join(30)
    assert errors and executor.closed
