"""Small models of a few ops for the native kernels, written down by hand, and batches for them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from hornbook.kernels import library
from hornbook.kernels.weight import Weight
from hornbook.settings import Settings

EMBED, NORM, ADD, LINEAR, GATE, ACT, HEAD_NORM, ROTARY, ATTEND, SELECT, CAP, MIX, WEIGH = range(1, 14)
PAGE = 16
F32, F16, I8 = range(3)


def loaded() -> Any:
    """The kernels, or None where this machine has none."""
    return library.library(Settings())


class Ops:
    """``registers``: their widths. What an op points at lives as long as this."""

    def __init__(self, kernels: Any, *registers: int) -> None:
        self.kernels = kernels
        self.widths = np.array(registers, np.int32)
        self._ops: list[library.Op] = []
        self._kept: list[Any] = []
        self._model: int | None = None

    def add(
        self, kind: int, a: int = -1, b: int = -1, out: int = -1, *, i: Sequence[int] = (), f: Sequence[float] = (),
        weights: Sequence[Any] = (), vectors: Sequence[Any] = (),
    ) -> Ops:  # fmt: skip
        op = library.Op(kind=kind, a=a, b=b, out=out)
        op.i[: len(i)], op.f[: len(f)] = list(i), list(f)
        for at, weight in enumerate(weights):
            weight = np.ascontiguousarray(weight, np.float32)
            *stack, rows, cols = weight.shape
            packed = Weight(self.kernels, "F32", rows, cols, weight, experts=stack[0] if stack else None)
            self._kept.append(packed)
            op.weight[at] = packed.handle
        for at, vector in enumerate(vectors):
            if vector is not None:
                self._kept.append(np.ascontiguousarray(vector, np.float32))
                op.w[at] = self._kept[-1].ctypes.data
        self._ops.append(op)
        return self

    @property
    def model(self) -> int:
        if self._model is None:
            ops = (library.Op * len(self._ops))(*self._ops)
            self._model = self.kernels.hb_model_create(ops, len(ops), self.widths.ctypes.data, len(self.widths))
        return self._model

    def run(self, batch: Batch, cache: int | None = None) -> np.ndarray:
        """The last op's rows."""
        last = self._ops[-1]
        selects = any(op.kind == SELECT for op in self._ops)
        rows = len(batch.select) if selects else len(batch.ids)
        out = np.full((rows, self.widths[last.a if last.kind in (HEAD_NORM, ROTARY) else last.out]), np.nan, np.float32)
        code = self.kernels.hb_step(self.model, cache, ctypes.byref(batch.struct()), out.ctypes.data)
        if code == library.CANCELLED:
            raise InterruptedError
        return out

    def __del__(self) -> None:
        if self._model is not None:
            self.kernels.hb_model_free(self._model)


class Batch:
    """ids of each sequence's new tokens, and how many it had before; ``pages`` [S, P] or none."""

    def __init__(
        self, ids: Sequence[Sequence[int]], before: Sequence[int] | None = None, pages: Any = None, select: Any = None,
        adapter: Any = None, adapters: Sequence[tuple[int, int, float, Any, Any]] = (),
    ) -> None:  # fmt: skip
        before = [0] * len(ids) if before is None else before
        self.ids = _ints(sum(map(list, ids), []))
        self.positions = _ints([p for new, b in zip(ids, before, strict=True) for p in range(b, b + len(new))])
        self.sequence = _ints([s for s, new in enumerate(ids) for _ in new])
        self.lengths = _ints([b + len(new) for new, b in zip(ids, before, strict=True)])
        self.pages = None if pages is None else np.ascontiguousarray(pages, np.int32)
        self.select = _ints([] if select is None else select)
        self.adapter = None if adapter is None else _ints(adapter)
        self.adapters = [(n, site, s, _floats(a), _floats(b)) for n, site, s, a, b in adapters]
        self.cancel = _ints([0])

    def struct(self) -> library.Batch:
        self._adapters = (library.Adapter * max(len(self.adapters), 1))()
        for at, (number, site, scale, a, b) in enumerate(self.adapters):
            self._adapters[at] = library.Adapter(number, site, len(a), scale, a.ctypes.data, b.ctypes.data)
        return library.Batch(
            tokens=len(self.ids), sequences=len(self.lengths), rows=len(self.select),
            max_pages=0 if self.pages is None else self.pages.shape[1],
            pages=None if self.pages is None else self.pages.ctypes.data,
            adapter=None if self.adapter is None else self.adapter.ctypes.data,
            adapters=self._adapters, adapter_count=len(self.adapters), cancel=self.cancel.ctypes.data,
            **{name: getattr(self, name).ctypes.data for name in ("ids", "positions", "sequence", "lengths", "select")},
        )  # fmt: skip


class Cache:
    """``handle``: an hb_cache, freed with this."""

    def __init__(self, kernels: Any, layers: int, kv_heads: int, width: int, pages: int, type: int = F32) -> None:
        self.kernels, self.shape = kernels, (layers, 2, kv_heads, PAGE, width)
        self.handle = kernels.hb_cache_create(layers, kv_heads, width, pages, type)

    def read(self, page: int) -> np.ndarray:
        """[layers, 2, kv_heads, 16, D]: keys, then values."""
        out = np.empty(self.shape, np.float32)
        self.kernels.hb_cache_read(self.handle, page, out.ctypes.data)
        return out

    def __del__(self) -> None:
        self.kernels.hb_cache_free(self.handle)


def _ints(values: Any) -> np.ndarray:
    return np.ascontiguousarray(values, np.int32)


def _floats(values: Any) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)
