"""The child of a fork goes on with the parent's model, whatever the parent's other threads were in the middle of."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forks import answer_of, in_child, tell
from toy_executor import Answer, ToyExecutor, engine_of, expected

import hornbook
from hornbook import forking
from hornbook.engine.driver import Driver, Stream
from hornbook.engine.executor import Batch, Floats
from hornbook.engine.requests import Request
from hornbook.errors import GenerationError
from hornbook.kernels.library import library
from hornbook.kernels.weight import Weight
from hornbook.llm import LocalLLM
from hornbook.settings import Settings
from hornbook.types import SamplingParams

if not hasattr(os, "fork"):
    pytest.skip("no fork here", allow_module_level=True)

PROMPT = [4 + 7 * i % 57 for i in range(40)]
ENDLESS = Request(PROMPT[:10], SamplingParams(max_tokens=200, ignore_eos=True))
SHORT = Request(PROMPT, SamplingParams(max_tokens=12))


class Held(ToyExecutor):
    """Stays in the middle of a step while ``gate`` is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.inside = threading.Event()

    def run(self, batch: Batch) -> Floats:
        self.inside.set()
        while not self.gate.wait(0.01):
            pass
        return super().run(batch)


@contextmanager
def thread(work: Callable[[], Any]) -> Iterator[threading.Thread]:
    beside = threading.Thread(target=work, daemon=True)
    beside.start()
    yield beside
    beside.join(20)
    assert not beside.is_alive()


def said(stream: Stream) -> list[int]:
    """The ids of one request's answer. Raises what it fails with."""
    answer = Answer()
    for _, event in stream:
        if event.error is not None:
            raise event.error
        assert event.token is not None
        answer.hear(event.token)
    return answer.ids


def ids_of(executor: ToyExecutor, request: Request) -> list[int]:
    return expected(executor, request)[0].ids


def books(driver: Driver) -> list[int]:
    with driver.alone() as engine:
        engine.scheduler.check()
        return [int(engine.has_work), engine.stats().pages_used]


def test_in_the_middle_of_another_threads_step_the_child_begins_anew() -> None:
    executor = Held()
    driver = Driver(engine_of(executor))
    mine, its = driver.ask([ENDLESS]), driver.ask([ENDLESS])
    first = next(mine)[1].token
    assert first is not None and first.id is not None
    executor.gate.clear()
    executor.inside.clear()

    def child() -> list[Any]:
        executor.gate.set()
        ended = [event.error for stream in (mine, its) for _, event in stream if event.last]
        assert all(isinstance(error, GenerationError) and "forked" in error.what for error in ended)
        return [len(ended), said(driver.ask([SHORT])), books(driver)]

    heard: list[int] = []
    with thread(lambda: heard.extend(said(its))):
        assert executor.inside.wait(10)
        told = in_child(child)
        executor.gate.set()
    assert told == [2, ids_of(executor, SHORT), [0, 0]]
    assert heard == ids_of(executor, ENDLESS), "the parent goes on"
    assert [first.id, *said(mine)] == ids_of(executor, ENDLESS)


def test_a_lock_that_another_thread_held_is_open_in_the_child() -> None:
    executor, held, leave = ToyExecutor(), threading.Event(), threading.Event()
    driver = Driver(engine_of(executor))

    def hold() -> None:
        with driver._lock:
            held.set()
            leave.wait(20)

    with thread(hold):
        assert held.wait(10)
        told = in_child(lambda: said(driver.ask([SHORT])))
        leave.set()
    assert told == ids_of(executor, SHORT)


def test_where_nobody_else_steps_a_stream_goes_on_in_both_and_known_pages_stay_known() -> None:
    executor = ToyExecutor()
    driver = Driver(engine_of(executor))
    whole = ids_of(executor, ENDLESS)
    said(driver.ask([SHORT]))
    stream = driver.ask([ENDLESS])
    assert next(stream)[1].token is not None

    def child() -> list[Any]:
        before = driver.engine.stats().hit_tokens
        return [said(stream), said(driver.ask([SHORT])), driver.engine.stats().hit_tokens - before, books(driver)]

    assert in_child(child) == [whole[1:], ids_of(executor, SHORT), 32, [0, 0]]
    assert said(stream) == whole[1:]


def test_what_other_threads_had_asked_for_is_over_in_the_child() -> None:
    """Two of them sleep between two tokens; nobody in the child waits for them, or works for them."""
    executor, ready, leave = ToyExecutor(), threading.Barrier(2), threading.Event()
    driver = Driver(engine_of(executor))
    streams: list[Stream] = []

    def read() -> None:
        stream = driver.ask([ENDLESS])
        next(stream)
        streams.append(stream)
        ready.wait(10)
        leave.wait(20)

    def child() -> list[Any]:
        answers: list[list[int]] = []
        for _ in range(2):  # threads of its own, who lead each other
            with thread(lambda: answers.append(said(driver.ask([SHORT])))):
                answers.append(said(driver.ask([SHORT])))
        with pytest.raises(GenerationError, match="forked"):
            said(streams[0])
        return [answers, books(driver), max(executor.sequences)]

    with thread(read):
        ready.wait(10)
        executor.sequences.clear()
        told = in_child(child)
        leave.set()
    assert told[:2] == [[ids_of(executor, SHORT)] * 4, [0, 0]]
    assert told[2] <= 2


