"""A feed: everybody's tokens once a step, nobody waits for ever, nothing is kept of what is over."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from toy_executor import Answer, ToyExecutor, engine_of, expected

from hornbook.engine.driver import Driver
from hornbook.engine.executor import Batch, Floats
from hornbook.engine.feed import Feed
from hornbook.engine.requests import Event, Handle, Request
from hornbook.errors import GenerationError, ModelClosed, UsageError
from hornbook.types import SamplingParams

ENDLESS = SamplingParams(max_tokens=200, ignore_eos=True)


class Listener:
    """What a feed has told, step by step."""

    def __init__(self) -> None:
        self.told: list[list[Event]] = []
        self.more = threading.Condition()

    def __call__(self, events: list[Event]) -> None:
        with self.more:
            self.told.append(events)
            self.more.notify_all()

    def of(self, handle: Handle) -> list[Event]:
        return [event for events in list(self.told) for event in events if event.handle is handle]

    def wait(self, handle: Handle, tokens: int | None = None) -> list[Event]:
        """Until the end, or until so many tokens have come."""

        def there() -> bool:
            own = self.of(handle)
            return any(event.last for event in own) or (tokens is not None and len(own) >= tokens)

        with self.more:
            assert self.more.wait_for(there, 20), "the feed tells nothing"
        return self.of(handle)


@pytest.fixture
def toy() -> ToyExecutor:
    return ToyExecutor(pages=200)


@pytest.fixture
def driver(toy: ToyExecutor) -> Driver:
    return Driver(engine_of(toy))


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def feed(driver: Driver, listener: Listener) -> Iterator[Feed]:
    made = Feed(driver, listener)
    yield made
    made.close()


def heard(events: list[Event]) -> list[Answer]:
    answers: dict[int, Answer] = {}
    for event in events:
        assert event.token is not None
        answers.setdefault(event.answer, Answer()).hear(event.token)
    return [answers[number] for number in sorted(answers)]


def test_many_requests_get_their_own_answers_and_a_step_is_told_once(
    toy: ToyExecutor, feed: Feed, listener: Listener
) -> None:
    requests = [
        Request([4 + i, 7, 9], SamplingParams(max_tokens=20, temperature=0.7, seed=i, n=1 + i % 2, ignore_eos=True))
        for i in range(12)
    ]
    handles = [feed.ask(request) for request in requests]
    for handle, request in zip(handles, requests, strict=True):
        assert heard(listener.wait(handle)) == expected(toy, request)
    assert len(listener.told) < 60, "18 answers of 20 tokens were told nearly one by one"
    assert not feed._stream.open and not feed._stream._places


def test_what_is_cancelled_ends_and_gives_its_pages_back(
    toy: ToyExecutor, driver: Driver, feed: Feed, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled, run = threading.Event(), toy.run

    def in_time(batch: Batch) -> Floats:  # however slow this thread is, the answer is not over before it has cancelled
        if int(batch.lengths.max()) > 20:
            cancelled.wait(20)
        return run(batch)

    monkeypatch.setattr(toy, "run", in_time)
    handle = feed.ask(Request([5, 6, 7], ENDLESS))
    listener.wait(handle, tokens=3)
    feed.cancel(handle)
    cancelled.set()
    last = listener.wait(handle)[-1]
    assert last.last and last.token is not None and last.token.finish_reason == "cancelled"
    assert driver.engine.stats().pages_used == 0


def test_other_threads_use_the_same_engine_meanwhile(
    toy: ToyExecutor, driver: Driver, feed: Feed, listener: Listener
) -> None:
    handle = feed.ask(Request([5, 6, 7], ENDLESS))
    request = Request([9, 9], SamplingParams(max_tokens=10, ignore_eos=True))
    for _ in range(5):
        events = [event for _, event in driver.ask([request])]
        assert heard(events) == expected(toy, request)
    assert heard(listener.wait(handle)) == expected(toy, Request([5, 6, 7], ENDLESS))


def test_what_cannot_be_asked_is_told_to_whoever_asks(feed: Feed, listener: Listener) -> None:
    with pytest.raises(UsageError, match="empty"):
        feed.ask(Request([]))
    assert not listener.told and not feed._stream.open


def test_a_step_that_fails_leaves_nobody_waiting(toy: ToyExecutor, feed: Feed, listener: Listener) -> None:
    toy.broken = RuntimeError("the kernel broke")
    failed = listener.wait(feed.ask(Request([5, 6], ENDLESS)))
    assert isinstance(failed[-1].error, GenerationError)
    request = Request([5, 6], SamplingParams(max_tokens=4, ignore_eos=True))
    assert heard(listener.wait(feed.ask(request))) == expected(toy, request)


def test_closing_the_engine_or_the_feed_ends_everything(driver: Driver, listener: Listener) -> None:
    feed = Feed(driver, listener)
    handle = feed.ask(Request([5, 6, 7], ENDLESS))
    listener.wait(handle, tokens=1)
    driver.close()
    last = listener.wait(handle)[-1]
    assert last.last and (isinstance(last.error, ModelClosed) or last.token is not None)
    feed.close()
    with pytest.raises(ModelClosed):
        feed.ask(Request([5, 6, 7], ENDLESS))


def test_an_idle_feed_does_nothing(feed: Feed, listener: Listener) -> None:
    listener.wait(feed.ask(Request([5], SamplingParams(max_tokens=2, ignore_eos=True))))
    time.sleep(0.05)
    before = time.thread_time_ns(), time.process_time_ns()
    time.sleep(0.3)
    after = time.thread_time_ns(), time.process_time_ns()
    others = (after[1] - before[1]) - (after[0] - before[0])
    assert others < 30e6, f"{others / 1e6:.0f} ms of processor time in 300 ms of nothing"
