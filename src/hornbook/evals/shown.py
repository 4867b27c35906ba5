"""How scores are written for people, alike in a terminal and on a page: shares times a hundred, other numbers in four digits."""

from __future__ import annotations

NONE = "–"


def number(value: float | None, percent: bool, *, signed: bool = False) -> str:
    """45.67 of a share, 12.34 of anything else; a dash where there is none. ``signed``: a difference."""
    if value is None:
        return NONE
    text = f"{100 * value:.2f}" if percent else _four(value)
    if signed and value > 0:
        text = f"+{text}"
    return text.replace("-", "−")


def error(stderr: float | None, percent: bool) -> str:
    return "" if stderr is None else f"± {number(stderr, percent)}"


def interval(low: float | None, high: float | None, percent: bool, *, signed: bool = False) -> str:
    if low is None or high is None:
        return NONE
    return f"{number(low, percent, signed=signed)} … {number(high, percent, signed=signed)}"


def chance(p: float) -> str:
    """0.031; < 0.001, as the resamples tell no less."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def name(metric: str, higher_is_better: bool) -> str:
    """An arrow down where less is better."""
    return metric if higher_is_better else f"{metric} ↓"


def _four(value: float) -> str:
    text = f"{value:#.4g}".rstrip(".")
    return f"{value:,.0f}" if "e+" in text and abs(value) < 1e12 else text
