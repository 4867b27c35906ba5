"""Rows of a table become a Batch.

packed      a b c d e f g h i        one row, no padding; segments 0 4 6 9, positions 0 1 2 3 0 1 0 1 2
            what several begin with alike stands once, as a segment of its own, before them
padded      a b c d                  a row each, padded to the longest; mask True for a real token
            e f . .
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

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

    ``share``: what some of them begin with, if none learns it, stands once (see `hornbook.model.packed`). The loss and its
    gradient are the same, but where dropout draws, once for all that share, and in the balance of a mixture of experts,
    which counts tokens.
    """
    taken = [table[row] for row in rows]
    typed = any(row.types is not None for row in taken)
    groups = _alike(taken) if share and not typed else [([at], 0) for at in range(len(taken))]
    parts: list[Encoded] = []
    openings: list[int] = []
    befores: list[int] = []  # tokens of each part's opening
    for group, opening in groups:
        at = -1
        if opening:
            at = len(parts)
            parts.append(taken[group[0]].cut(0, opening))
            openings.append(-1)
            befores.append(0)
        parts += [taken[row].cut(opening, len(taken[row].ids)) for row in group]
        openings += [at] * len(group)
        befores += [opening] * len(group)
    sizes = [len(part.ids) for part in parts]
    ids, learnt = (np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "learnt"))
    positions = [np.arange(before, before + size) for before, size in zip(befores, sizes, strict=True)]
    return Batch(
        _long(ids)[None],
        _long(np.where(learnt.astype(bool), ids, IGNORED))[None],
        token_types=_long(np.concatenate([_types(part) for part in parts]))[None] if typed else None,
        rows=tuple(rows[row] for group, _ in groups for row in group),
        segments=torch.tensor([0, *sizes]).cumsum(0).int(),
        positions=_long(np.concatenate(positions))[None],
        openings=tuple(openings) if max(openings) >= 0 else None,
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


def _alike(rows: Sequence[Encoded]) -> list[tuple[list[int], int]]:
    """The rows' numbers in groups, and how many tokens each group begins with alike, 0 where it is not worth it.

    Of what is alike no token is learnt, and none is what the first learnt one is told from: that one must stand in the
    document itself. Among rows in the order of their beginnings a group is a stretch; the stretches chosen save the most.
    """
    heads = [row.ids[: max(int(row.learnt.argmax()) - 1, 0) if row.learnt.any() else 0].tolist() for row in rows]
    ranked = sorted(range(len(rows)), key=heads.__getitem__)
    alike = [_common(heads[a], heads[b]) for a, b in pairwise(ranked)]
    saved, begins = [0] * (len(rows) + 1), list(range(-1, len(rows)))  # of the first n rows: at best; the last group
    for end in range(1, len(rows) + 1):
        saved[end] = saved[end - 1]
        shared = len(heads[ranked[end - 1]])
        for begin in range(end - 2, -1, -1):
            shared = min(shared, alike[begin])
            if shared < SHORTEST_OPENING:
                break
            if (gain := saved[begin] + shared * (end - begin - 1)) > saved[end]:
                saved[end], begins[end] = gain, begin
    groups = []
    end = len(rows)
    while end:
        begin = begins[end]
        groups.append((ranked[begin:end], min(alike[begin : end - 1]) if end - begin > 1 else 0))
        end = begin
    return groups[::-1]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two beginnings have in common."""
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _types(row: Encoded) -> np.ndarray:
    return np.zeros(len(row.ids), np.uint8) if row.types is None else row.types


def _long(numbers: np.ndarray) -> Tensor:
    return torch.from_numpy(numbers.astype(np.int64))
