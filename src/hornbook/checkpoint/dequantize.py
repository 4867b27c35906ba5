"""The block formats of GGUF, unpacked to float32.

A quantised tensor is a row of equal blocks. A block holds one or two half-precision scales and the packed small
integers q of 32 values ("type 0 and 1") or of 256 ("K": eight or sixteen sub-blocks, whose scales are small integers
too). With the names of the format:

    Q4_0  Q5_0  Q8_0         x = d q                 d: the block's scale, q counted from -8, -16 or as int8
    Q4_1  Q5_1               x = d q + m             m: the block's minimum
    Q2_K  Q4_K  Q5_K         x = (d s) q - (dmin t)  s, t: scale and minimum of the sub-block
    Q3_K  Q6_K               x = (d s) q             s, q signed

The layouts follow ggml (ggml-common.h, MIT licence); the order of the float operations does too, so that the values are
those of the reference to the last bit. The work goes in pieces that fit the processor's cache, over a few threads:
scratch memory stays at a few megabytes whatever the tensor's size.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from hornbook.checkpoint.mapped import Bytes, TensorInfo
from hornbook.errors import UnsupportedModel

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

PIECE = 1 << 17  # values unpacked at a time: 512 KiB of float32, so that the passes over them stay in the cache
WORTH_THREADS = 1 << 20  # values; below this a thread costs more than it saves
THREADS = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


class Format(NamedTuple):
    """One type of tensor: ``block`` values take ``nbytes`` bytes. At most one of ``unpack`` and ``dtype`` is set."""

    name: str
    block: int
    nbytes: int
    unpack: Callable[[Bytes, Floats], None] | None = None  # blocks [n, nbytes] -> values [n, block]
    dtype: str | None = None  # what numpy calls it, for the types that are read as they are


def read(
    raw: Bytes, format: Format, info: TensorInfo, path: Path, out: np.ndarray[Any, Any] | None = None
) -> np.ndarray[Any, Any]:
    """The values of a tensor, from its bytes as stored, in a new array of ``info.shape`` or in ``out``.

    float32, or the type's own ``dtype``. Raises UnsupportedModel for a type that can only be listed; ValueError for an
    ``out`` of another shape or type, or one that is not contiguous.
    """
    if format.unpack is None and format.dtype is None:
        readable = ", ".join(other.name for other in FORMATS.values() if other.unpack)
        raise UnsupportedModel(
            f"{path.name}: {info.name} is of type {info.type}, which Hornbook cannot read",
            f"Take a file of the same model in one of: {readable}.",
        )
    dtype = np.dtype(format.dtype or np.float32)
    if out is None:
        out = np.empty(info.shape, dtype)
    elif out.shape != info.shape or out.dtype != dtype or not out.flags.c_contiguous:
        raise ValueError(f"out must be a contiguous {dtype} array of shape {info.shape}, to hold {info.name}")
    if format.unpack is None:
        stored = raw != 0 if dtype == np.bool_ else raw.view(dtype)
        out[...] = stored.reshape(info.shape)
    elif out.size:
        dequantize(raw, format, out.reshape(-1))
    return out


def dequantize(raw: Bytes, format: Format, out: Floats) -> None:
    """Unpack the blocks in ``raw`` [N / block * nbytes] into ``out``, which is contiguous and holds N values."""
    assert format.unpack is not None, f"{format.name} has no unpacking"
    unpack, blocks, values = format.unpack, raw.reshape(-1, format.nbytes), out.reshape(-1, format.block)
    step = max(1, PIECE // format.block)

    def work(first: int, last: int) -> None:
        with np.errstate(all="ignore"):  # an infinite scale is the file's own; 0 * inf is nan, as in the reference
            for start in range(first, last, step):
                piece = slice(start, min(start + step, last))
                unpack(blocks[piece], values[piece])

    in_threads(work, len(blocks), worth=out.size >= WORTH_THREADS)


def in_threads(work: Callable[[int, int], None], count: int, *, worth: bool) -> None:
    """``work(first, last)`` over ``count`` blocks, cut between a few threads where that is ``worth`` it."""
    threads = THREADS if worth else 1
    if threads == 1:
        work(0, count)
        return
    cuts = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:  # numpy lets go of the GIL inside each operation
        list(pool.map(work, cuts[:-1], cuts[1:]))


# ---------------------------------------------------------------------------------------------- small common parts


def _half(blocks: Bytes, at: int) -> Floats:
    """The half-precision number at byte ``at`` of each block, as float32 [n, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Bytes, group: int) -> Bytes:
    """[n, bytes] -> [n, 2 * bytes]: of every ``group`` bytes first the low halves, then the high halves."""
    n, count = packed.shape
    packed = packed.reshape(n, count // group, group)
    q = np.empty((n, count // group, 2, group), np.uint8)
    np.bitwise_and(packed, 15, out=q[:, :, 0])
    np.right_shift(packed, 4, out=q[:, :, 1])
    return q.reshape(n, 2 * count)


def _crumbs(packed: Bytes, group: int) -> Bytes:
    """[n, bytes] -> [n, 4 * bytes]: of every ``group`` bytes first the lowest two bits, then the next two, ..."""
    n, count = packed.shape
    packed = packed.reshape(n, count // group, group)
    q = np.empty((n, count // group, 4, group), np.uint8)
    for i in range(4):
        np.right_shift(packed, 2 * i, out=q[:, :, i])
    q &= 3
    return q.reshape(n, 4 * count)


def _bit_planes(packed: Bytes) -> Bytes:
    """[n, 32] -> [n, 256] of 0 and 1: the lowest bit of all 32 bytes, then the next bit, ..."""
    q = np.empty((len(packed), 8, 32), np.uint8)
    for i in range(8):
        np.right_shift(packed, i, out=q[:, i])
    q &= 1
    return q.reshape(len(packed), 256)


def _scales_and_minima(packed: Bytes) -> tuple[Bytes, Bytes]:
    """The eight 6-bit scales and eight 6-bit minima that Q4_K and Q5_K keep in 12 bytes: two of [n, 8].

    Bytes 0-3 hold scales 0-3 and bytes 4-7 minima 0-3 in their low six bits; the low and high halves of bytes 8-11
    are the low four bits of scales and minima 4-7, whose top two bits are the top two bits of bytes 0-3 and 4-7.
    """
    a, b, c = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([a & 63, (c & 15) | ((a >> 6) << 4)], axis=1)
    minima = np.concatenate([b & 63, (c >> 4) | ((b >> 6) << 4)], axis=1)
    return scales, minima


def _scale_sub_blocks(out: Floats, scales: Floats, minima: Floats | None = None) -> None:
    """x = scale * q - minimum, in place, for sub-blocks of equal length: scales and minima [n, sub-blocks]."""
    sub_blocks = out.reshape(*scales.shape, -1)
    sub_blocks *= scales[:, :, None]
    if minima is not None:
        sub_blocks -= minima[:, :, None]


# -------------------------------------------------------------------------------------------------- plain floats


def _f32(blocks: Bytes, out: Floats) -> None:
    out.view(np.uint8)[...] = blocks


def _f16(blocks: Bytes, out: Floats) -> None:
    out[...] = blocks.view("<f2")


def _bf16(blocks: Bytes, out: Floats) -> None:
    bits = out.view(np.uint32)
    bits[...] = blocks.view("<u2")
    bits <<= 16


# ------------------------------------------------------------------------------------------- blocks of 32 values


def _q4_0(blocks: Bytes, out: Floats) -> None:  # d 2, q 16
    q = _nibbles(blocks[:, 2:], 16)
    q -= 8
    out[...] = q.view(np.int8)
    out *= _half(blocks, 0)


def _q4_1(blocks: Bytes, out: Floats) -> None:  # d 2, m 2, q 16
    out[...] = _nibbles(blocks[:, 4:], 16)
    out *= _half(blocks, 0)
    out += _half(blocks, 2)


def four_bit_groups(blocks: Bytes, kind: str) -> tuple[Bytes, Floats, Floats]:
    """What blocks [n, nbytes] of "Q4_0", "Q4_1" or "Q4_K" hold, as groups of 32 with x = minimum + scale * q: q [m, 32]
    uint8 of 0 to 15, scales and minima [m] float32. No number is rounded."""
    if kind == "Q4_K":
        scales, minima = _scales_and_minima(blocks[:, 4:16])
        q = _nibbles(blocks[:, 16:], 32).reshape(-1, 32)
        return q, (_half(blocks, 0) * scales).ravel(), -(_half(blocks, 2) * minima).ravel()
    scale = _half(blocks, 0).ravel()
    if kind == "Q4_0":
        return _nibbles(blocks[:, 2:], 16), scale, -8 * scale
    return _nibbles(blocks[:, 4:], 16), scale, _half(blocks, 2).ravel()


def _five_bits(high: Bytes, low: Bytes) -> Bytes:
    """The fifth bits of 32 values in four bytes, the other four in sixteen: [n, 32]."""
    q = np.unpackbits(np.ascontiguousarray(high), axis=1, bitorder="little")
    q <<= 4
    q |= _nibbles(low, 16)
    return q


def _q5_0(blocks: Bytes, out: Floats) -> None:  # d 2, high bits 4, q 16
    q = _five_bits(blocks[:, 2:6], blocks[:, 6:])
    q -= 16
    out[...] = q.view(np.int8)
    out *= _half(blocks, 0)


def _q5_1(blocks: Bytes, out: Floats) -> None:  # d 2, m 2, high bits 4, q 16
    out[...] = _five_bits(blocks[:, 4:8], blocks[:, 8:])
    out *= _half(blocks, 0)
    out += _half(blocks, 2)


def _q8_0(blocks: Bytes, out: Floats) -> None:  # d 2, q 32
    out[...] = blocks[:, 2:].view(np.int8)
    out *= _half(blocks, 0)


# ------------------------------------------------------------------------------------------ blocks of 256 values


def _q2_k(blocks: Bytes, out: Floats) -> None:  # scales and minima 16, q 64, d 2, dmin 2
    packed = blocks[:, :16]
    out[...] = _crumbs(blocks[:, 16:80], 32)
    _scale_sub_blocks(out, _half(blocks, 80) * (packed & 15), _half(blocks, 82) * (packed >> 4))


def _q3_k(blocks: Bytes, out: Floats) -> None:  # high bits 32, q 64, scales 12, d 2
    # A scale's low four bits: the low, then the high halves of eight bytes; its top two: the crumbs of four bytes.
    scales = _nibbles(blocks[:, 96:104], 8) | (_crumbs(blocks[:, 104:108], 4) << 4)
    scales -= 32
    q = _bit_planes(blocks[:, :32])
    q <<= 2
    q |= _crumbs(blocks[:, 32:96], 32)
    q -= 4  # a high bit that is set stands for no offset
    out[...] = q.view(np.int8)
    _scale_sub_blocks(out, _half(blocks, 108) * scales.view(np.int8))


def _q4_k(blocks: Bytes, out: Floats) -> None:  # d 2, dmin 2, scales and minima 12, q 128
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    out[...] = _nibbles(blocks[:, 16:], 32)
    _scale_sub_blocks(out, _half(blocks, 0) * scales, _half(blocks, 2) * minima)


def _q5_k(blocks: Bytes, out: Floats) -> None:  # d 2, dmin 2, scales and minima 12, high bits 32, q 128
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    q = _bit_planes(blocks[:, 16:48])
    q <<= 4
    q |= _nibbles(blocks[:, 48:], 32)
    out[...] = q
    _scale_sub_blocks(out, _half(blocks, 0) * scales, _half(blocks, 2) * minima)


def _q6_k(blocks: Bytes, out: Floats) -> None:  # low bits 128, high bits 64, scales 16 (int8), d 2
    q = _crumbs(blocks[:, 128:192], 32)
    q <<= 4
    q |= _nibbles(blocks[:, :128], 64)
    q -= 32
    out[...] = q.view(np.int8)
    _scale_sub_blocks(out, _half(blocks, 208) * blocks[:, 192:208].view(np.int8))


# The number of each type in a GGUF file (ggml.h). Types without ``unpack`` and ``dtype`` can be listed, not read.
FORMATS: dict[int, Format] = {
    0: Format("F32", 1, 4, _f32),
    1: Format("F16", 1, 2, _f16),
    2: Format("Q4_0", 32, 18, _q4_0),
    3: Format("Q4_1", 32, 20, _q4_1),
    6: Format("Q5_0", 32, 22, _q5_0),
    7: Format("Q5_1", 32, 24, _q5_1),
    8: Format("Q8_0", 32, 34, _q8_0),
    9: Format("Q8_1", 32, 40),
    10: Format("Q2_K", 256, 84, _q2_k),
    11: Format("Q3_K", 256, 110, _q3_k),
    12: Format("Q4_K", 256, 144, _q4_k),
    13: Format("Q5_K", 256, 176, _q5_k),
    14: Format("Q6_K", 256, 210, _q6_k),
    15: Format("Q8_K", 256, 292),
    16: Format("IQ2_XXS", 256, 66),
    17: Format("IQ2_XS", 256, 74),
    18: Format("IQ3_XXS", 256, 98),
    19: Format("IQ1_S", 256, 50),
    20: Format("IQ4_NL", 32, 18),
    21: Format("IQ3_S", 256, 110),
    22: Format("IQ2_S", 256, 82),
    23: Format("IQ4_XS", 256, 136),
    24: Format("I8", 1, 1, dtype="i1"),
    25: Format("I16", 1, 2, dtype="<i2"),
    26: Format("I32", 1, 4, dtype="<i4"),
    27: Format("I64", 1, 8, dtype="<i8"),
    28: Format("F64", 1, 8, dtype="<f8"),
    29: Format("IQ1_M", 256, 56),
    30: Format("BF16", 1, 2, _bf16),
    34: Format("TQ1_0", 256, 54),
    35: Format("TQ2_0", 256, 66),
    39: Format("MXFP4", 32, 17),
    40: Format("NVFP4", 64, 36),
    41: Format("Q1_0", 128, 18),
}
BY_NAME: dict[str, Format] = {format.name: format for format in FORMATS.values()}
