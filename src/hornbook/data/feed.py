"""The batches of a training, epoch after epoch, from any position, shared among any number of ranks.

    micro-batch   0 1 2 3 4 5 | 0 1 2 3 4 5 | ...         of epoch 0, 1, ..., by a pure function of the epoch
    rank          0 1 2 0 1 2   0 1 2 0 1 2               every world-th; the stream goes on over the ends of epochs

The position is that of the whole team, so a training may go on with another number of ranks. It is two numbers, and
batches drawn after ``restore`` are those that would have followed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np

from hornbook.data import collate, order
from hornbook.data.order import Epoch
from hornbook.data.table import Table
from hornbook.errors import DataError
from hornbook.train.batch import Batch, without_labels

Order: TypeAlias = Callable[[int], Epoch]  # epoch -> its micro-batches
Collate: TypeAlias = Callable[[list[int], int], Batch]  # rows, epoch -> what the model reads


class Feed:
    """Endless batches of this rank. order, collate: as their types say; both must be pure."""

    def __init__(self, order: Order, collate: Collate, *, rank: int = 0, world: int = 1) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"there is no rank {rank} of {world}")
        self._order, self._collate = order, collate
        self.rank, self.world = rank, world
        self._epoch = self._at = 0  # of the team's next round
        self._known: dict[int, Epoch] = {}

    @property
    def epoch(self) -> int:
        return self._epoch

    @property
    def epoch_batches(self) -> int:
        """Micro-batches of the first epoch, of all ranks together; packing may give later ones a few more or less."""
        return len(self._micro_batches(0))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        epoch, at = self._forward(self._epoch, self._at, self.rank)
        rows = self._micro_batches(epoch)[at]
        batch = self._collate(rows, epoch)
        self._epoch, self._at = self._forward(self._epoch, self._at, self.world)
        return batch

    def state(self) -> dict[str, int]:
        """The position, the same on all ranks that have drawn equally often."""
        return {"epoch": self._epoch, "at": self._at}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on at a position that ``state`` gave. Raises DataError where this data has no such position."""
        epoch, at = int(state["epoch"]), int(state["at"])
        if epoch < 0 or not 0 <= at < len(self._micro_batches(max(epoch, 0))):
            raise DataError(
                f"the training stopped at micro-batch {at} of epoch {epoch}, which this data does not have",
                "Resume with the data and the recipe that it began with.",
            )
        self._epoch, self._at = epoch, at

    def _forward(self, epoch: int, at: int, by: int) -> tuple[int, int]:
        at += by
        while at >= (size := len(self._micro_batches(epoch))):
            epoch, at = epoch + 1, at - size
        return epoch, at

    def once(self) -> Iterator[Batch]:
        """This rank's share of the first epoch, from wherever the feed stands, which does not move: a held-out set as it is
        measured. All ranks get as many batches, for sharded weights are gathered together; of the last round those that
        are none too many have no labels."""
        micro_batches = self._micro_batches(0)
        for at in range(self.rank, -(-len(micro_batches) // self.world) * self.world, self.world):
            if at < len(micro_batches):
                yield self._collate(micro_batches[at], 0)
            else:
                yield without_labels(self._collate(micro_batches[0], 0))

    def _micro_batches(self, epoch: int) -> Epoch:
        if epoch not in self._known:
            kept = {near: self._known[near] for near in (epoch - 1, epoch + 1) if near in self._known}
            self._known = {**kept, epoch: self._order(epoch)}  # around the end of an epoch ranks need two
        return self._known[epoch]


def packed(table: Table, *, tokens: int, seed: int, share: bool = True, rank: int = 0, world: int = 1) -> Feed:
    """Rows side by side, at most ``tokens`` at once, without padding. ``share``: see `collate.packed`."""
    return Feed(
        lambda epoch: order.packed(table.lengths, tokens, seed, epoch),
        lambda rows, epoch: collate.packed(table, rows, share=share),
        rank=rank,
        world=world,
    )


def padded(table: Table, *, tokens: int, padding: int, seed: int, rank: int = 0, world: int = 1) -> Feed:
    """Rows below each other, those of like length together, at most ``tokens`` with their padding."""
    return Feed(
        lambda epoch: order.padded(table.lengths, tokens, seed, epoch),
        lambda rows, epoch: collate.padded(table, rows, padding=padding),
        rank=rank,
        world=world,
    )


def classified(table: Table, *, tokens: int, padding: int, seed: int, rank: int = 0, world: int = 1) -> Feed:
    """Texts with their classes, padded."""
    return Feed(
        lambda epoch: order.padded(table.lengths, tokens, seed, epoch),
        lambda rows, epoch: collate.classified(table, rows, padding=padding),
        rank=rank,
        world=world,
    )


def translated(
    table: Table, *, tokens: int, start: int, padding: int, seed: int, rank: int = 0, world: int = 1
) -> Feed:
    """Pairs of source and target, padded; ``tokens``: of the longer side."""
    lengths = np.maximum(table.lengths, table.target_lengths)
    return Feed(
        lambda epoch: order.padded(lengths, tokens, seed, epoch),
        lambda rows, epoch: collate.translated(table, rows, start=start, padding=padding),
        rank=rank,
        world=world,
    )
