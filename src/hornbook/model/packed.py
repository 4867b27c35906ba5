"""Attention in a row that holds several documents one behind another, so that no place is spent on padding.

    ids        a b c d | e f | g h i        one row [1,N]
    segments   0         4     6       9    where each document starts, and where the last one ends
    positions  0 1 2 3   0 1   0 1 2

No token sees another document: what a packed row computes is what its documents compute alone. On a CPU each document
is one call of the fused kernel on a view of the row, with the work of sum(length^2) and never a mask [N,N]: of 2,048
tokens in 16 documents that took 50 ms a layer forward and backward (9 heads, one core), the dense causal row 310 ms,
the row under a mask 520 ms, and documents of like length gathered into one padded call 70 ms. On a GPU the whole row
is one call (``torch.nn.attention.varlen``).

Documents that begin alike (conversations under one system message, answers to one prompt) may share their opening, a
segment of its own which is then read once:

    ids        s s s | c d | e f | g h i | p p | q         two documents share s s s, one has no opening, one has p p
    segments   0       3     5     7      10    12  13
    openings   -1      0     0     -1     -1    4           which segment opens each one
    positions  0 1 2   3 4   3 4   0 1 2  0 1   2

Every token sees what it would see in its own document, so states and gradients are the same, and all that is done
for single tokens (the matrix products, nine tenths of the work) is saved for all openings of a kind but one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from hornbook.model.attention import AttentionRule, Store, Uncached


class Packed:
    """A Store of one row of documents. ``segments`` [D+1]: their starts, from 0, and the row's length N.

    ``openings`` [D]: the number of the segment that opens each one, -1 for none; None: for none at all.
    ``positions`` [1,N]: each token's place in its document.
    Raises ValueError where the segments do not cover the row, or what opens one is not a segment before it without an
    opening of its own.
    """

    def __init__(
        self,
        segments: Tensor,
        length: int,
        device: torch.device,
        *,
        openings: Sequence[int] | None = None,
        alone: Callable[[], Store] | None = None,
    ) -> None:
        """``alone``: makes what attends inside a document; None: in full."""
        starts: list[int] = segments.tolist()
        self.sizes = [end - start for start, end in zip(starts, starts[1:], strict=False)]
        if not self.sizes or starts[0] != 0 or starts[-1] != length or min(self.sizes) < 1:
            raise ValueError(f"segments {starts[:8]} ... {starts[-1:]} do not cover a row of {length} tokens")
        self.openings = [-1] * len(self.sizes) if openings is None else list(openings)
        if len(self.openings) != len(self.sizes) or any(
            not -1 <= opening < at or (opening >= 0 and self.openings[opening] >= 0)
            for at, opening in enumerate(self.openings)
        ):
            raise ValueError(f"{self.openings[:8]} ... do not open {len(self.sizes)} segments")
        self.opened = max(self.openings) >= 0
        before = [self.sizes[opening] if opening >= 0 else 0 for opening in self.openings]
        self.whole = [first + size for first, size in zip(before, self.sizes, strict=True)]  # with their openings
        self.device = device
        self.starts = segments.to(device=device, dtype=torch.int32, non_blocking=True)
        shift = torch.tensor([first - start for first, start in zip(before, starts, strict=False)], device=device)
        shifts = torch.repeat_interleave(shift, self.starts.diff().long(), output_size=length)
        self.positions = (torch.arange(length, device=device) + shifts)[None]
        # Documents of a length share what they see.
        self._alone = {size: alone() if alone else Uncached(None) for size in self.whole}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        """q [1,H,N,D], k and v [1,K,N,D] -> [1,H,N,D]. Shapes as in Store."""
        if isinstance(self._alone[self.whole[0]], Uncached) and _fused(q, rule):
            return self._at_once(q, k, v, rule)
        if len(self.sizes) == 1:
            return self._alone[self.sizes[0]].attend(layer, q, k, v, rule)
        if self.opened:
            return self._opened(layer, q, k, v, rule)
        # One split, whose gradient is one concatenation: that of many narrowed views would be many sums of whole rows.
        parts = zip(self.sizes, *(torch.split(x, self.sizes, dim=2) for x in (q, k, v)), strict=True)
        mixed = [self._alone[size].attend(layer, q, k, v, rule).transpose(1, 2) for size, q, k, v in parts]
        return torch.cat(mixed, dim=1).transpose(1, 2)

    def _opened(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        """Each document is put together with its opening, whose own states are taken from the first that it opens."""
        parts: list[tuple[Tensor, Tensor, Tensor]] = list(
            zip(*(torch.split(x, self.sizes, dim=2) for x in (q, k, v)), strict=True)
        )
        mixed: list[Tensor | None] = [None] * len(parts)
        for at, (opening, own) in enumerate(zip(self.openings, parts, strict=True)):
            if opening < 0 and at not in self.openings:
                mixed[at] = self._alone[self.sizes[at]].attend(layer, *own, rule).transpose(1, 2)
            elif opening >= 0:
                q, k, v = (torch.cat(both, dim=2) for both in zip(parts[opening], own, strict=True))
                states = self._alone[self.whole[at]].attend(layer, q, k, v, rule).transpose(1, 2)
                first, mixed[at] = torch.split(states, [self.sizes[opening], self.sizes[at]], dim=1)
                if mixed[opening] is None:
                    mixed[opening] = first
        return torch.cat([states for states in mixed if states is not None], dim=1).transpose(1, 2)

    @cached_property
    def _keys(self) -> tuple[Tensor, Tensor]:
        """Of an opened row: the places of the keys of all documents one behind another, and where each one's begin."""
        ends = torch.tensor(self.sizes).cumsum(0).tolist()
        own = [torch.arange(end - size, end) for size, end in zip(self.sizes, ends, strict=True)]
        places = [
            part
            for at, opening in enumerate(self.openings)
            for part in ([own[opening]] if opening >= 0 else []) + [own[at]]
        ]
        starts = torch.tensor([0, *self.whole]).cumsum(0).int()
        return torch.cat(places).to(self.device), starts.to(self.device)

    def _at_once(self, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))  # [N,H,D]
        groups = q.shape[1] // k.shape[1]
        key_starts = self.starts
        if self.opened:  # the kernel puts the last query beside the last key: what is more of keys stands before
            places, key_starts = self._keys
            k, v = k.index_select(0, places), v.index_select(0, places)
        if groups > 1:  # the kernel's own way of sharing heads came later than the kernel
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        back = -1 if rule.window is None else rule.window - 1
        sees = (back, 0 if rule.causal else back)
        mixed: Tensor = _varlen()(
            q, k, v, self.starts, key_starts, max(self.sizes), max(self.whole), scale=rule.scale, window_size=sees
        )
        return mixed.transpose(0, 1)[None]


def _fused(q: Tensor, rule: AttentionRule) -> bool:
    """Whether the GPU's kernel for rows of documents computes this rule: half precision, nothing added to the scores."""
    if q.device.type != "cuda":
        return False
    plain = rule.softcap is None and rule.bias is None and rule.dropout == 0.0
    fits = q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] <= 256 and q.shape[-1] % 8 == 0
    return plain and fits and torch.cuda.get_device_capability(q.device) >= (8, 0) and _varlen() is not None


@cache
def _varlen() -> Any:
    """torch's attention over rows of documents, where this torch has it in the form with windows; else None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in signature(varlen_attn).parameters else None
