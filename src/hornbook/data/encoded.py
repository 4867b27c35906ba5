"""An example as a model reads it: ids, and what is to be learnt of them; and the account of a whole set. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np

from hornbook.data.example import Place
from hornbook.errors import DataError

Ids: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"
Bits: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"

SENTENCE, WORD = 1, 2  # bits of Encoded.starts


@dataclass(slots=True)
class Encoded:
    """One row.

    ids     [T] int32                                learnt  [T] uint8, 1: the model is to say this token
    types   [T] uint8, 1 in the second of two texts  starts  [T] uint8, SENTENCE | WORD where one begins
    target  [S] int32, of a model with an encoder    label   the number of the text's class
    lost    tokens that were cut already
    """

    ids: Ids
    learnt: Bits
    types: Bits | None = None
    target: Ids | None = None
    label: int | None = None
    starts: Bits | None = None
    place: Place | None = None
    lost: int = 0

    @property
    def length(self) -> int:
        """Tokens that go through the model."""
        return len(self.ids) + (0 if self.target is None else len(self.target))

    @property
    def targets(self) -> int:
        """How much there is to learn: tokens, or one class. Of text that will be masked, all of its tokens."""
        if self.label is not None:
            return 1
        if self.target is not None:
            return len(self.target)
        return len(self.ids) if self.starts is not None else int(self.learnt.sum())

    def cut(self, start: int, end: int) -> Encoded:
        """Tokens ``start`` to ``end``, of which the first is not learnt: nothing stands before it."""
        learnt = self.learnt[start:end].copy()
        learnt[:1] = 0
        types, starts = (None if x is None else x[start:end] for x in (self.types, self.starts))
        return Encoded(self.ids[start:end], learnt, types, None, self.label, starts, self.place)


@dataclass(slots=True)
class Account:
    """What came of a set of examples. ``cut``: tokens that were left out of the truncated ones."""

    examples: int = 0
    rows: int = 0
    tokens: int = 0
    learnt: int = 0
    too_long: int = 0
    longest: int = 0  # of those that were too long
    split: int = 0
    truncated: int = 0
    cut: int = 0
    dropped: int = 0
    unlabelled: int = 0
    first_unlabelled: Place | None = None

    def check(self) -> None:
        """Raises DataError where no row is left to learn from."""
        if self.rows:
            return
        if not self.examples:
            raise DataError("there is nothing to train on: the data hold no example", "Give at least one.")
        why = [f"{self.dropped} were dropped as too long"] if self.dropped else []
        if self.unlabelled:
            first = f", the first in {self.first_unlabelled}" if self.first_unlabelled else ""
            why.append(f"{self.unlabelled} have no token that is learnt{first}")
        raise DataError(
            f"no token would be trained: of {self.examples} examples {' and '.join(why)}",
            "Look at what is learnt (an assistant's turn, a completion), and at the context, which may cut it off.",
        )

    def to_json(self) -> dict[str, Any]:
        """As a run's folder keeps it."""
        place = self.first_unlabelled
        return asdict(self) | {"first_unlabelled": None if place is None else str(place)}

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> Account:
        """What ``to_json`` wrote."""
        place = said["first_unlabelled"]
        if place is not None:
            file, _, line = place.rpartition(", line ")
            place = Place(file, int(line))
        return cls(**said | {"first_unlabelled": place})
