"""Whether the numbers of a tensor are finite, told from its bytes: of a block the scales alone need a look, for its other
parts are whole numbers. Costs a pass over a tenth of a quantised file."""

from __future__ import annotations

import numpy as np

from hornbook.checkpoint.dequantize import BY_NAME
from hornbook.checkpoint.mapped import Bytes

# Where in a block its half-precision scales stand. The layouts are those of ggml-common.h, as in dequantize.py.
_SCALES = {
    "F16": (0,), "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip
_PIECE = 1 << 16  # blocks at a time, so that what is made of them stays in the cache


def not_finite(raw: Bytes, type: str) -> int:
    """How many of the numbers (of a quantised tensor: of its scales) are infinite or NaN: their exponent is all ones."""
    if type == "F32":
        return _count(raw.view("<u4").reshape(-1, 1), 0x7F80_0000)
    if type == "BF16":
        return _count(raw.view("<u2").reshape(-1, 1), 0x7F80)
    halves = raw.reshape(-1, BY_NAME[type].nbytes)
    return sum(_count(halves[:, at : at + 2].view("<u2"), 0x7C00) for at in _SCALES[type])


def _count(bits: np.ndarray, ones: int) -> int:
    mask = bits.dtype.type(ones)
    pieces = (bits[i : i + _PIECE] & mask for i in range(0, len(bits), _PIECE))
    return sum(int(np.count_nonzero(piece == mask)) for piece in pieces)
