"""In which order rows are learnt, and which go through the model together: pure functions of lengths, seed and epoch.

    packed   rows of any length side by side in one long row, no padding       best fit over a seeded shuffle
    padded   rows of like length below each other, padded to the longest       at most ``tokens`` with the padding
    fixed    so many rows at a time

Each gives an epoch: a list of micro-batches, each a list of row numbers; every row is in exactly one. Nothing is random
but by (seed, epoch), so a position in training is two numbers and no state of a generator need be kept. The draws are
raw 64-bit ones of PCG64, whose stream numpy promises not to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from hornbook.errors import DataError

Epoch: TypeAlias = "list[list[int]]"
Lengths: TypeAlias = "Sequence[int] | np.ndarray[Any, np.dtype[np.int64]]"


def shuffled(count: int, *key: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The numbers 0 .. count-1 in the order that ``key`` (a seed, an epoch, ...) draws."""
    draws = np.random.PCG64(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(draws, kind="stable")


def packed(lengths: Lengths, tokens: int, seed: int, epoch: int) -> Epoch:
    """Micro-batches of at most ``tokens`` tokens in all. Raises DataError where a row alone has more, or there is none.

    Each row of the shuffle goes where it leaves the least room, or opens a micro-batch (best fit).
    """
    _check(lengths, tokens)
    bins: Epoch = []
    open_with: list[list[int]] = [[] for _ in range(tokens + 1)]  # by the room that is left: numbers of bins
    rooms = 0  # bit r: there is a bin with room for r tokens
    for row in shuffled(len(lengths), seed, epoch).tolist():
        length = int(lengths[row])
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            at = open_with[room].pop()
            if not open_with[room]:
                rooms ^= 1 << room
            bins[at].append(row)
        else:
            room, at = tokens, len(bins)
            bins.append([row])
        if left := room - length:
            open_with[left].append(at)
            rooms |= 1 << left
    return [bins[at] for at in shuffled(len(bins), seed, epoch, 1).tolist()]


def padded(lengths: Lengths, tokens: int, seed: int, epoch: int) -> Epoch:
    """Micro-batches whose longest row times their rows is at most ``tokens``; rows of a length are together.

    Raises DataError as ``packed`` does.
    """
    _check(lengths, tokens)
    sizes = np.asarray(lengths)
    drawn = shuffled(len(sizes), seed, epoch)
    batches: Epoch = []
    batch: list[int] = []
    for row in drawn[np.argsort(sizes[drawn], kind="stable")].tolist():
        if batch and int(sizes[row]) * (len(batch) + 1) > tokens:
            batches.append(batch)
            batch = []
        batch.append(row)
    batches.append(batch)
    return [batches[at] for at in shuffled(len(batches), seed, epoch, 1).tolist()]


def fixed(count: int, rows: int, seed: int, epoch: int) -> Epoch:
    """Micro-batches of ``rows`` rows; the last one may have fewer. Raises DataError where there is no row."""
    if count < 1 or rows < 1:
        raise DataError(f"there are {count} rows to be taken {rows} at a time", "Give at least one of both.")
    drawn = shuffled(count, seed, epoch).tolist()
    return [drawn[at : at + rows] for at in range(0, count, rows)]


def _check(lengths: Lengths, tokens: int) -> None:
    if not len(lengths):
        raise DataError("there is nothing to train on", "Give at least one example.")
    longest = int(max(lengths))
    if longest > tokens:
        raise DataError(
            f"a row has {longest} tokens, a micro-batch takes {tokens}",
            f"Set tokens to {longest} or more, or the context to {tokens} or less.",
        )
