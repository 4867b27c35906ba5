"""How fast each pair of dimensions turns, in numpy: all that a reader of files and the native executor need of rotary positions.

angle of pair j at position p  =  p * frequencies[j]        (arXiv 2104.09864, eq. 34)
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from hornbook.errors import ModelFileError
from hornbook.model.config import Rotary, RotaryScaling

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

REACH = 512  # positions of a RotaryTable that are computed ahead


def frequencies(rotary: Rotary, width: int, length: int = 1) -> Floats:
    """Radians per position of each pair of the ``width`` dimensions that turn, [width/2] float32.

    ``length``, in tokens, matters to the scalings that follow the text's ("dynamic", "longrope").
    """
    scaling = rotary.scaling
    base = np.float32(rotary.base if scaling is None else _base(rotary.base, scaling, width, length))
    exponent = np.arange(0, width, 2).astype(np.float32) / np.float32(width)
    turned: Floats = base**exponent
    plain: Floats = np.float32(1) / turned
    if scaling is None or scaling.kind == "dynamic":
        return plain
    if scaling.kind == "linear":
        return plain / np.float32(scaling.factor)
    if scaling.kind in ("factors", "longrope"):
        beyond = scaling.kind == "longrope" and length > scaling.original_context
        factors = scaling.long_factors if beyond else scaling.factors
        if len(factors) != len(plain):
            raise ModelFileError(
                f"{len(factors)} rotary factors for {len(plain)} frequencies",
                "The model's file contradicts itself: get it again or use another.",
            )
        return np.float32(1) / (np.array(factors, np.float32) * turned)
    kept = _kept(plain, rotary.base, scaling, width)
    return kept * plain + (1 - kept) * plain / np.float32(scaling.factor)


def follows_length(rotary: Rotary) -> bool:
    """Whether the frequencies depend on how long the text is."""
    return rotary.scaling is not None and rotary.scaling.kind in ("dynamic", "longrope")


class RotaryTable:
    """``values``: cosines, then sines, of each position, [positions, width] float32, as the native kernels read them.

    They are computed as far as texts have reached: the rest of the array, of a model for long texts tens of megabytes,
    is neither computed nor, until then, in memory. ``length``: that which frequencies that follow the text's take.
    """

    def __init__(self, rotary: Rotary, width: int, positions: int, length: int) -> None:
        self.values = np.empty((positions, width), np.float32)
        self._on = frequencies(rotary, width, length)
        self._magnitude = np.float32(1.0 if rotary.scaling is None else rotary.scaling.magnitude)
        self._known = 0

    def reach(self, positions: int) -> None:
        """Compute the first ``positions`` where they are not, and some more."""
        if positions <= self._known:
            return
        start, end = self._known, min(len(self.values), positions + REACH)
        angles = np.arange(start, end, dtype=np.float32)[:, None] * self._on
        half = self.values.shape[1] // 2
        np.multiply(np.cos(angles), self._magnitude, out=self.values[start:end, :half])
        np.multiply(np.sin(angles), self._magnitude, out=self.values[start:end, half:])
        self._known = end


def sinusoid_frequencies(width: int) -> Floats:
    """[(width + 1) / 2] float32."""
    half = np.arange((width + 1) // 2, dtype=np.float64)
    return (10_000.0 ** (-2 * half / width)).astype(np.float32)


def sinusoids(positions: int, width: int) -> Floats:
    """[positions, width] float32: the sines of all frequencies, then the cosines."""
    angles = np.arange(positions, dtype=np.float32)[:, None] * sinusoid_frequencies(width)
    return np.concatenate((np.sin(angles), np.cos(angles)[:, : width // 2]), axis=1)


def alibi_slopes(heads: int, scale: float) -> Floats:
    """[heads] float32: 2^(-8/H), 2^(-16/H), ... times ``scale``; for H that is no power of two, those of the power below
    and then every other one of the power above."""
    below = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / below) for i in range(below)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / below) for i in range(heads - below)]
    return np.array(slopes, np.float32) * np.float32(scale)


def larger_base(base: float, factor: float, width: int) -> float:
    """The base that divides the lowest frequency by ``factor`` and keeps the highest (arXiv 2309.00071, eq. 16)."""
    stretch: float = factor ** (width / (width - 2))
    return base * stretch


def _base(base: float, scaling: RotaryScaling, width: int, length: int) -> float:
    if scaling.kind != "dynamic":
        return base
    factor = scaling.factor * max(length, scaling.original_context) / scaling.original_context - (scaling.factor - 1)
    return larger_base(base, factor, width)


def _kept(plain: Floats, base: float, scaling: RotaryScaling, width: int) -> Floats:
    """How much of each frequency is kept, 1 for the fast ones, 0 for the slow."""
    if scaling.kind == "yarn":  # linear in the frequency's number, between two whole ones
        low, high = (
            width * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(base))
            for turns in (scaling.fast, scaling.slow)
        )
        low, high = max(math.floor(low), 0), min(math.ceil(high), width - 1)
        number = np.arange(width // 2, dtype=np.float32)
        return 1 - ((number - np.float32(low)) / np.float32(max(high - low, 0.001))).clip(0, 1)
    # Llama 3.1: linear in how often a frequency turned within the context of the first training
    turned = np.float32(scaling.original_context) * plain / np.float32(2 * math.pi)
    return ((turned - np.float32(scaling.slow)) / np.float32(scaling.fast - scaling.slow)).clip(0, 1)
