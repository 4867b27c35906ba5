"""Which stretches of documents are read together, by the places where sentences begin: the plan of an epoch.

    pairs      two stretches, of which the second follows the first or is a stranger     arXiv 1810.04805, appendix A.2
    stretches  one stretch of whole sentences, never of two documents                    1907.11692, section 4.1 (DOC-SENTENCES)

Pure functions: whatever is drawn is drawn from (seed, epoch, document).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, TypeAlias

import numpy as np

from hornbook.errors import DataError

Bounds: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"  # where sentences begin, and the document's end
SHORT = 0.1  # of the pairs are short, so that the model meets such texts


def pairs(documents: Sequence[Bounds], room: int, seed: int, epoch: int) -> Bounds:
    """[n,7]: document, start and end of the first stretch and of the second, and 0 where it follows, 1 where it does not.

    Documents are gone through from their beginnings. A pair takes whole sentences until it has ``room`` tokens, or in
    one of ten fewer; half of the time its second part is replaced by sentences of another document, and those that it
    had come first in the next pair. What is too long is cut from the longer part, at its front and its back. Other than
    in the authors' code a pair has two sentences at least, so that no lone one must take a stranger, and one that is
    left over at the end is left to other epochs. Raises DataError with fewer than two documents, or where none has two
    sentences.
    """
    usable = sum(len(bounds) > 2 for bounds in documents)
    if len(documents) < 2 or not usable:
        raise DataError(
            f"{usable} of {len(documents)} documents have two sentences or more",
            "Give at least two documents, and one of two sentences; or train without the next sentence.",
        )
    plan: list[tuple[int, ...]] = []
    for number, bounds in enumerate(documents):
        random, places, at = Random(f"{seed} {epoch} {number}"), bounds.tolist(), 0
        while at + 2 < len(places):
            wanted = room if random.random() >= SHORT else random.randint(2, room)
            end = _filled(places, at, wanted, 2)
            middle = random.randrange(at + 1, end)
            first = (places[at], places[middle])
            if random.random() < 0.5:
                second, other, at = (places[middle], places[end]), number, end
            else:
                other = (number + random.randrange(1, len(documents))) % len(documents)
                theirs = documents[other].tolist()
                start = random.randrange(len(theirs) - 1)
                stop = _filled(theirs, start, max(1, wanted - first[1] + first[0]), 1)
                second, at = (theirs[start], theirs[stop]), middle
            first, second = _cut(first, second, room, random)
            plan.append((number, *first, other, *second, int(other != number)))
    return np.array(plan, dtype=np.int64)


def stretches(documents: Sequence[Bounds], room: int) -> Bounds:
    """[n,3]: document, start and end of stretches of whole sentences, at most ``room`` tokens; a sentence that has more is
    cut. All tokens are in exactly one."""
    plan = []
    for number, bounds in enumerate(documents):
        places, start = bounds.tolist(), 0
        for at, end in enumerate(places[1:], 1):
            if end - start > room and places[at - 1] > start:
                plan.append((number, start, places[at - 1]))
                start = places[at - 1]
            while end - start > room:
                plan.append((number, start, start + room))
                start += room
        if start < places[-1]:
            plan.append((number, start, places[-1]))
    return np.array(plan, dtype=np.int64).reshape(-1, 3)


def _filled(places: list[int], at: int, wanted: int, least: int) -> int:
    """The end of the sentences from ``at`` on that are ``wanted`` tokens or more, at least so many of them."""
    end = at + least
    while end < len(places) - 1 and places[end] - places[at] < wanted:
        end += 1
    return end


def _cut(
    first: tuple[int, int], second: tuple[int, int], room: int, random: Random
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Both to ``room`` tokens together, the longer one first, at the front and the back."""
    lengths = [first[1] - first[0], second[1] - second[0]]
    kept = list(lengths)
    over = sum(lengths) - room
    if over > 0:
        longer = 0 if lengths[0] >= lengths[1] else 1
        apart = min(over, abs(lengths[0] - lengths[1]))
        kept[longer] -= apart + (over - apart + 1) // 2
        kept[1 - longer] -= (over - apart) // 2

    def shortened(span: tuple[int, int], length: int) -> tuple[int, int]:
        front = random.randint(0, span[1] - span[0] - length)
        return span[0] + front, span[0] + front + length

    return shortened(first, kept[0]), shortened(second, kept[1])
