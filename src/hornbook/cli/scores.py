"""Scores as a terminal shows them: a value ± its standard error, and its 95% interval."""

from __future__ import annotations

from collections.abc import Sequence

from hornbook.cli import console
from hornbook.evals.compare import Difference
from hornbook.evals.outcome import Figure, Outcome

BEYOND = 0.05  # a difference that comes by chance less often is marked


def table(outcome: Outcome, *, groups: bool = False) -> str:
    """A line for each metric of each task; with ``groups`` those of its parts below."""
    rows: list[tuple[str, ...]] = []
    for result in outcome.results:
        shots = f"{result.shots}{'' if not result.fewer else '-'}"
        about = (result.task, f"{result.items:,}", shots, "chat" if result.chat else "plain")
        rows += _lines(about, result.figures)
        for group in result.groups if groups else ():
            rows += _lines((f"  {group.name}", f"{group.items:,}", "", ""), group.figures)
    return console.table(rows, ("task", "items", "shots", "prompt", "metric", "value", "95% interval"))


def comparison(before: Outcome, after: Outcome, found: Sequence[Difference]) -> str:
    """A line for each metric that both have; a star where the difference is beyond chance."""
    rows = []
    task = ""
    for one in found:
        scale = 100 if one.percent else 1
        interval = "" if one.low is None or one.high is None else _span(one.low * scale, one.high * scale, one.percent)
        rows.append(
            (
                one.task if one.task != task else "",
                f"{one.items:,}" if one.task != task else "",
                one.metric,
                number(one.before * scale, one.percent),
                number(one.after * scale, one.percent),
                f"{number(one.value * scale, one.percent, sign=True)}{'*' if one.p < BEYOND else ''}",
                interval,
                chance(one.p),
                f"{len(one.better):,}",
                f"{len(one.worse):,}",
            )
        )
        task = one.task
    names = (before.model.name, after.model.name)
    return console.table(
        rows, ("task", "items", "metric", *names, "difference", "95% interval", "p", "better", "worse")
    )


def summary(outcome: Outcome) -> str:
    """smollm2:135m · native avx2 · 40 questions asked, 12 known · 3.1 s"""
    asked = f"{outcome.asked:,} questions asked" + (f", {outcome.kept:,} known from before" if outcome.kept else "")
    runs = [outcome.model.runs_on] if outcome.model.runs_on else []
    return " · ".join([outcome.model.name, *runs, asked, f"{outcome.seconds:,.1f} s"])


def drop(one: Difference) -> str:
    """boolq acc 71.0 -> 60.2"""
    scale = 100 if one.percent else 1
    ends = (number(value * scale, one.percent) for value in (one.before, one.after))
    return f"{one.task} {one.metric} {' -> '.join(ends)}"


def number(value: float | None, percent: bool, *, sign: bool = False) -> str:
    """45.2 of a share; of other measures as many digits as tell them apart."""
    if value is None:
        return "-"
    if percent:
        return f"{value:{'+' if sign else ''}.1f}"
    places = 1 if abs(value) >= 1000 else 2 if abs(value) >= 10 else 3 if abs(value) >= 1 else 4
    return f"{value:{'+' if sign else ''},.{places}f}"


def chance(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _lines(about: tuple[str, ...], figures: Sequence[Figure]) -> list[tuple[str, ...]]:
    rows = []
    for place, one in enumerate(figures):
        scale = 100 if one.percent else 1
        value = number(None if one.value is None else one.value * scale, one.percent)
        error = "" if one.stderr is None else f" ± {number(one.stderr * scale, one.percent)}"
        span = "" if one.low is None or one.high is None else _span(one.low * scale, one.high * scale, one.percent)
        better = "" if one.higher_is_better else " (less is better)"
        rows.append((*(about if not place else ("",) * len(about)), one.name + better, value + error, span))
    return rows


def _span(low: float, high: float, percent: bool) -> str:
    return f"{number(low, percent)} to {number(high, percent)}"
