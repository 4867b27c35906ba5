"""One weight, packed for the native kernels: rows of 16 interleaved, every value as the file has it."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from hornbook.errors import KernelError
from hornbook.kernels.library import Library

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"


class WeightType(NamedTuple):
    """How a file stores values: ``size`` bytes hold a block of ``block`` values."""

    number: int  # ggml's, and the kernels'
    block: int
    size: int


TYPES: Final[Mapping[str, WeightType]] = MappingProxyType(
    {
        "F32": WeightType(0, 1, 4),
        "F16": WeightType(1, 1, 2),
        "BF16": WeightType(30, 1, 2),
        "Q4_0": WeightType(2, 32, 18),
        "Q4_1": WeightType(3, 32, 20),
        "Q5_0": WeightType(6, 32, 22),
        "Q5_1": WeightType(7, 32, 24),
        "Q8_0": WeightType(8, 32, 34),
        "Q2_K": WeightType(10, 256, 84),
        "Q3_K": WeightType(11, 256, 110),
        "Q4_K": WeightType(12, 256, 144),
        "Q5_K": WeightType(13, 256, 176),
        "Q6_K": WeightType(14, 256, 210),
    }
)


class Weight:
    """A matrix [rows, cols] for ``x W'``, or a stack of them, one for each expert of a mixture. Freed with the object;
    ``handle`` is its hb_weight."""

    def __init__(
        self,
        kernels: Library,
        type: str,
        rows: int,
        cols: int,
        source: np.ndarray[Any, Any],
        order: Any = None,
        experts: int | None = None,
    ) -> None:
        """``source``: the rows as they lie in the file, of any dtype. ``order``: [rows], which row of the source becomes
        each row of the weight; without it they are as many and stay in place. ``experts``: how many matrices of ``rows``
        the source holds, one behind the other, all in place; None: one, which is no stack.

        Raises KernelError where the kernels do not know the type, sizes contradict each other, or memory runs out.
        """
        if type not in TYPES:
            raise KernelError(
                f"the native kernels do not know weights of type {type}", f"They know {', '.join(TYPES)}."
            )
        number, block, size = TYPES[type]
        assert experts is None or order is None, "experts stand in place"
        if rows < 1 or cols < 1 or cols % block:
            raise KernelError(f"a {type} weight cannot be {rows} x {cols}: columns come in blocks of {block}")
        row_bytes = cols // block * size
        there, odd = divmod(source.nbytes, row_bytes)
        wanted = rows * (1 if experts is None else experts)
        picks = None if order is None else np.ascontiguousarray(order, np.int32)
        if odd or (there < 1 if picks is not None else there != wanted):
            raise KernelError(
                f"{source.nbytes} bytes are not {wanted} rows of {cols} {type} values ({row_bytes} bytes each)"
            )
        if picks is not None and (picks.shape != (rows,) or picks.min() < 0 or picks.max() >= there):
            raise KernelError(f"the order of rows must be {rows} numbers from 0 to {there - 1}")
        data = np.ascontiguousarray(source)
        self.type, self.rows, self.cols, self.experts = type, rows, cols, experts
        self._kernels = kernels
        self.handle: int = (
            kernels.hb_pack(number, rows, cols, data.ctypes.data, None if picks is None else picks.ctypes.data)
            if experts is None
            else kernels.hb_pack_experts(number, experts, rows, cols, data.ctypes.data)
        )
        # Not at Python's end, when a thread may still multiply with it.
        weakref.finalize(self, kernels.hb_free, self.handle).atexit = False

    @property
    def bytes(self) -> int:
        """The memory it takes."""
        return int(self._kernels.hb_weight_bytes(self.handle))

    def unpack(self, first: int = 0, rows: int | None = None) -> Floats:
        """-> [rows, cols] float32: the values of rows ``first ..``, exactly those that the file's format stands for. A stack's
        rows count on from expert to expert."""
        there = self.rows * (self.experts or 1)
        rows = there - first if rows is None else rows
        if not 0 <= first <= first + rows <= there:
            raise KernelError(f"rows {first} to {first + rows - 1} of a weight of {there} rows")
        out = np.empty((rows, self.cols), np.float32)
        self._kernels.hb_unpack(self.handle, first, rows, out.ctypes.data)
        return out

    def linear(self, x: np.ndarray[Any, Any], bias: np.ndarray[Any, Any] | None = None) -> Floats:
        """x [..., cols] -> x W' + bias, [..., rows], float32."""
        x = np.ascontiguousarray(x, np.float32)
        if x.ndim < 1 or x.shape[-1] != self.cols or (bias is not None and bias.shape != (self.rows,)):
            shapes = f"{x.shape}" if bias is None else f"{x.shape} and a bias {bias.shape}"
            raise KernelError(f"a weight of {self.rows} x {self.cols} cannot multiply {shapes}")
        add = None if bias is None else np.ascontiguousarray(bias, np.float32)
        out = np.empty((*x.shape[:-1], self.rows), np.float32)
        if out.size:
            self._kernels.hb_linear(
                self.handle,
                None if add is None else add.ctypes.data,
                x.ctypes.data,
                x.size // self.cols,
                out.ctypes.data,
            )
        return out
