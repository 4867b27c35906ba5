"""Two stretches of text, of which the second follows the first or does not (arXiv 1810.04805, appendix A.2).

[CLS] first ... [SEP] second ... [SEP]      types 0 0 0 0 0 1 1 1 1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

from hornbook.errors import DataError

Sentences = Sequence[Sequence[int]]


class SentencePair(NamedTuple):
    ids: list[int]
    types: list[int]
    follows: int  # 0: it does; 1: the second is from another document


def sentence_pairs(
    documents: Sequence[Sentences], length: int, random: Random, *, cls: int, sep: int
) -> Iterator[SentencePair]:
    """Endless pairs of at most ``length`` tokens, of documents given as sentences of ids; half of them follow.

    A pair is filled with whole sentences up to the length; what is too long is cut from the longer side, at its
    front or its back. Raises DataError with fewer than two documents of two sentences.
    """
    usable = [document for document in documents if len(document) >= 2 and all(document)]
    if len(usable) < 2:
        raise DataError(
            f"{len(usable)} of {len(documents)} documents have two sentences or more", "Give at least two that have."
        )
    room = length - 3
    while True:
        number = random.randrange(len(usable))
        document = usable[number]
        start = random.randrange(len(document) - 1)
        middle = random.randrange(start + 1, len(document))
        first = _fill(document[start:middle], room)
        follows = random.random() < 0.5
        if not follows:
            other = (number + random.randrange(1, len(usable))) % len(usable)
            document, middle = usable[other], random.randrange(len(usable[other]))
        second = _fill(document[middle:], max(1, room - len(first)))
        _cut(first, second, room, random)
        ids = [cls, *first, sep, *second, sep]
        yield SentencePair(ids, [0] * (len(first) + 2) + [1] * (len(second) + 1), int(not follows))


def _fill(sentences: Sentences, room: int) -> list[int]:
    """Sentences from the first on until they are ``room`` tokens or more."""
    filled: list[int] = []
    for sentence in sentences:
        if len(filled) >= room:
            break
        filled += sentence
    return filled


def _cut(first: list[int], second: list[int], room: int, random: Random) -> None:
    while len(first) + len(second) > room:
        longer = first if len(first) > len(second) else second
        longer.pop(0 if random.random() < 0.5 else -1)
