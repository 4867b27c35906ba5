"""Float32 to the "K" blocks of GGUF: 256 values, whose sub-blocks of 16 or 32 each get a scale, or a scale and minimum.

A sub-block x is to be near s q - m (Q2_K, Q4_K, Q5_K) or s q (Q3_K, Q6_K), q being small integers. For a fixed q the
best s and m are a weighted least-squares fit; which q is best is found by trying. Each try rounds x, from the best
minimum so far on, in slightly different steps, fits s and m, and is kept where its error is smaller than all before:

    Q4_K Q5_K   21 and 16 tries, squares weighted with rms(x) + |x|      Q6_K  19 tries, squares weighted with x^2
    Q2_K        16 tries, absolute errors weighted with |x|              Q3_K  one try, then q by q (coordinate descent)

At last the scales of a block are rounded to small integers themselves, and every q is chosen anew for what they became.

The searches are those of ggml's reference quantisers without an importance matrix (quantize_row_q4_K_ref and its
siblings in ggml-quants.c, MIT licence). The sums run in the same order and precision, so that the bytes are the same:
a piece of the tensor is held as [values of a sub-block, sub-blocks], and a sum over the first axis adds row after row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hornbook.checkpoint.dequantize import Floats
from hornbook.checkpoint.mapped import Bytes
from hornbook.checkpoint.packing import as_stored, bit_planes, crumbs, half, integers, nibbles, scales_and_minima

NOTHING = np.float32(1e-15)  # a sub-block whose largest magnitude is below this is all zeros
FLAT = np.float32(1e-30)  # below it, 1 / (maximum - minimum) would soon be infinite


def total(x: Floats) -> Floats:
    """[size, n] -> [n], row after row as a loop adds; over a last axis numpy would add pairwise."""
    summed: Floats = np.add.reduce(x, axis=0)
    return summed


def by_sub_block(blocks: Floats, size: int) -> Floats:
    """[blocks, 256] -> [size, sub-blocks], the sub-blocks of a block side by side."""
    return np.ascontiguousarray(blocks.reshape(-1, size).T)


def by_block(q: Floats) -> Bytes:
    """[size, sub-blocks] -> [blocks, 256] as uint8."""
    return np.ascontiguousarray(q.T.astype(np.uint8)).reshape(-1, 256)


# ----------------------------------------------------------------------------------------------- scale and minimum


def fit_scale_and_minimum(
    x: Floats, weights: Floats, top: int, *, first: float, tries: int, absolute: bool
) -> tuple[Floats, Floats, Floats]:
    """s >= 0 and m >= 0 of each sub-block, for q in 0 .. top.

    x, weights: [size, n]. The tries aim at a largest q of top + first, top + first + 0.1, ...; ``absolute`` errors or
    squared ones. Returns s [n], m [n] and the q of the best try [size, n].
    """
    high, minimum = x.max(axis=0), np.minimum(x.min(axis=0), 0)
    flat = high - minimum < FLAT
    high[flat] = np.inf  # every q becomes 0 and no try can be better
    sum_w, sum_x = total(weights), total(weights * x)
    q, a, b = np.empty_like(x), np.empty_like(x), np.empty_like(x)

    def round_to(steps: Floats, minimum: Floats) -> None:
        np.subtract(x, minimum, out=q)
        np.multiply(q, steps, out=q)
        np.rint(q, out=q)
        np.maximum(q, 0, out=q)
        np.minimum(q, top, out=q)

    def error(scale: Floats, minimum: Floats) -> Floats:
        np.multiply(q, scale, out=a)
        np.add(a, minimum, out=a)
        np.subtract(a, x, out=a)
        np.abs(a, out=a) if absolute else np.multiply(a, a, out=a)
        np.multiply(a, weights, out=a)
        return total(a)

    steps, from_minimum = np.float32(top) / (high - minimum), minimum.copy()
    best_steps = steps
    scale = np.where(flat, np.float32(0), 1 / steps)
    round_to(steps, minimum)
    best = error(scale, minimum)
    for number in range(tries):
        steps = (np.float32(first) + np.float32(0.1) * np.float32(number) + np.float32(top)) / (high - minimum)
        round_to(steps, minimum)
        np.multiply(weights, q, out=a)
        sum_q = total(a)
        np.multiply(a, q, out=b)
        sum_qq = total(b)
        np.multiply(a, x, out=b)
        sum_qx = total(b)
        determinant = sum_w * sum_qq - sum_q * sum_q
        fitted = np.divide(sum_w * sum_qx - sum_x * sum_q, determinant)
        offset = np.divide(sum_qq * sum_x - sum_q * sum_qx, determinant)
        positive = offset > 0  # a minimum can only be taken away
        np.copyto(fitted, sum_qx / sum_qq, where=positive)
        np.copyto(offset, 0, where=positive)
        found = error(fitted, offset)
        better = (determinant > 0) & (found < best)
        np.copyto(from_minimum, minimum, where=better)
        for kept, new in ((best, found), (scale, fitted), (minimum, offset), (best_steps, steps)):
            np.copyto(kept, new, where=better)
    round_to(best_steps, from_minimum)
    return scale, -minimum, q


def choose(x: Floats, scale: Floats, minimum: Floats, top: int, searched: Floats) -> Floats:
    """The q in 0 .. top nearest to (x + minimum) / scale; those of the search, in place, where the scale is zero."""
    q = np.clip(np.rint((x + minimum) / scale), 0, top)
    np.copyto(searched, q, where=scale != 0)
    return searched


def _with_minima(
    x: Floats, weights: Floats, *, top: int, top_scale: int, first: float, tries: int, absolute: bool
) -> tuple[Bytes, Bytes, Bytes, Bytes, Bytes]:
    """d [blocks, 2], dmin [blocks, 2], scales and minima as integers [blocks, sub-blocks of it], q [blocks, 256]."""
    scale, minimum, q = fit_scale_and_minimum(x, weights, top, first=first, tries=tries, absolute=absolute)
    stored, rounded = [], []
    for wanted in (scale, minimum):
        wanted = wanted.reshape(-1, 256 // len(x))
        largest = np.maximum(wanted.max(axis=1, keepdims=True), 0)
        inverse = np.where(largest > 0, np.float32(top_scale) / largest, np.float32(0))
        rounded.append(np.minimum(integers(np.rint(inverse * wanted)), top_scale))
        stored.append(half(largest / np.float32(top_scale)))
    s, m = ((as_stored(d) * integer.astype(np.float32)).reshape(-1) for d, integer in zip(stored, rounded, strict=True))
    return stored[0], stored[1], rounded[0], rounded[1], by_block(choose(x, s, m, top, q))


def _q2_k(blocks: Floats, out: Bytes) -> None:
    x = by_sub_block(blocks, 16)
    d, dmin, scales, minima, q = _with_minima(x, np.abs(x), top=3, top_scale=15, first=-0.5, tries=16, absolute=True)
    out[:, :16] = scales | (minima << 4)
    out[:, 16:80] = crumbs(q, 32)
    out[:, 80:82], out[:, 82:84] = d, dmin


def _q4_k(blocks: Floats, out: Bytes) -> None:
    x = by_sub_block(blocks, 32)
    d, dmin, scales, minima, q = _with_minima(
        x, _rms_and_magnitude(x), top=15, top_scale=63, first=-1.0, tries=21, absolute=False
    )
    out[:, 0:2], out[:, 2:4] = d, dmin
    out[:, 4:16] = scales_and_minima(scales, minima)
    out[:, 16:] = nibbles(q, 32)


def _q5_k(blocks: Floats, out: Bytes) -> None:
    x = by_sub_block(blocks, 32)
    d, dmin, scales, minima, q = _with_minima(
        x, _rms_and_magnitude(x), top=31, top_scale=63, first=-0.5, tries=16, absolute=False
    )
    out[:, 0:2], out[:, 2:4] = d, dmin
    out[:, 4:16] = scales_and_minima(scales, minima)
    out[:, 16:48] = bit_planes(q >> 4)
    out[:, 48:] = nibbles(q & 15, 32)


def _rms_and_magnitude(x: Floats) -> Floats:
    rms: Floats = np.sqrt(total(x * x) / np.float32(len(x)))
    return rms + np.abs(x)


# ------------------------------------------------------------------------------------------------------- scale only


def extreme(x: Floats, least: np.float32 = NOTHING) -> Floats:
    """The value of largest magnitude of each column, the first of equals: [size, n] -> [n]; 0 where below ``least``."""
    found = np.take_along_axis(x, np.abs(x).argmax(axis=0)[None], axis=0)[0]
    return np.where(np.abs(found) < least, np.float32(0), found)


def fit_scale(x: Floats, top: int) -> tuple[Floats, Floats]:
    """s, of either sign, of each sub-block, for q in -top .. top - 1: returns s [n] and the q of the best try [size, n].

    The value of largest magnitude goes near -top, which has one step more than the other side.
    """
    largest = extreme(x)
    weights = x * x
    weighted = weights * x
    q, a = np.empty_like(x), np.empty_like(x)

    def round_to(steps: Floats) -> None:
        np.multiply(x, steps, out=q)
        np.rint(q, out=q)
        np.maximum(q, -top, out=q)
        np.minimum(q, top - 1, out=q)

    def sums(steps: Floats) -> tuple[Floats, Floats]:
        round_to(steps)
        np.multiply(weighted, q, out=a)
        sum_xq = total(a)
        np.multiply(weights, q, out=a)
        np.multiply(a, q, out=a)
        return sum_xq, total(a)

    best_steps = np.where(largest != 0, np.float32(-top) / largest, np.float32(0))
    sum_xq, sum_qq = sums(best_steps)
    scale = np.where(sum_qq > 0, sum_xq / sum_qq, np.float32(0))
    best = scale * sum_xq
    for number in (*range(-9, 0), *range(1, 10)):
        steps = np.where(
            largest != 0, -(np.float32(top) + np.float32(0.1) * np.float32(number)) / largest, np.float32(0)
        )
        sum_xq, sum_qq = sums(steps)
        better = (sum_qq > 0) & (sum_xq * sum_xq > best * sum_qq)
        fitted = sum_xq / sum_qq
        np.copyto(scale, fitted, where=better)
        np.copyto(best, fitted * sum_xq, where=better)
        np.copyto(best_steps, steps, where=better)
    round_to(best_steps)
    q += np.where(largest != 0, np.float32(top), np.float32(0))
    return scale, q


def descend(x: Floats, top: int, rounds: int = 5) -> tuple[Floats, Floats]:
    """As ``fit_scale``, by coordinate descent: each q in turn takes the value that suits the fit to all the others."""
    largest = extreme(x)
    weights = x * x
    weighted = weights * x
    steps = np.where(largest != 0, np.float32(-top) / largest, np.float32(0))
    q = np.clip(np.rint(steps * x), -top, top - 1)
    sum_xq, sum_qq = total(weighted * q), total(weights * q * q)
    for _ in range(rounds):
        changed = False
        for i in range(len(x)):
            w, wx, old = weights[i], weighted[i], q[i]
            other_xq = sum_xq - wx * old
            other_qq = sum_qq - w * old * old
            new = np.clip(np.rint(x[i] * other_qq / other_xq), -top, top - 1)
            new_xq = other_xq + wx * new
            new_qq = other_qq + w * new * new
            better = (other_xq > 0) & (new != old) & (new_qq > 0)
            better &= new_xq * new_xq * sum_qq > sum_xq * sum_xq * new_qq
            if better.any():
                changed = True
                for kept, found in ((old, new), (sum_xq, new_xq), (sum_qq, new_qq)):
                    np.copyto(kept, found, where=better)
        if not changed:
            break
    q += np.where(largest != 0, np.float32(top), np.float32(0))
    return np.where(sum_qq > 0, sum_xq / sum_qq, np.float32(0)), q


def _with_signed_scales(
    x: Floats, scale: Floats, q: Floats, *, top: int, top_scale: int, least: np.float32
) -> tuple[Bytes, Floats, Bytes]:
    """d [blocks, 2], the scales as whole numbers in -top_scale .. top_scale - 1 [blocks, 16], q + top [blocks, 256].

    The largest scale becomes -top_scale: where all are zero, the block is, none of its own reaching ``least``.
    """
    wanted = scale.reshape(-1, 16)
    largest = extreme(np.ascontiguousarray(wanted.T), least)[:, None]
    inverse = np.where(largest != 0, np.float32(-top_scale) / largest, np.float32(0))
    d = half(np.where(largest != 0, 1 / inverse, np.float32(0)))
    rounded = np.clip(np.rint(inverse * wanted), -top_scale, top_scale - 1)
    s = (as_stored(d) * rounded).reshape(-1)
    chosen = np.clip(np.rint(x / s), -top, top - 1) + np.float32(top)
    np.copyto(q, chosen, where=s != 0)
    return d, rounded, by_block(q)


def _q3_k(blocks: Floats, out: Bytes) -> None:
    x = by_sub_block(blocks, 16)
    d, scales, q = _with_signed_scales(x, *descend(x, 4), top=4, top_scale=32, least=np.float32(0))
    stored = integers(scales + 32)
    stored[(scales == 0).all(axis=1)] = 0
    out[:, :32] = bit_planes(q >> 2)
    out[:, 32:96] = crumbs(q & 3, 32)
    out[:, 96:104] = nibbles(stored & 15, 8)
    out[:, 104:108] = crumbs(stored >> 4, 4)
    out[:, 108:110] = d


def _q6_k(blocks: Floats, out: Bytes) -> None:
    x = by_sub_block(blocks, 16)
    d, scales, q = _with_signed_scales(x, *fit_scale(x, 32), top=32, top_scale=128, least=NOTHING)
    q[(scales == 0).all(axis=1)] = 0
    out[:, :128] = nibbles(q & 15, 64)
    out[:, 128:192] = crumbs(q >> 4, 32)
    out[:, 192:208] = integers(scales)
    out[:, 208:210] = d


PACKERS: dict[str, Callable[[Floats, Bytes], None]] = {
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip
