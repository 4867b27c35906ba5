"""Low-rank adapters (arXiv 2106.09685) as the native kernels read them: one change for each site of a plan's Linears.

y += (x A') B'        site qkv [query | key | value], an adapter of query and value, ranks r and s:

A [r + s, in] = | A query |      B [H D + 2 K D, r + s] = | B query      0    |
                | A value |                               |    0         0    |
                                                          |    0      B value |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hornbook.engine.executor import Floats
from hornbook.engine.plan import Linear, Mix, Plan
from hornbook.errors import UsageError
from hornbook.kernels import library

FOREIGN = "It was made for another model."


class _Part(NamedTuple):
    """Where a weight stands: columns ``start`` to ``end`` of what its site gives, of ``width``."""

    site: int
    start: int
    end: int
    width: int


class _Change(NamedTuple):
    down: Floats  # A [r, in]
    up: Floats  # B [out, r], the scale in it


class NativeAdapters:
    """The adapters of an executor by number; numbers are never given twice. ``array``: what an hb_batch points at."""

    def __init__(self, plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._tied = plan.config.tied_head
        self._mixed = tuple(f"{op.prefix}." for op in plan.ops if isinstance(op, Mix))
        self._parts: dict[str, list[_Part]] = {}  # blocks may serve several layers
        for op in plan.ops:
            if isinstance(op, Linear):
                ends = np.cumsum([shapes[name][0] for name in op.weights]).tolist()
                for name, start, end in zip(op.weights, [0, *ends], ends, strict=False):
                    self._parts.setdefault(name, []).append(_Part(op.site, start, end, ends[-1]))
        self._changes: dict[int, dict[int, _Change]] = {}  # number -> site -> change
        self._next = 0
        self.array = (library.Adapter * 0)()

    def add(self, weights: Mapping[str, tuple[Floats, Floats, float]]) -> int:
        """See Executor.add_adapter. Raises UsageError, before anything is kept, for what is not of this model."""
        sites: dict[int, list[tuple[_Part, Floats, Floats]]] = {}
        for name, (down, up, scale) in weights.items():
            self._check(name, down, up, scale)
            scaled = np.asarray(up, np.float32) * np.float32(scale)
            for part in self._parts[name]:
                sites.setdefault(part.site, []).append((part, np.asarray(down, np.float32), scaled))
        number, self._next = self._next, self._next + 1
        self._changes[number] = {site: _joined(parts) for site, parts in sites.items()}
        self._describe()
        return number

    def remove(self, number: int) -> None:
        if self._changes.pop(number, None) is None:
            raise _unknown(number)
        self._describe()

    def check(self, numbers: np.ndarray[Any, Any]) -> None:
        """Raises UsageError for a number that no adapter has."""
        for number in np.unique(numbers).tolist():
            if number != -1 and number not in self._changes:
                raise _unknown(number)

    @property
    def bytes(self) -> int:
        return sum(one.down.nbytes + one.up.nbytes for changes in self._changes.values() for one in changes.values())

    def _describe(self) -> None:
        found = [
            library.Adapter(
                adapter=number, site=site, rank=len(change.down), scale=1.0,
                a=change.down.ctypes.data, b=change.up.ctypes.data,
            )
            for number, sites in self._changes.items()
            for site, change in sites.items()
        ]  # fmt: skip
        self.array = (library.Adapter * len(found))(*found)

    def _check(self, name: str, down: Floats, up: Floats, scale: float) -> None:
        if name not in self._parts:
            why = (
                "holds experts, which adapters do not reach"
                if name.startswith(self._mixed)
                else "is no linear layer of it"
            )
            raise UsageError(f"the adapter changes {name}, which {why}", FOREIGN)
        if self._tied and name == "embed.tokens.weight":
            raise UsageError(
                f"the adapter changes {name}, which is both the table of tokens and the head",
                "Merge this adapter into the model's weights.",
            )
        rows, cols = self._shapes[name]
        if down.ndim != 2 or len(down) < 1 or down.shape[1] != cols or up.shape != (rows, len(down)):
            raise UsageError(
                f"the adapter's matrices for {name} are {list(down.shape)} and {list(up.shape)}, and the weight is "
                f"{[rows, cols]}",
                FOREIGN,
            )
        if not (np.isfinite(scale) and np.isfinite(down).all() and np.isfinite(up).all()):
            raise UsageError(f"the adapter's numbers for {name} are not all finite", "Its file is damaged.")


def _joined(parts: list[tuple[_Part, Floats, Floats]]) -> _Change:
    down = np.concatenate([a for _, a, _ in parts])
    up = np.zeros((parts[0][0].width, len(down)), np.float32)
    at = 0
    for part, a, b in parts:
        up[part.start : part.end, at : at + len(a)] = b
        at += len(a)
    return _Change(np.ascontiguousarray(down), up)


def _unknown(number: int) -> UsageError:
    return UsageError(f"there is no adapter {number}", "It was removed before, or never added.")
