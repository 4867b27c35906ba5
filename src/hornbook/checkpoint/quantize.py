"""Float32 to the block formats of GGUF: the inverse of dequantize.py, for every type that it reads.

    quantize(weights, "Q4_K")       # [rows, n] float32 -> [rows, n / 256 * 144] uint8

The 32-value blocks round to the nearest step of a scale that the extreme value sets; the 256-value blocks, in
quantize_k.py, search for better scales. Both follow ggml's reference quantisers (ggml-quants.c, MIT licence) to the
byte. The work goes in pieces over a few threads: scratch memory stays at a few megabytes whatever the tensor's size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hornbook.checkpoint.dequantize import BY_NAME, Floats, Format, in_threads
from hornbook.checkpoint.mapped import Bytes
from hornbook.checkpoint.packing import Small, TooLarge, half, nibbles
from hornbook.checkpoint.quantize_k import PACKERS as K_PACKERS
from hornbook.errors import ModelFileError, UnsupportedModel

PIECE = 1 << 17  # values packed at a time: smaller ones spend their time in Python, larger ones leave the cache
WORTH_THREADS = 1 << 18  # values; below this a thread costs more than it saves


def quantize(values: np.ndarray[Any, Any], type: str, *, name: str = "the tensor") -> Bytes:
    """The rows of ``values`` [rows, n], any kind of number, as blocks of ``type``: [rows, bytes of a row] uint8.

    Integer types and F64 take their values as they are. ``name`` is what errors call the tensor. Raises
    UnsupportedModel for a type that cannot be written; ModelFileError for rows that are not a multiple of the type's
    block, for values that are not finite, and for values that the type cannot hold.
    """
    format = BY_NAME.get(type)
    if format is None or not (type in PACKERS or format.dtype):
        writable = ", ".join((*PACKERS, *(other.name for other in BY_NAME.values() if other.dtype)))
        raise UnsupportedModel(f"{name}: Hornbook cannot write the tensor type {type}", f"Take one of: {writable}.")
    if values.ndim != 2:
        raise ValueError(f"values must be of shape [rows, n], not {values.shape}")
    rows, n = values.shape
    if n % format.block:
        raise ModelFileError(
            f"{name} has rows of {n:,}, which is not a multiple of {type}'s {format.block}",
            "Take a type of smaller blocks: Q8_0 and Q4_0 to Q5_1 have 32, F16 and BF16 have 1.",
        )
    if format.dtype:
        return _unchanged(values, format, name)
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, format.block)
    packed = np.empty((len(blocks), format.nbytes), np.uint8)
    _pack(blocks, format, packed, name)
    return packed.reshape(rows, n // format.block * format.nbytes)


def _unchanged(values: np.ndarray[Any, Any], format: Format, name: str) -> Bytes:
    with np.errstate(invalid="ignore"):
        stored = values.astype(format.dtype)
    if not np.array_equal(stored, values):
        raise ModelFileError(
            f"{name} has values between {values.min()} and {values.max()}, which {format.name} cannot hold",
            "Take a wider type, or F32.",
        )
    return np.ascontiguousarray(stored).view(np.uint8).reshape(len(values), -1)


def _pack(blocks: Floats, format: Format, packed: Bytes, name: str) -> None:
    """Fill ``packed`` [n, nbytes] from ``blocks`` [n, block]."""
    pack, step = PACKERS[format.name], max(1, PIECE // format.block)

    def work(first: int, last: int) -> None:
        with np.errstate(all="ignore"):  # every division by zero is of a part that is then not taken
            for start in range(first, last, step):
                piece = slice(start, min(start + step, last))
                if not np.isfinite(blocks[piece]).all():
                    raise _not_finite(blocks, name)
                try:
                    pack(blocks[piece], packed[piece])
                except TooLarge as error:
                    raise ModelFileError(
                        f"{name} has values up to {np.abs(blocks[piece]).max():.3g}, too large for {format.name}",
                        "Take BF16 or F32, or check where the weights come from.",
                    ) from error

    in_threads(work, len(blocks), worth=blocks.size >= WORTH_THREADS)


def _not_finite(blocks: Floats, name: str) -> ModelFileError:
    bad = blocks.size - int(np.isfinite(blocks).sum())
    return ModelFileError(
        f"{name} has values that are not numbers (nan or infinite): {bad:,} of the {blocks.size:,} looked at",
        "The weights are damaged, or training diverged: take an earlier checkpoint.",
    )


# -------------------------------------------------------------------------------------------------- plain floats


def _f32(blocks: Floats, out: Bytes) -> None:
    out[...] = blocks.view(np.uint8)


def _f16(blocks: Floats, out: Bytes) -> None:
    out[...] = half(blocks)


def _bf16(blocks: Floats, out: Bytes) -> None:
    """To the nearest, halves to the even one: the carry of an addition does it."""
    bits = blocks.view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    if ((rounded & 0x7F80) == 0x7F80).any():
        raise TooLarge(float(np.abs(blocks).max()))
    out.view("<u2")[...] = rounded


# ------------------------------------------------------------------------------------------- blocks of 32 values


def _inverse(d: Floats) -> Floats:
    """1 / d, and 0 where d is zero or so small that nothing is left of the block in half precision."""
    inverse = np.float32(1) / d
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def _from_extreme(blocks: Floats, top: int) -> tuple[Bytes, Small]:
    """The value of largest magnitude becomes -top: d [n, 2] and q + top in 0 .. 2 top - 1 [n, 32]."""
    at = np.abs(blocks).argmax(axis=1)
    largest = np.take_along_axis(blocks, at[:, None], axis=1) + np.float32(0)  # -0 becomes 0
    d = largest / np.float32(-top)
    q = (blocks * _inverse(d) + np.float32(top + 0.5)).astype(np.uint8)  # the cast cuts off: nothing is below 0.5
    return half(d), np.minimum(q, 2 * top - 1)


def _from_range(blocks: Floats, top: int) -> tuple[Bytes, Bytes, Small]:
    """The smallest value becomes 0 and the largest top: d [n, 2], minimum [n, 2], q [n, 32]."""
    low = blocks.min(axis=1, keepdims=True)
    d = (blocks.max(axis=1, keepdims=True) - low) / np.float32(top)
    q = ((blocks - low) * _inverse(d) + np.float32(0.5)).astype(np.uint8)
    return half(d), half(low), np.minimum(q, top)


def _fifth_bits(q: Small) -> Bytes:
    return np.packbits(q >> 4, axis=1, bitorder="little")


def _q4_0(blocks: Floats, out: Bytes) -> None:
    out[:, :2], q = _from_extreme(blocks, 8)
    out[:, 2:] = nibbles(q, 16)


def _q4_1(blocks: Floats, out: Bytes) -> None:
    out[:, :2], out[:, 2:4], q = _from_range(blocks, 15)
    out[:, 4:] = nibbles(q, 16)


def _q5_0(blocks: Floats, out: Bytes) -> None:
    out[:, :2], q = _from_extreme(blocks, 16)
    out[:, 2:6], out[:, 6:] = _fifth_bits(q), nibbles(q & 15, 16)


def _q5_1(blocks: Floats, out: Bytes) -> None:
    out[:, :2], out[:, 2:4], q = _from_range(blocks, 31)
    out[:, 4:8], out[:, 8:] = _fifth_bits(q), nibbles(q & 15, 16)


def _q8_0(blocks: Floats, out: Bytes) -> None:
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    q = blocks * _inverse(d)
    whole = np.trunc(q)
    whole += np.copysign(np.abs(q - whole) >= 0.5, q)  # halves away from zero
    out[:, :2], out[:, 2:] = half(d), whole.astype(np.int8).view(np.uint8)


PACKERS: dict[str, Callable[[Floats, Bytes], None]] = {
    "F32": _f32, "F16": _f16, "BF16": _bf16,
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    **K_PACKERS,
}  # fmt: skip
