"""The keys and values of a text that grows, so that a new token costs one token and not the whole text again.

    slots   0 1 2 3 4 5 6 7          rows are packed from slot 0, each as long as its own text; what stands
    row 0   a b c d e . . .          beyond a row's length is scratch, is never looked at, and is written over
    row 1   f g . . . . . .

A step is begun (room is made, slots are given), attended layer by layer, and committed. A step that fails in
between leaves every row as long as it was.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from hornbook.errors import ContextTooLong
from hornbook.model.attention import AttentionRule, Store, attend, biased, see
from hornbook.model.config import ModelConfig

FIRST_SLOTS = 256


class Cache(Store, Protocol):
    """What the Transformer and the generators need; who implements it owns layout and kernel."""

    capacity: int  # tokens that a row may hold
    lengths: Tensor  # [B] long: real tokens of each row
    prompts: Tensor | None  # [B] long: how many of a row's tokens are its prompt, where somebody has said so

    def begin(self, rows: int, length: int, mask: Tensor | None) -> Tensor:
        """Make room for ``length`` more tokens in each of ``rows`` rows; -> their positions [B, length] long."""
        ...

    def commit(self) -> None:
        """The step's tokens have passed every layer: they count from now on."""
        ...

    def truncate(self, row: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of a row."""
        ...

    def fork(self, row: int, copies: int) -> list[int]:
        """Add ``copies`` rows that share the past of ``row`` and go their own way; -> their numbers."""
        ...

    def keep(self, rows: list[int]) -> None:
        """Drop all rows but these, which become 0, 1, ... in this order."""
        ...


@dataclass(slots=True)
class _Step:
    """The tokens that are on their way through the layers."""

    slots: Tensor  # [B,T] long: where each token's key goes; padding goes behind the row's real tokens
    counts: list[int]  # real tokens of each row
    low: int  # the shortest row's length before the step
    high: int  # one past the last slot
    level: bool  # all rows equally long and without padding
    visible: dict[int | None, tuple[int, Tensor]] = field(default_factory=dict)  # window -> (first slot, bool mask)


class ContiguousCache:
    """One block of memory a layer, [B, K, slots, D], which doubles when full, up to ``capacity`` tokens a row."""

    def __init__(
        self,
        config: ModelConfig,
        rows: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if not config.causal:
            raise ValueError("a cache needs a causal model: here a later token changes what an earlier one sees")
        if rows < 1 or capacity < 1:
            raise ValueError(f"a cache needs at least one row and one slot, not {rows} and {capacity}")
        self.config = config
        self.capacity = capacity
        self.device = torch.device(device)
        self._lengths = [0] * rows  # on the host: a step without padding never waits for the device
        shape = (rows, config.kv_heads, min(capacity, FIRST_SLOTS), config.head_width)
        # Zeros, not scratch: what is hidden is multiplied by 0, and 0 times a stray NaN is NaN.
        self._keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self._values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.layers)]
        self._step: _Step | None = None
        self.prompts: Tensor | None = None

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def lengths(self) -> Tensor:
        """[B] long, on the cache's device: how many real tokens each row holds."""
        return torch.tensor(self._lengths, device=self.device)

    # ---------------------------------------------------------------------------------------------------- a step

    def begin(self, rows: int, length: int, mask: Tensor | None) -> Tensor:
        """See Cache. Raises ContextTooLong, before anything is written, where a row would pass the capacity."""
        if rows != len(self):
            raise ValueError(f"{rows} rows of tokens for a cache of {len(self)} rows")
        counts = [length] * rows if mask is None else mask.sum(-1).tolist()
        for row, (past, more) in enumerate(zip(self._lengths, counts, strict=True)):
            if past + more > self.capacity:
                raise ContextTooLong(
                    f"row {row} holds {past} tokens and {more} more do not fit: the cache's capacity is {self.capacity}",
                    "Make the cache larger, or the text shorter.",
                )
        low, high = min(self._lengths), max(self._lengths) + length
        level = low == high - length and min(counts) == length
        past_lengths = self.lengths[:, None]
        if mask is None:
            slots = past_lengths + torch.arange(length, device=self.device)
        else:
            real = mask.long()
            behind = real.sum(-1, keepdim=True) + (1 - real).cumsum(-1) - 1
            slots = past_lengths + torch.where(mask, real.cumsum(-1) - 1, behind)
        self._grow(high)
        self._step = _Step(slots, counts, low, high, level)
        return slots

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, rule: AttentionRule) -> Tensor:
        """Write the new keys and values, then attend to all that their row holds. Shapes as in Store."""
        step = self._step
        if step is None:
            raise RuntimeError("attend() outside of a step: call begin() first")
        keys, values = self._keys[layer], self._values[layer]
        length = q.shape[2]
        if step.level:
            keys[:, :, step.low : step.high] = k
            values[:, :, step.low : step.high] = v
        else:
            rows = torch.arange(len(self), device=self.device)[:, None]
            keys[rows, :, step.slots] = k.transpose(1, 2).to(keys.dtype)
            values[rows, :, step.slots] = v.transpose(1, 2).to(values.dtype)
        plain = rule.bias is None
        if plain and step.level and length == 1:  # sees all that it can reach: no mask
            first = 0 if rule.window is None else max(0, step.high - rule.window)
            return attend(q, keys[:, :, first : step.high], values[:, :, first : step.high], rule)
        if plain and step.level and step.low == 0 and (rule.window is None or rule.window >= length):
            return attend(q, keys[:, :, :length], values[:, :, :length], rule, causal=True)
        if rule.window not in step.visible:
            # No query of this step reaches behind the window of the shortest row's next token.
            first = 0 if rule.window is None else max(0, step.low - rule.window + 1)
            places = torch.arange(first, step.high, device=self.device)[None]
            visible = see(step.slots, places, rule.window, causal=True)
            if rule.bias is None:
                visible = visible[:, None]
            else:
                visible = biased(visible, step.slots, places, rule.bias, q.dtype)
            step.visible[rule.window] = first, visible
        first, visible = step.visible[rule.window]
        return attend(q, keys[:, :, first : step.high], values[:, :, first : step.high], rule, visible=visible)

    def commit(self) -> None:
        """See Cache."""
        if self._step is None:
            raise RuntimeError("commit() outside of a step: call begin() first")
        self._lengths = [past + more for past, more in zip(self._lengths, self._step.counts, strict=True)]
        self._step = None

    # ------------------------------------------------------------------------------------------------------ rows

    def truncate(self, row: int, length: int) -> None:
        """See Cache. Raises ValueError where the row is shorter than ``length`` already."""
        if not 0 <= length <= self._lengths[row]:
            raise ValueError(f"row {row} holds {self._lengths[row]} tokens: it cannot be cut to {length}")
        self._lengths[row] = length

    def fork(self, row: int, copies: int) -> list[int]:
        """See Cache."""
        if not 0 <= row < len(self):
            raise ValueError(f"there is no row {row} in a cache of {len(self)} rows")
        first = len(self)
        self._select([*range(first), *[row] * copies])
        return list(range(first, first + copies))

    def keep(self, rows: list[int]) -> None:
        """See Cache. A row may be named more than once: it is copied."""
        if wrong := [row for row in rows if not 0 <= row < len(self)]:
            raise ValueError(f"there are no rows {wrong} in a cache of {len(self)} rows")
        self._select(rows)

    def _select(self, rows: list[int]) -> None:
        index = torch.tensor(rows, dtype=torch.long, device=self.device)
        for blocks in (self._keys, self._values):
            for layer, block in enumerate(blocks):
                blocks[layer] = block[index]
        self._lengths = [self._lengths[row] for row in rows]
        if self.prompts is not None:
            self.prompts = self.prompts[index]
        self._step = None

    def _grow(self, slots: int) -> None:
        self._grow_layers(range(len(self._keys)), slots)

    def _grow_layers(self, layers: Iterable[int], slots: int) -> None:
        """At least ``slots`` slots; doubling, so that n tokens one by one copy O(n) and not O(n^2)."""
        for blocks in (self._keys, self._values):
            for layer in layers:
                block, have = blocks[layer], blocks[layer].shape[2]
                if slots > have:
                    larger = block.new_zeros(*block.shape[:2], max(slots, min(2 * have, self.capacity)), block.shape[3])
                    larger[:, :, :have] = block
                    blocks[layer] = larger
