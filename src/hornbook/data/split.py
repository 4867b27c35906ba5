"""Training and validation apart: by document, so that nothing that is validated was learnt.

What decides is what an example asks (`asked`), never its place: the same prompt with two answers, or one document given
twice, lies on one side; and the side is the same in any order, on any machine, however much data is added.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import takewhile
from typing import TypeVar

from hornbook.data.example import Conversation, Example, Labelled, Pair, Preference, Text
from hornbook.errors import DataError, UsageError
from hornbook.types import Message

E = TypeVar("E", Text, Conversation, Preference, Pair, Labelled, Example)


def asked(example: Example) -> str:
    """What makes two examples one document: a text; a pair's source; of conversations all before the first answer."""
    match example:
        case Text(text=text):
            return text
        case Pair(source=source):
            return source
        case Labelled(text=text, second=second):
            return text if second is None else f"{text}\0{second}"
        case Conversation(messages=messages):
            before = takewhile(lambda turn: turn.role != "assistant", messages)
            return _turns(before)
        case Preference(prompt=prompt):
            return _turns(prompt)


def _turns(messages: Iterable[Message]) -> str:
    return "\0".join(f"{turn.role}\0{turn.content}" for turn in messages)


def draw(example: Example, seed: int) -> float:
    """A number in [0, 1) that is an example's own: those of one document have the same."""
    told = hashlib.blake2b(f"{seed}\0{asked(example)}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(told) >> 11) * 2.0**-53


def held_out(example: Example, share: float, seed: int) -> bool:
    """Whether an example of a stream is for validation; about ``share`` of the documents are."""
    return draw(example, seed) < share


def split(examples: Iterable[E], validation: float | int, seed: int = 0) -> tuple[list[E], list[E]]:
    """-> (to learn, to validate), each in its order. ``validation``: a share below 1, or a number of examples; a few more
    are taken where documents stand several times. At least one is taken, unless it is 0.

    Raises UsageError for a share that is none, DataError where nothing would remain to learn from.
    """
    every = list(examples)
    if validation < 0 or (isinstance(validation, float) and validation >= 1) or isinstance(validation, bool):
        raise UsageError(f"{validation} is no share to validate with", "Give a share below 1, or a number of examples.")
    if not validation:
        return every, []
    wanted = max(1, round(validation * len(every))) if isinstance(validation, float) else validation
    drawn = [draw(example, seed) for example in every]
    taken, limit = 0, 0.0
    for number in sorted(drawn):
        if taken >= wanted and number >= limit:
            break
        taken, limit = taken + 1, number + 2.0**-53
    if taken >= len(every):
        raise DataError(
            f"{len(every)} example{'s' * (len(every) != 1)} with {taken} held out leave none to learn from",
            "Hold out fewer, give more, or cut texts into more (split: blank-line, or line).",
        )
    sides: tuple[list[E], list[E]] = ([], [])
    for example, number in zip(every, drawn, strict=True):
        sides[number < limit].append(example)
    return sides
