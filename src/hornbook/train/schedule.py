"""How the learning rate goes over the steps: step (from 1) -> what the optimizer's own rate is multiplied by.

constant ____      linear /\\        cosine  /~\\        inverse_sqrt  /\\__
        /                /  \\              /   \\                    /    ''--
warm-up rises in a straight line and is over at step ``warmup``, where every schedule stands at 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

Schedule: TypeAlias = Callable[[int], float]


def constant(*, warmup: int = 0) -> Schedule:
    """1 for ever."""
    return lambda step: _rise(step, warmup)


def linear(steps: int, *, warmup: int = 0, end: float = 0.0) -> Schedule:
    """Down to ``end`` at step ``steps`` in a straight line."""
    return lambda step: _rise(step, warmup) if step < warmup else 1 - (1 - end) * _passed(step, warmup, steps)


def cosine(steps: int, *, warmup: int = 0, end: float = 0.0) -> Schedule:
    """Down to ``end`` at step ``steps`` along half a cosine (arXiv 1608.03983, eq. 5, without restarts)."""

    def at(step: int) -> float:
        if step < warmup:
            return _rise(step, warmup)
        return end + (1 - end) * (1 + math.cos(math.pi * _passed(step, warmup, steps))) / 2

    return at


def inverse_sqrt(*, warmup: int) -> Schedule:
    """min(step / warmup, sqrt(warmup / step)): arXiv 1706.03762, eq. 3, divided by its peak, which ``peak_rate`` is."""
    if warmup < 1:
        raise ValueError(f"inverse square root needs a warm-up of at least one step, not {warmup}")
    return lambda step: min(step / warmup, math.sqrt(warmup / step))


def peak_rate(width: int, warmup: int) -> float:
    """The highest learning rate of arXiv 1706.03762, eq. 3: that of step ``warmup``."""
    return 1 / math.sqrt(width * warmup)


def _rise(step: int, warmup: int) -> float:
    return min(1.0, step / warmup) if warmup else 1.0


def _passed(step: int, warmup: int, steps: int) -> float:
    """Which part of the way from ``warmup`` to ``steps`` is done, 0 to 1."""
    return min(1.0, (step - warmup) / max(1, steps - warmup))