def test_a_fork_by_the_thread_that_steps_lets_both_finish_the_step() -> None:
    executor, parent = ToyExecutor(), os.getpid()
    driver = Driver(engine_of(executor))
    pipe, children = os.pipe(), []

    def fork(ids: Sequence[int], logits: Floats) -> Floats:
        if len(ids) == len(PROMPT) + 3 and not children:
            children.append(os.fork())
        return logits

    forking_one = Request(PROMPT, SamplingParams(max_tokens=12), processors=(fork,))
    answer = said(driver.ask([forking_one]))
    if os.getpid() != parent:
        tell(lambda: [answer, said(driver.ask([SHORT])), books(driver)], pipe[1])
    os.close(pipe[1])
    whole = ids_of(executor, SHORT)
    assert answer == whole
    assert answer_of(children[0], pipe[0]) == [whole, whole, [0, 0]]


def test_locks_open_in_the_child_but_for_those_of_the_thread_that_forked() -> None:
    theirs, own, held, leave = forking.lock(), forking.lock(), threading.Event(), threading.Event()

    def hold() -> None:
        with theirs:
            held.set()
            leave.wait(20)

    def child() -> list[bool]:
        found = [forking.is_held(own), bool(theirs.acquire(timeout=5))]
        own.release()
        return [*found, forking.is_held(own)]

    with thread(hold):
        assert held.wait(10)
        with own:
            assert in_child(child) == [True, True, False]
        leave.set()


def test_what_is_gone_is_not_called_in_children() -> None:
    before = len(forking._methods), len(forking._locks)
    driver = Driver(engine_of())
    assert len(forking._methods) > before[0] and len(forking._locks) > before[1]
    del driver
    gc.collect()
    assert (len(forking._methods), len(forking._locks)) <= before


# --------------------------------------------------------------------------------------------------------- real models

TEXT = "Permission is hereby granted"
GREEDY = SamplingParams(max_tokens=16, ignore_eos=True)


def generate(llm: LocalLLM) -> str:
    return llm.generate(TEXT, GREEDY)[0].text


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_child_generates_what_its_parent_does_while_others_generate(tiny_llm_path: Path, dtype: str) -> None:
    """By the native kernels, and by torch."""
    with hornbook.load(str(tiny_llm_path), device="cpu", dtype=dtype) as llm:
        assert isinstance(llm, LocalLLM)
        wanted, stop = generate(llm), threading.Event()

        def work(salt: int) -> None:
            rng = np.random.default_rng(salt)
            while not stop.is_set():
                llm.generate([rng.integers(3, 300, 200).tolist()], SamplingParams(max_tokens=4))

        with thread(lambda: work(0)), thread(lambda: work(1)):
            try:
                for _ in range(8):
                    assert in_child(lambda: generate(llm)) == wanted
            finally:
                stop.set()
        assert generate(llm) == wanted


def test_a_model_on_a_gpu_is_refused_in_a_child(tiny_llm_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    with hornbook.load(str(tiny_llm_path), device="cpu", dtype="float32") as llm:
        assert isinstance(llm, LocalLLM) and llm._driver is not None
        wanted = generate(llm)
        with monkeypatch.context() as patch:  # that it lies on a GPU is only said
            patch.setattr(llm._driver.engine.executor, "device", torch.device("cuda"))
            kind, name, words = in_child(lambda: generate(llm))
        assert (kind, name) == ("error", "GenerationError") and "cuda" in words and "spawn" in words
        assert generate(llm) == wanted


def test_a_child_packs_weights_while_its_parent_packs_and_frees_them() -> None:
    kernels, stop = library(Settings()), threading.Event()
    if kernels is None:
        pytest.skip("there are no native kernels here")
    rows = np.ones((16, 64), np.float32)

    def work() -> None:
        while not stop.is_set():
            Weight(kernels, "F32", 16, 64, rows)

    with thread(work), thread(work):
        try:
            for _ in range(20):
                total = in_child(lambda: float(Weight(kernels, "F32", 16, 64, rows).linear(rows[:2]).sum()))
                assert total == 2 * 16 * 64
        finally:
            stop.set()


def test_torch_computes_in_a_child_after_it_computed_here() -> None:
    import torch

    import hornbook.model.transformer  # noqa: F401  whose models these threads would serve

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        square = torch.ones(600, 600)
        assert (square @ square).sum() == 600**3
        assert in_child(lambda: float((square @ square).sum())) == 600**3
    finally:
        torch.set_num_threads(threads)
