"""How the learning rate goes over the steps: step (from 1) -> what the optimizer's own rate is multiplied by.

constant ____      linear /\\        cosine  /~\\        inverse-sqrt  /\\__        wsd ____      slanted /'-._
        /                /  \\              /   \\                    /    ''--         /    \\            /     '-.
warm-up rises in a straight line and is over at step ``warmup``, where every schedule stands at 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

from hornbook.errors import UsageError

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


def wsd(
    steps: int,
    *,
    warmup: int = 0,
    decay: int | None = None,
    end: float = 0.0,
    shape: Literal["linear", "1-sqrt"] = "1-sqrt",
) -> Schedule:
    """Warm-up, a long stretch at 1, and a decay over the last ``decay`` steps, a tenth of them where none are given (arXiv
    2404.06395, eq. 1): as the stretch is the same however long it is, a training can be gone on with from its end.

    The decay is a straight line, or 1 - sqrt of the way, which was found the best of several (arXiv 2405.18392, eq. 2).
    """
    decay = max(1, steps // 10) if decay is None else decay
    if decay < 1 or warmup + decay > steps:
        raise UsageError(
            f"a warm-up of {warmup:,} and a decay of {decay:,} steps do not fit in {steps:,} steps",
            "Lower one of them.",
        )

    def at(step: int) -> float:
        if step < warmup:
            return _rise(step, warmup)
        passed = _passed(max(step, steps - decay), steps - decay, steps)
        return 1 - (1 - end) * (passed if shape == "linear" else math.sqrt(passed))

    return at


def slanted(steps: int, *, warmup: int | None = None, end: float = 1 / 32) -> Schedule:
    """Slanted triangular rates (arXiv 1801.06146, eq. 3): up from ``end`` to 1 in the first tenth of the steps, or in
    ``warmup``, and down to ``end`` in the others.

    The paper's line down is a step too short where a tenth of the steps is no whole number: it is held at ``end`` then.
    """
    cut, share = (max(1, steps // 10), 0.1) if warmup is None else (max(1, warmup), max(1, warmup) / steps)
    down = max(cut * (1 / share - 1), 1.0)

    def at(step: int) -> float:
        part = step / cut if step < cut else max(0.0, 1 - (step - cut) / down)
        return end + (1 - end) * part

    return at


def peak_rate(width: int, warmup: int) -> float:
    """The highest learning rate of arXiv 1706.03762, eq. 3: that of step ``warmup``."""
    return 1 / math.sqrt(width * warmup)


def _rise(step: int, warmup: int) -> float:
    return min(1.0, step / warmup) if warmup else 1.0


def _passed(step: int, warmup: int, steps: int) -> float:
    """Which part of the way from ``warmup`` to ``steps`` is done, 0 to 1."""
    return min(1.0, (step - warmup) / max(1, steps - warmup))


SCHEDULES: dict[str, Callable[[int, int, float], Schedule]] = {
    "constant": lambda steps, warmup, end: constant(warmup=warmup),
    "linear": lambda steps, warmup, end: linear(steps, warmup=warmup, end=end),
    "cosine": lambda steps, warmup, end: cosine(steps, warmup=warmup, end=end),
    "inverse-sqrt": lambda steps, warmup, end: inverse_sqrt(warmup=max(1, warmup)),
    "wsd": lambda steps, warmup, end: wsd(steps, warmup=warmup, end=end),
    "wsd-linear": lambda steps, warmup, end: wsd(steps, warmup=warmup, end=end, shape="linear"),
    "slanted": lambda steps, warmup, end: slanted(steps, warmup=warmup or None, end=end or 1 / 32),
}


def make(name: str, steps: int, *, warmup: int = 0, end: float = 0.0) -> Schedule:
    """The schedule ``name`` of SCHEDULES. ``end``: what the rate is multiplied by at last, where it comes down.

    Raises UsageError for another name, and where a warm-up leaves no step for what comes after it.
    """
    if name not in SCHEDULES:
        raise UsageError(f"there is no schedule {name!r}", f"There are: {', '.join(SCHEDULES)}.")
    if not 0 <= warmup <= steps:
        raise UsageError(
            f"a warm-up of {warmup:,} steps does not fit in {steps:,} steps", "Warm up for less, or train for longer."
        )
    return SCHEDULES[name](steps, warmup, end)
