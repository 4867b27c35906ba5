"""Batches of examples cleaned by several processes, in their order, with a bounded number on their way.

    read -> Batch, Batch, ... -> worker processes -> Cleaned of each example, in the order in which they were read

A cleaned example depends on nothing but itself, so the result is the same with any number of processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import NamedTuple

from hornbook.data.cleaning import Cleaned, Cleaning, clean
from hornbook.data.example import Example, Place
from hornbook.errors import HornbookError

BATCH = 64  # examples


class Batch(NamedTuple):
    """Examples, and the lines before each end that could not be read: (place, why)."""

    examples: list[Example]
    skipped: list[tuple[Place, str]]


def batches(examples: Iterable[Example], skipped: list[tuple[Place, str]]) -> Iterator[Batch]:
    """Cut a stream; ``skipped`` is the list that its reader appends to, emptied into each batch."""
    stream = iter(examples)
    while found := list(islice(stream, BATCH)):
        passed, skipped[:] = list(skipped), []
        yield Batch(found, passed)
    if skipped:
        yield Batch([], list(skipped))


def cleaned(stream: Iterable[Batch], cleaning: Cleaning, workers: int) -> Iterator[tuple[Batch, list[Cleaned]]]:
    """Clean each batch. ``workers``: processes, 0 for one to a core; with 1 the work is done in this one.

    Raises HornbookError where a process was ended from outside (most often for want of memory).
    """
    count = (
        workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else workers or os.cpu_count() or 1
    )
    if count == 1:
        for batch in stream:
            yield batch, [clean(example, cleaning) for example in batch.examples]
        return
    waiting: deque[tuple[Batch, Future[list[Cleaned]]]] = deque()
    # spawn: a fork would copy the locks of whatever threads this process has
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _begin, (cleaning,)) as pool:
        try:
            for batch in stream:
                waiting.append((batch, pool.submit(_clean, batch.examples)))
                if len(waiting) >= 4 * count:
                    first, done = waiting.popleft()
                    yield first, done.result()
            while waiting:
                first, done = waiting.popleft()
                yield first, done.result()
        except BrokenProcessPool as error:
            raise HornbookError(
                "a process that cleans was ended from outside, most often for want of memory",
                "Give fewer processes (workers=1), then the same command again: it goes on where it was.",
            ) from error
        finally:
            for _, future in waiting:
                future.cancel()


_cleaning: Cleaning  # of a worker process, which gets it once and not with every batch


def _begin(cleaning: Cleaning) -> None:
    global _cleaning
    _cleaning = cleaning
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Control-C is the first process's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process whose first one was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _clean(examples: list[Example]) -> list[Cleaned]:
    return [clean(example, _cleaning) for example in examples]
