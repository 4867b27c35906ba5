"""Shifted sparse attention, to train on texts longer than attention over all of them can be paid for (LongLoRA, arXiv
2309.12307, section 3.2 and algorithm 1). It is for training alone: what was so trained reads with full attention.

    8 tokens in groups of 4     0 1 2 3 | 4 5 6 7       the first half of the heads
                                0 1 | 2 3 4 5 | 6 7     the second, whose groups stand half a group further

A token sees those before it in its group. What heads of one half cut apart the other's hold together, so that over the
layers all of the text is in reach, at the cost of a group per token and not of the text.

The paper's algorithm shifts by rolling, which puts the text's first half group behind its last one and lets beginnings
see the end; it says that a mask prevents this. Here both are groups of their own, as in its authors' code for
FlashAttention. A last group may be short: the length need not be a multiple. Layers that see only a window are sparse
already and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from hornbook.errors import UsageError
from hornbook.model.attention import AttentionRule, Uncached, attend, biased
from hornbook.model.positions import order


class Shifted:
    """A Store for one pass over whole texts, in groups of ``group`` tokens.

    ``mask`` [B,T], True for a real token; None: all are. Groups are of real tokens, wherever padding stands.
    Raises UsageError for a group that has no half.
    """

    def __init__(self, group: int, mask: Tensor | None = None) -> None:
        if group < 2 or group % 2:
            raise UsageError(
                f"shifted sparse attention cannot have groups of {group} tokens", "Give an even number, 2 or more."
            )
        self.group = group
        self.mask = None if mask is None or bool(mask.all()) else mask
        self._whole = Uncached(mask)
        self._visible: Tensor | None = None  # what layers share where it takes a mask

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        """q [B,H,T,D], k and v [B,K,T,D] -> [B,H,T,D]. Raises UsageError in a model that is not causal."""
        if not rule.causal:
            raise UsageError(
                "shifted sparse attention is for models that read from left to right, and this one sees the whole text",
                "Leave it out.",
            )
        if rule.window is not None:
            return self._whole.attend(layer, q, k, v, rule)
        if self.mask is not None or rule.bias is not None:
            return self.by_mask(q, k, v, rule)
        heads, length = q.shape[1:3]
        plain = (heads + 1) // 2
        mixed = []
        for first, last, shift in ((0, plain, 0), (plain, heads, self.group // 2)):
            if first < last:  # a single head is not shifted
                part = q[:, first:last], *_shared(k, v, heads, first, last)
                mixed.append(torch.cat([_grouped(*part, rule, *run) for run in self._runs(length, shift)], dim=2))
        return torch.cat(mixed, dim=1)

    def _runs(self, length: int, shift: int) -> Iterator[tuple[int, int, int]]:
        """Runs of equal groups: (first place, groups, tokens in each)."""
        start = min(shift, length)
        if start:
            yield 0, 1, start
        count, rest = divmod(length - start, self.group)
        if count:
            yield start, count, self.group
        if rest:
            yield length - rest, 1, rest

    def by_mask(self, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        """The same by a mask over all pairs of tokens: where rows are padded, or distances have a bias."""
        if self._visible is None:
            self._visible = self._see(q, rule)
        return attend(q, k, v, rule, visible=self._visible)

    def _see(self, q: Tensor, rule: AttentionRule) -> Tensor:
        """Bool [B,H,T,T], or float with the bias in it."""
        heads, length = q.shape[1], q.shape[2]
        real = torch.ones(1, length, dtype=torch.bool, device=q.device) if self.mask is None else self.mask
        place = order(real)
        shift = (torch.arange(heads, device=q.device) >= (heads + 1) // 2) * (self.group // 2)
        number = (place[:, None] + shift[:, None]) // self.group  # of the group, [B,H,T]
        visible = (number[..., :, None] == number[..., None, :]) & (place[:, None, :, None] >= place[:, None, None, :])
        visible &= real[:, None, None, :]
        visible |= torch.eye(length, dtype=torch.bool, device=q.device)  # padding sees itself: nothing would be 0/0
        if rule.bias is None:
            return visible
        everything = torch.ones(len(place), length, length, dtype=torch.bool, device=q.device)
        return biased(everything, place, place, rule.bias, q.dtype).masked_fill(~visible, -torch.inf)


def _shared(k: Tensor, v: Tensor, heads: int, first: int, last: int) -> tuple[Tensor, Tensor]:
    """The key and value heads that the query heads from ``first`` to ``last`` of ``heads`` read."""
    groups = heads // k.shape[1]
    if first % groups == 0 and last % groups == 0:
        return k[:, first // groups : last // groups], v[:, first // groups : last // groups]
    own = torch.arange(first, last, device=k.device) // groups  # the cut goes through heads that share one
    return k[:, own], v[:, own]


def _grouped(q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule, start: int, count: int, size: int) -> Tensor:
    """Causal attention inside each of ``count`` groups from place ``start`` on: [B,N,T,D] -> [B,N,count * size,D]."""

    def fold(x: Tensor) -> Tensor:
        batch, heads, _, width = x.shape
        part = x[:, :, start : start + count * size].reshape(batch, heads, count, size, width)
        return part.transpose(1, 2).flatten(0, 1)

    mixed = attend(fold(q), fold(k), fold(v), rule, causal=True)
    return mixed.view(len(q), count, *mixed.shape[1:]).transpose(1, 2).flatten(2, 3)
