"""Rows of a table become a Batch.

packed      a b c d e f g h i        one row, no padding; segments 0 4 6 9, positions 0 1 2 3 0 1 0 1 2
            or, where all begin alike with s s: s s a b c d e ..., segments 0 2 6 ..., positions 0 1 2 3 4 5 2 ...
padded      a b c d                  a row each, padded to the longest; mask True for a real token
            e f . .
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hornbook.data.encoded import Encoded
from hornbook.data.table import Table
from hornbook.errors import DataError
from hornbook.train.batch import IGNORED, Batch, translation

SHORTEST_OPENING = 8  # tokens; shorter ones are not worth what it costs to put each document together with it


def packed(table: Table, rows: Sequence[int], *, share: bool = True) -> Batch:
    """Documents side by side in one row [1,N], each to be attended to by itself; their first tokens are not learnt.

    ``share``: what all of them begin with, if none learns it, stands once (see `hornbook.model.packed`). The loss and its
    gradient are the same, but where dropout draws, once for all openings, and in the balance of a mixture of experts, which
    counts tokens.
    """
    taken = [table[row] for row in rows]
    typed = any(row.types is not None for row in taken)
    opening = _opening(taken) if share and not typed else 0
    parts = [Encoded(taken[0].ids[:opening], taken[0].learnt[:opening])] if opening else []
    parts += [row.cut(opening, len(row.ids)) for row in taken]
    sizes = [len(part.ids) for part in parts]
    ids, learnt = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "learnt"))
    positions = [np.arange(size) + (opening if at else 0) for at, size in enumerate(sizes)]
    return Batch(
        _long(ids)[None],
        _long(np.where(learnt.astype(bool), ids, IGNORED))[None],
        token_types=_long(np.concatenate([_types(row) for row in taken]))[None] if typed else None,
        rows=tuple(rows),
        segments=torch.tensor([0, *sizes]).cumsum(0).int(),
        positions=_long(np.concatenate(positions))[None],
        opened=opening > 0,
    )


def padded(table: Table, rows: Sequence[int], *, padding: int) -> Batch:
    """A row for each, [B, longest], with ``padding`` behind those that are shorter."""
    taken = [table[row] for row in rows]
    labels = [np.where(row.learnt.astype(bool), row.ids, IGNORED) for row in taken]
    return Batch(
        ragged([row.ids for row in taken], padding),
        ragged(labels, IGNORED),
        mask=real(taken),
        token_types=types(taken),
        rows=tuple(rows),
    )


def classified(table: Table, rows: Sequence[int], *, padding: int) -> Batch:
    """Texts and the numbers of their classes [B]."""
    taken = [table[row] for row in rows]
    labels = torch.tensor([IGNORED if row.label is None else row.label for row in taken])
    return Batch(
        ragged([row.ids for row in taken], padding),
        labels,
        mask=real(taken),
        token_types=types(taken),
        rows=tuple(rows),
    )


def translated(table: Table, rows: Sequence[int], *, start: int, padding: int) -> Batch:
    """Sources for the encoder, targets for the decoder, which begins with ``start``.

    Raises DataError where a row has no target.
    """
    pairs = []
    for row in rows:
        one = table[row]
        if one.target is None:
            raise DataError(f"row {row} has no target", "Give pairs of a source and a target.")
        pairs.append((one.ids.tolist(), one.target.tolist()))
    batch = translation(pairs, start=start, padding=padding)
    return Batch(
        batch.ids, batch.labels, batch.mask, source=batch.source, source_mask=batch.source_mask, rows=tuple(rows)
    )


# ------------------------------------------------------------------------------------------------------------- parts


def ragged(rows: Sequence[np.ndarray], value: int) -> Tensor:
    """Rows of numbers as [B, longest] long, with ``value`` behind those that are shorter."""
    filled = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for at, row in enumerate(rows):
        filled[at, : len(row)] = row
    return torch.from_numpy(filled)


def real(rows: Sequence[Encoded]) -> Tensor:
    """[B, longest], True for a real token."""
    lengths = torch.tensor([len(row.ids) for row in rows])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def types(rows: Sequence[Encoded]) -> Tensor | None:
    """[B, longest] of each token's text, None where no row has a second one."""
    if all(row.types is None for row in rows):
        return None
    return ragged([_types(row) for row in rows], 0)


def _opening(rows: Sequence[Encoded]) -> int:
    """How many tokens all rows begin with, of which none is learnt, and none is what the first learnt one is told from: that
    one must stand in the document itself. 0 where they are too few to be worth it."""
    most = min(int(row.learnt.argmax()) if row.learnt.any() else len(row.ids) for row in rows) - 1
    if len(rows) < 2 or most < SHORTEST_OPENING:
        return 0
    beginnings = np.stack([row.ids[:most] for row in rows])
    differ = (beginnings != beginnings[0]).any(0)
    alike = int(differ.argmax()) if differ.any() else most
    return alike if alike >= SHORTEST_OPENING else 0


def _types(row: Encoded) -> np.ndarray:
    return np.zeros(len(row.ids), np.uint8) if row.types is None else row.types


def _long(numbers: np.ndarray) -> Tensor:
    return torch.from_numpy(numbers.astype(np.int64))
