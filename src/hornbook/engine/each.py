"""Answers one by one: (place, answer) of several questions, in the order in which they come.

as_they_come   ask several side by side        together   parts that belong to one question, once all are there
in_order       wait for all of them
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def as_they_come(ask: Callable[[T], R], several: Sequence[T], at_once: int) -> Generator[tuple[int, R], None, None]:
    """Ask ``at_once`` at a time, each in a thread. What was not asked yet is not asked any more once one fails or nobody reads on."""
    if len(several) <= 1 or at_once == 1:
        yield from ((place, ask(one)) for place, one in enumerate(several))
        return
    with ThreadPoolExecutor(min(at_once, len(several))) as pool:
        asked = {pool.submit(ask, one): place for place, one in enumerate(several)}
        try:
            yield from ((asked[done], done.result()) for done in as_completed(asked))
        finally:
            pool.shutdown(cancel_futures=True)


def together(counts: Sequence[int], each: Iterable[tuple[int, T]]) -> Iterator[tuple[int, list[T]]]:
    """``each`` tells the parts of several questions that stand in a row, counts[i] of the i-th: (i, its parts by place) as soon
    as it has all."""
    yield from ((place, []) for place, count in enumerate(counts) if not count)
    owners = [(place, number) for place, count in enumerate(counts) for number in range(count)]
    found: list[dict[int, T]] = [{} for _ in counts]
    for at, part in each:
        place, number = owners[at]
        found[place][number] = part
        if len(found[place]) == counts[place]:
            yield place, in_order(found[place].items())


def in_order(each: Iterable[tuple[int, T]]) -> list[T]:
    """What came for every place, by place."""
    found = dict(each)
    return [found[place] for place in range(len(found))]
