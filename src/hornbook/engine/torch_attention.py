"""Attention of a packed batch over pages, in torch: which tokens go through the fused kernel together, and what they see.

    batch    a0 | b0 b1 b2 | c0 | d0 d1          sequences of as many new tokens share a group [G, n]
    groups   [a0, c0]   [b0 b1 b2, d0 d1 -]      where counts differ a little, short rows are padded

A group's keys and values are gathered from its pages by slot (page * 16 + place in it), only as far back as the layer's
window reaches; a group that begins its texts reads them from the batch itself. What lies behind a sequence's end is
read from a page that is always zero: another text's stray NaN, times a weight of 0, would still be NaN.

Legend: T tokens of S sequences, G rows of n tokens in a group, L keys, H query heads, K key heads, D head width.
"""

from __future__ import annotations

import math
import mmap
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hornbook.engine.executor import PAGE, Batch
from hornbook.engine.plan import Attend
from hornbook.model.attention import AttentionRule, attend, biased, see
from hornbook.model.positions import Alibi

GATHERED = 1 << 16  # keys that a group gathers for one layer, unless one text alone has more

Numbers = np.ndarray[Any, np.dtype[Any]]


class PagedKeys:
    """Keys and values of all layers, by slot: [layers, 2, slots, K, D]. Two pages more than are given out stand at the
    end: one that stays zero, and one that takes what padding writes."""

    def __init__(
        self, layers: int, kv_heads: int, head_width: int, pages: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.zero, self.scratch = pages * PAGE, (pages + 1) * PAGE
        shape = (layers, 2, (pages + 2) * PAGE, kv_heads, head_width)
        self.held = _untouched(shape, dtype) if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)

    @property
    def page_bytes(self) -> int:
        layers, both, _, kv_heads, head_width = self.held.shape
        return layers * both * PAGE * kv_heads * head_width * self.held.element_size()

    def copy(self, source: int, target: int) -> None:
        first, second = source * PAGE, target * PAGE
        self.held[:, :, second : second + PAGE] = self.held[:, :, first : first + PAGE]

    def write(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """slots [T]; k, v [T,K,D]."""
        self.held[layer, 0].index_copy_(0, slots, k)
        self.held[layer, 1].index_copy_(0, slots, v)

    def read(self, layer: int, slots: Tensor) -> tuple[Tensor, Tensor]:
        """slots [G,L] -> keys and values, each [G,K,L,D]."""
        keys, values = (held[slots.flatten()].view(*slots.shape, *held.shape[1:]) for held in self.held[layer])
        return keys.transpose(1, 2), values.transpose(1, 2)


def _untouched(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take memory as they are written to: torch's own would take all of it at once, and numpy's, which asks for
    large pages, 2 MB for each layer's first key and 2 MB for its first value."""
    size = math.prod(shape) * dtype.itemsize
    if sys.platform == "win32":
        memory = mmap.mmap(-1, size)
    else:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if sys.platform == "linux":
        with suppress(OSError):  # of a kernel without large pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


@dataclass(slots=True)
class Group:
    """Rows of tokens that are attended together. ``tokens`` [G,n]: their places in the batch, None: all, in order;
    ``real`` [G,n] bool, None: nothing is padding; ``fresh``: nothing came before these tokens.

    ``at`` [G,n]: positions; ``table`` [G,P] and ``lengths`` [G]: pages and tokens of each row; ``reach``: the longest.
    ``level``: one token a row, all rows equally long: whatever is gathered is seen.
    """

    tokens: Tensor | None
    real: Tensor | None
    at: Tensor
    table: Tensor
    lengths: Tensor
    reach: int
    fresh: bool = False
    level: bool = False
    seen: dict[int | None, tuple[Tensor | None, Tensor | None]] = field(default_factory=dict)  # by window: slots, mask


@dataclass(slots=True)
class Layout:
    """How a batch's tokens are attended: ``slots`` [T], where their keys go (None: they are not kept)."""

    groups: list[Group]
    slots: Tensor | None


def lay_out(batch: Batch, *, zero: int | None, device: torch.device) -> Layout:
    """``zero``: the first slot of the page that is zero; None: nothing is kept, each sequence is whole in the batch."""
    counts = np.bincount(batch.sequence, minlength=len(batch.lengths)).astype(np.int64)
    firsts = np.cumsum(counts) - counts
    starts = batch.lengths - counts
    groups = [
        _group(batch, np.array(rows), counts, firsts, zero is None, device)
        for rows in _together(counts, starts, batch.lengths, kept=zero is not None)
    ]
    if zero is None:
        return Layout(groups, None)
    pages = batch.pages[batch.sequence, batch.positions // PAGE].astype(np.int64)
    return Layout(groups, torch.from_numpy(pages * PAGE + batch.positions % PAGE).to(device))


def _together(counts: Numbers, starts: Numbers, lengths: Numbers, *, kept: bool) -> list[list[int]]:
    """Which sequences share a group: as many new tokens up to the next power of two, so that at most half is padding; a
    text's beginning only with others."""
    groups: dict[tuple[int, bool], list[list[int]]] = {}
    for s in np.flatnonzero(counts).tolist():
        fresh = not kept or bool(starts[s] == 0)
        of_a_size = groups.setdefault((int(counts[s] - 1).bit_length(), fresh), [[]])
        row = of_a_size[-1]
        longest = max(int(lengths[other]) for other in (*row, s))
        if row and longest * (len(row) + 1) > GATHERED:
            of_a_size.append([])
        of_a_size[-1].append(s)
    return [row for of_a_size in groups.values() for row in of_a_size]


def _group(batch: Batch, rows: Numbers, counts: Numbers, firsts: Numbers, whole: bool, device: torch.device) -> Group:
    """rows: the sequences of it."""
    longest = int(counts[rows].max())
    step = np.arange(longest)
    real = step < counts[rows, None]
    tokens = firsts[rows, None] + np.where(real, step, 0)
    starts = batch.lengths[rows] - counts[rows]
    everything = bool(real.all()) and tokens.size == len(batch.ids) and bool((np.diff(tokens.ravel()) == 1).all())

    def on(array: Any, dtype: torch.dtype = torch.long) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)

    reach = int(batch.lengths[rows].max())
    return Group(
        None if everything else on(tokens),
        None if real.all() else on(real, torch.bool),
        on(batch.positions[tokens]),
        on(batch.pages[rows]),
        on(batch.lengths[rows]),
        reach,
        fresh=whole or bool((starts == 0).all()),
        level=longest == 1 and bool((batch.lengths[rows] == reach).all()),
    )


def attend_packed(qkv: Tensor, op: Attend, layout: Layout, cache: PagedKeys | None, alibi: Alibi | None) -> Tensor:
    """qkv [T, (H + 2K) D] -> [T, H D]; keys and values are written to the cache where there is one."""
    heads = qkv.view(len(qkv), -1, op.head_width)
    if cache is not None and layout.slots is not None:
        k, v = heads[:, op.heads : op.heads + op.kv_heads], heads[:, op.heads + op.kv_heads :]
        cache.write(op.layer, layout.slots, k, v)
    out = None
    for group in layout.groups:
        rows, n = group.at.shape
        own = heads if group.tokens is None else heads[group.tokens.flatten()]
        own = own.view(rows, n, *own.shape[1:]).transpose(1, 2)  # [G, H + 2K, n, D]
        mixed = _attend_group(own, op, group, cache, alibi).transpose(1, 2).reshape(rows * n, -1)
        if group.tokens is None:
            return mixed
        tokens = group.tokens.flatten()
        if group.real is not None:
            real = group.real.flatten()
            tokens, mixed = tokens[real], mixed[real]
        if out is None:
            out = mixed.new_empty(len(qkv), mixed.shape[-1])
        out.index_copy_(0, tokens, mixed)
    assert out is not None, "a batch without tokens"
    return out


def _attend_group(own: Tensor, op: Attend, group: Group, cache: PagedKeys | None, alibi: Alibi | None) -> Tensor:
    """own [G, H + 2K, n, D] -> [G, H, n, D]."""
    n = own.shape[2]
    rule = AttentionRule(op.scale, op.causal, op.window, op.softcap, alibi)
    q, k, v = torch.split(own, [op.heads, op.kv_heads, op.kv_heads], dim=1)
    if group.fresh or cache is None:
        if op.causal and alibi is None and (op.window is None or op.window >= n):
            return attend(q, k, v, rule, causal=n > 1)  # padding stands behind what is real, where nothing looks
        if op.window not in group.seen:
            group.seen[op.window] = None, _seen_within(group, rule, own)
        return _attend_masked(q, k, v, rule, group.seen[op.window][1])
    if op.window not in group.seen:
        group.seen[op.window] = _seen_behind(group, rule, n, cache, own)
    slots, visible = group.seen[op.window]
    assert slots is not None
    k, v = cache.read(op.layer, slots)
    return _attend_masked(q, k, v, rule, visible)


def _attend_masked(q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule, visible: Tensor | None) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    if q.device.type == "cuda" and visible is not None and q.shape[2] > 1 and groups > 1:
        # On CUDA no fused kernel takes both a mask and shared key heads, and the plain one would hold all scores.
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return attend(q, k, v, rule, visible=visible)


def _seen_within(group: Group, rule: AttentionRule, like: Tensor) -> Tensor | None:
    """What tokens of a whole text see of each other: [G,1,n,n] bool, [G,H,n,n] with ALiBi; None: everything."""
    if not rule.causal and rule.window is None and group.real is None:
        return None
    visible = see(group.at, group.at, rule.window, rule.causal)
    if group.real is not None:
        # A padding token sees itself: a row without anything to see would be 0/0.
        visible = visible & group.real[:, None]
        visible |= torch.eye(visible.shape[-1], dtype=torch.bool, device=visible.device)
    return visible[:, None] if rule.bias is None else biased(visible, group.at, group.at, rule.bias, like.dtype)


def _seen_behind(
    group: Group, rule: AttentionRule, n: int, cache: PagedKeys, like: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The slots [G,L] of all that a group's tokens can look at, and what each of them sees there."""
    reach, first = group.reach, torch.zeros_like(group.lengths)
    if rule.window is not None:
        first = (group.at[:, 0] - rule.window + 1).clamp(min=0)
        reach = min(reach, rule.window + n - 1)
    places = first[:, None] + torch.arange(reach, device=first.device)
    held = places < group.lengths[:, None]
    pages = group.table.gather(1, (places // PAGE).clamp(max=group.table.shape[1] - 1))
    slots = torch.where(held, pages * PAGE + places % PAGE, cache.zero)
    if group.level and rule.bias is None:
        return slots, None
    visible = see(group.at, places, rule.window, causal=True)
    if rule.bias is None:
        return slots, visible[:, None]
    return slots, biased(visible, group.at, places, rule.bias, like.dtype)
