"""What a model is trained on at once: rows of ids, padded, and what is to be learnt of them.

decoder          ids  a b c d     labels  a b c d     (the loss compares each place with the label that follows it)
masked encoder   ids  a # c d     labels  . b . .     ("." is IGNORED)
translation      source  x y z    ids  <s> a b        labels  a b </s>
a text's class   ids  a b c d     labels  2
a span           ids  a b c d     labels  1 2         (its first and last token)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from hornbook.errors import DataError

IGNORED = -100  # the label of a place of which nothing is to be learnt, as torch and all who use it write it


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows. A mask is True for a real token; without one, all are.

    labels  [B,T] of tokens, [B] of texts, [B,2] of spans
    follows [B]: 0 where the row's second sentence follows its first, 1 where it was drawn at random (BERT's own order)
    source  [B,S], for a model with an encoder
    segments, positions: of the documents that are packed in one row (see `hornbook.model.packed`). A document's first
            label is IGNORED: it stands behind another document's last token.
    openings: [D], which segment opens each one, -1 for none: what documents begin with alike is kept once
    """

    ids: Tensor  # [B,T]
    labels: Tensor
    mask: Tensor | None = None  # [B,T]
    token_types: Tensor | None = None  # [B,T]
    follows: Tensor | None = None
    source: Tensor | None = None
    source_mask: Tensor | None = None
    rows: tuple[int, ...] | None = None  # the numbers of its examples, from 0, which a message about it names
    segments: Tensor | None = None  # [D+1] int32
    positions: Tensor | None = None  # [1,T]: each document's tokens counted from 0
    openings: tuple[int, ...] | None = None

    @property
    def tokens(self) -> int:
        """Real ones: padding is not counted, an opening once for each document that it opens."""
        if self.mask is not None:
            return int(self.mask.sum())
        again = 0
        if self.openings is not None and self.segments is not None:
            sizes = self.segments.diff().tolist()
            opening = {number for number in self.openings if number >= 0}
            again = sum(sizes[number] * (self.openings.count(number) - 1) for number in opening)
        return self.ids.numel() + again

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device; segments stay, for it is the host that reads them."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor) and field.name != "segments"
        }
        return replace(self, **moved)


def without_labels(batch: Batch) -> Batch:
    """The same batch with nothing to be learnt of it."""
    follows = None if batch.follows is None else torch.full_like(batch.follows, IGNORED)
    return replace(batch, labels=torch.full_like(batch.labels, IGNORED), follows=follows)


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of ids, [B, longest], with ``value`` behind those that are shorter."""
    padded = torch.full((len(rows), max(map(len, rows))), value, dtype=torch.long)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row, dtype=torch.long)
    return padded


def shift_right(labels: Tensor, start: int, padding: int) -> Tensor:
    """What a decoder reads to say ``labels`` [B,T]: ``start``, then each label but the last."""
    read = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
    return read.masked_fill(read == IGNORED, padding)


def translation(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], *, start: int, padding: int) -> Batch:
    """A batch of (source ids, target ids); each side with its end token, if it is to have one."""
    source, labels = pad([s for s, _ in pairs], padding), pad([t for _, t in pairs], IGNORED)
    mask = pad([[1] * len(s) for s, _ in pairs], 0).bool()
    return Batch(shift_right(labels, start, padding), labels, mask=labels != IGNORED, source=source, source_mask=mask)


def by_tokens(sizes: Sequence[int], budget: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches of row numbers: rows of like size together, each batch of at most ``budget`` tokens with its padding.

    Each round draws every row once: rows are shuffled, sorted by size, cut, and the batches shuffled.
    Raises DataError where a row alone exceeds the budget, or there are none.
    """
    if not sizes:
        raise DataError("there is nothing to train on", "Give at least one example.")
    longest = max(sizes)
    if longest > budget:
        raise DataError(
            f"an example has {longest} tokens, a batch takes {budget}", f"Allow batches of {longest} tokens or more."
        )
    while True:
        drawn = torch.randperm(len(sizes), generator=generator).tolist()
        batches = list(_cut(sorted(drawn, key=lambda row: sizes[row]), sizes, budget))
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[i]


def _cut(rows: Sequence[int], sizes: Sequence[int], budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for row in rows:
        if batch and sizes[row] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(row)
    yield batch
