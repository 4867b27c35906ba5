"""A cache whose memory does not grow with the text where the model does not look back that far (arXiv 2310.06825, 2.1).

    a window of 4      slot     0  1  2  3  4  5        a layer with a window keeps a ring: position p stands in slot
    and steps of 3     holds    6  7  8  3  4  5        p mod 6, and what is written over has left every window

Layers without a window keep everything, so a model whose layers alternate saves what it can.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hornbook.model.attention import AttentionRule, attend, biased, see
from hornbook.model.cache import ContiguousCache
from hornbook.model.config import ModelConfig

EMPTY = -1


class RollingCache(ContiguousCache):
    """ContiguousCache with rings; ``step``: the most tokens that one pass may append to a row."""

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        step: int = 1024,
    ) -> None:
        super().__init__(config, rows, capacity, dtype, device)
        self.step = step
        self._rings: dict[int, int] = {}  # layer -> slots
        for layer in range(config.layers):
            window = config.kind(layer).window
            if window is not None and window + step - 1 < capacity:
                self._rings[layer] = window + step - 1
                # One slot more, at the end, takes what stands at padding.
                shape = (rows, config.kv_heads, self._rings[layer] + 1, config.head_width)
                self._keys[layer] = torch.zeros(shape, dtype=dtype, device=device)
                self._values[layer] = torch.zeros(shape, dtype=dtype, device=device)
        # The position that each slot holds: one table for all rings of a size.
        self._places = {
            size: torch.full((rows, size + 1), EMPTY, device=self.device) for size in set(self._rings.values())
        }

    def begin(self, rows: int, length: int, mask: Tensor | None) -> Tensor:
        """See Cache. Raises ValueError too where the pass has more tokens than ``step``."""
        if length > self.step:
            raise ValueError(f"a pass of {length} tokens through a cache whose rings are made for {self.step}")
        slots = super().begin(rows, length, mask)
        for size, places in self._places.items():
            ring = self._slots(slots, size, mask)
            places.scatter_(1, ring, slots if mask is None else slots.masked_fill(~mask, EMPTY))
            places[:, size] = EMPTY
        self._mask = mask
        return slots

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        """See ContiguousCache."""
        if layer not in self._rings or self._step is None:
            return super().attend(layer, q, k, v, rule)
        size, step = self._rings[layer], self._step
        rows, ring = torch.arange(len(self), device=self.device)[:, None], self._slots(step.slots, size, self._mask)
        keys, values, places = self._keys[layer], self._values[layer], self._places[size]
        keys[rows, :, ring] = k.transpose(1, 2).to(keys.dtype)
        values[rows, :, ring] = v.transpose(1, 2).to(values.dtype)
        if rule.window not in step.visible:
            visible = see(step.slots, places, rule.window, causal=True) & (places != EMPTY)[:, None]
            visible |= ~visible.any(-1, keepdim=True)  # padding looks anywhere rather than nowhere: 0/0
            if rule.bias is not None:
                step.visible[rule.window] = 0, biased(visible, step.slots, places, rule.bias, q.dtype)
            else:
                step.visible[rule.window] = 0, visible[:, None]
        return attend(q, keys, values, rule, visible=step.visible[rule.window][1])

    def truncate(self, row: int, length: int) -> None:
        """See Cache. Raises ValueError too where a ring no longer holds what the next token would look at."""
        if 0 <= length < self._lengths[row]:
            for size, places in self._places.items():
                first = max(0, length - (size - self.step + 1) + 1)
                if not set(range(first, length)) <= set(places[row].tolist()):
                    raise ValueError(
                        f"row {row} holds {self._lengths[row]} tokens and its rings only the last of them: "
                        f"it cannot be cut to {length}"
                    )
        super().truncate(row, length)
        for places in self._places.values():
            places[row] = places[row].masked_fill(places[row] >= length, EMPTY)

    def _slots(self, places: Tensor, size: int, mask: Tensor | None) -> Tensor:
        ring = places % size
        return ring if mask is None else ring.masked_fill(~mask, size)

    def _select(self, rows: list[int]) -> None:
        super()._select(rows)
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        self._places = {size: places[index] for size, places in self._places.items()}

    def _grow(self, slots: int) -> None:
        """Only layers that keep everything grow."""
        whole = [layer for layer in range(len(self._keys)) if layer not in self._rings]
        self._grow_layers(whole, slots)
