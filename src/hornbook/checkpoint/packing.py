"""Small integers and half-precision scales into the bytes of GGUF's blocks: what dequantize.py takes apart, put together.

The names are those of dequantize.py, and so are the layouts (ggml-common.h of ggml, MIT licence).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from hornbook.checkpoint.dequantize import Floats
from hornbook.checkpoint.mapped import Bytes

Small: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"  # uint8, which numpy's types forget once an int was or-ed to it


class TooLarge(ValueError):
    """A block's scale does not fit into half precision. The argument is the scale."""


def half(scales: Floats) -> Bytes:
    """[n] or [n, 1] float32 -> [n, 2]: half precision, to the nearest even. Raises TooLarge where that is infinite."""
    with np.errstate(over="ignore"):
        stored = scales.reshape(-1).astype("<f2")
    if not np.isfinite(stored).all():
        raise TooLarge(float(np.abs(scales).max()))
    return stored.view(np.uint8).reshape(-1, 2)


def as_stored(packed: Bytes) -> Floats:
    """[n, 2], from ``half``, -> [n, 1]: the scale as a reader will have it."""
    return packed.view("<f2").astype(np.float32)


def nibbles(q: Small, group: int) -> Bytes:
    """[n, 2 * bytes] below 16 -> [n, bytes]: of every 2 * ``group`` numbers the first half low, the second half high."""
    q = q.reshape(len(q), -1, 2, group)
    packed: Bytes = q[:, :, 0] | (q[:, :, 1] << 4)
    return packed.reshape(len(q), -1)


def crumbs(q: Small, group: int) -> Bytes:
    """[n, 4 * bytes] below 4 -> [n, bytes]: of every 4 * ``group`` numbers the first quarter lowest, and so on."""
    q = q.reshape(len(q), -1, 4, group)
    packed: Bytes = q[:, :, 0] | (q[:, :, 1] << 2) | (q[:, :, 2] << 4) | (q[:, :, 3] << 6)
    return packed.reshape(len(q), -1)


def bit_planes(q: Small) -> Bytes:
    """[n, 256] of 0 and 1 -> [n, 32]: 32 numbers give all bytes their lowest bit, the next 32 the next bit, ..."""
    return np.packbits(q.reshape(-1, 8, 32), axis=1, bitorder="little").reshape(-1, 32)


def scales_and_minima(scales: Bytes, minima: Bytes) -> Bytes:
    """Eight scales and eight minima below 64, each [n, 8], in the 12 bytes that Q4_K and Q5_K have for them."""
    first = scales[:, :4] | ((scales[:, 4:] >> 4) << 6)
    second = minima[:, :4] | ((minima[:, 4:] >> 4) << 6)
    third = (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4)
    return np.concatenate([first, second, third], axis=1)


def integers(values: np.ndarray[Any, Any]) -> Bytes:
    """Whole numbers in float32, taken modulo 256 as a C cast takes them, -> uint8 of the same shape."""
    return values.astype(np.int32).astype(np.uint8)
