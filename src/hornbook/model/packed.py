"""Attention in a row that holds several documents one behind another, so that no place is spent on padding.

    ids        a b c d | e f | g h i        one row [1,N]
    segments   0         4     6       9    where each document starts, and where the last one ends
    positions  0 1 2 3   0 1   0 1 2

No token sees another document: what a packed row computes is what its documents compute alone. On a CPU each document
is one call of the fused kernel on a view of the row, with the work of sum(length^2) and never a mask [N,N]: of 2,048
tokens in 16 documents that took 50 ms a layer forward and backward (9 heads, one core), the dense causal row 310 ms,
the row under a mask 520 ms, and documents of like length gathered into one padded call 70 ms. On a GPU the whole row
is one call (``torch.nn.attention.varlen``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from hornbook.model.attention import AttentionRule, Store, Uncached


class Packed:
    """A Store of one row of documents. ``segments`` [D+1]: their starts, from 0, and the row's length N.

    ``positions`` [1,N]: each token's place in its document. Raises ValueError where the segments do not cover the row.
    """

    def __init__(
        self,
        segments: Tensor,
        length: int,
        device: torch.device,
        *,
        alone: Callable[[], Store] | None = None,
    ) -> None:
        """``alone``: makes what attends inside a document; None: in full."""
        starts: list[int] = segments.tolist()
        self.sizes = [end - start for start, end in zip(starts, starts[1:], strict=False)]
        if not self.sizes or starts[0] != 0 or starts[-1] != length or min(self.sizes) < 1:
            raise ValueError(f"segments {starts[:8]} ... {starts[-1:]} do not cover a row of {length} tokens")
        self.starts = segments.to(device=device, dtype=torch.int32, non_blocking=True)
        sizes = self.starts.diff().long()
        first = torch.repeat_interleave(self.starts[:-1].long(), sizes, output_size=length)
        self.positions = (torch.arange(length, device=device) - first)[None]
        # Documents of a length share what they see.
        self._alone = {size: alone() if alone else Uncached(None) for size in self.sizes}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        """q [1,H,N,D], k and v [1,K,N,D] -> [1,H,N,D]. Shapes as in Store."""
        if q.device.type == "cuda" and isinstance(self._alone[self.sizes[0]], Uncached) and _fused(q, rule):
            return self._at_once(q, k, v, rule)
        if len(self.sizes) == 1:
            return self._alone[self.sizes[0]].attend(layer, q, k, v, rule)
        # One split, whose gradient is one concatenation: that of many narrowed views would be many sums of whole rows.
        parts = zip(self.sizes, *(torch.split(x, self.sizes, dim=2) for x in (q, k, v)), strict=True)
        mixed = [self._alone[size].attend(layer, q, k, v, rule).transpose(1, 2) for size, q, k, v in parts]
        return torch.cat(mixed, dim=1).transpose(1, 2)

    def _at_once(self, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))  # [N,H,D]
        groups = q.shape[1] // k.shape[1]
        if groups > 1:  # the kernel's own way of sharing heads came later than the kernel
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        longest, back = max(self.sizes), -1 if rule.window is None else rule.window - 1
        sees = (back, 0 if rule.causal else back)
        mixed: Tensor = _varlen()(
            q, k, v, self.starts, self.starts, longest, longest, scale=rule.scale, window_size=sees
        )
        return mixed.transpose(0, 1)[None]


def _fused(q: Tensor, rule: AttentionRule) -> bool:
    """Whether the kernel for rows of documents computes this rule: half precision, and nothing added to the scores."""
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
