"""A course over steps as an SVG: no script, no fonts of its own, small whatever the number of steps.

       |\\            band    lowest to highest of the steps that share a column of the picture
       | \\__ o       line    their mean, smoothed
       |    \\____o   dots    what was measured now and then, each with its value to point at
       +----------

Colours are left to the page's style sheet (classes grid, label, band, line, dot), so that they follow dark and light.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import NamedTuple

WIDTH, HEIGHT = 720, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 10, 26
_COLUMNS = 320  # of which a course is made at most
_DOTS = 120  # that are drawn at most
_FLOOR = 1e-12  # what a logarithmic axis takes for nothing

Numbers = Sequence[float | None]


class Span(NamedTuple):
    """The steps of one column: their middle, their lowest, mean and highest value."""

    step: float
    low: float
    mean: float
    high: float


@dataclass(frozen=True)
class Plot:
    """``id`` is the picture's own in its page.

    log     a logarithmic axis, where all values are above 0     zero    the axis begins at 0
    smooth  of what varies by chance: the line is a mean over steps around, too
    """

    id: str
    title: str
    steps: Sequence[int]
    values: Numbers
    dots: Sequence[tuple[int, float]] = ()
    dots_called: str = ""
    log: bool = False
    zero: bool = False
    smooth: bool = True
    write: Callable[[float], str] = field(default=lambda value: f"{value:.4g}")

    def svg(self) -> str:
        """The picture; nothing where there is nothing to show."""
        spans = list(condense(self.steps, self.values, _COLUMNS))
        known = [span for span in spans if span is not None]
        if not known and not self.dots:
            return ""
        axes = _Axes.around(known, self.dots, self.log, self.zero)
        inside = [*self._grid(axes), *self._course(axes, spans), *self._dots(axes)]
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{self.id}-title {self.id}-told">'
            f'<title id="{self.id}-title">{escape(self.title)}</title>'
            f'<desc id="{self.id}-told">{escape(self.told())}</desc>'
            f'<g aria-hidden="true">{"".join(inside)}</g></svg>'
        )

    def told(self) -> str:
        """The course in words, for who cannot see it."""
        known = [(step, value) for step, value in zip(self.steps, self.values, strict=True) if value is not None]
        said = []
        if known:
            low, high = min(known, key=lambda at: at[1]), max(known, key=lambda at: at[1])
            said.append(
                f"{self.write(known[0][1])} at step {known[0][0]:,}, {self.write(known[-1][1])} at step {known[-1][0]:,}; "
                f"lowest {self.write(low[1])} at {low[0]:,}, highest {self.write(high[1])} at {high[0]:,}."
            )
        if self.dots:
            first, last = self.dots[0], self.dots[-1]
            said.append(
                f"{self.dots_called.capitalize()}: {self.write(first[1])} at step {first[0]:,}, "
                f"{self.write(last[1])} at step {last[0]:,}."
            )
        return " ".join(said)

    def _grid(self, axes: _Axes) -> Iterator[str]:
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        for value in axes.value_ticks():
            y = axes.y(value)
            yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>'
            yield f'<text class="label" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(self.write(value))}</text>'
        for step in axes.step_ticks():
            x = axes.x(step)
            yield f'<path class="grid" d="M{x:.1f} {bottom}v4"/>'
            anchor = "middle" if x < right - 24 else "end"
            yield f'<text class="label" x="{min(x, right):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{step:,.0f}</text>'

    def _course(self, axes: _Axes, spans: Sequence[Span | None]) -> Iterator[str]:
        several = len(self.steps) > 60 and self.smooth
        for piece in _pieces(spans):
            if several:
                there = [f"{axes.x(span.step):.1f} {axes.y(span.high):.1f}" for span in piece]
                back = [f"{axes.x(span.step):.1f} {axes.y(span.low):.1f}" for span in reversed(piece)]
                yield f'<path class="band" d="M{"L".join(there + back)}Z"/>'
            means = _smoothed([span.mean for span in piece], len(spans) // 40 if several else 0)
            line = [f"{axes.x(span.step):.1f} {axes.y(mean):.1f}" for span, mean in zip(piece, means, strict=True)]
            yield f'<path class="line" d="M{"L".join(line if len(line) > 1 else line * 2)}"/>'

    def _dots(self, axes: _Axes) -> Iterator[str]:
        apart = math.ceil(len(self.dots) / _DOTS) or 1  # the last one always
        for step, value in reversed(self.dots[::-1][::apart]):
            told = escape(f"step {step:,}: {self.write(value)}")
            yield f'<circle class="dot" cx="{axes.x(step):.1f}" cy="{axes.y(value):.1f}" r="3.5"><title>{told}</title></circle>'


def condense(steps: Sequence[int], values: Numbers, columns: int) -> Iterator[Span | None]:
    """At most ``columns`` spans of like many steps; None for one in which there is no value."""
    count = len(steps)
    columns = min(count, columns)
    for column in range(columns):
        first, end = column * count // columns, (column + 1) * count // columns
        known = [value for value in values[first:end] if value is not None]
        if known:
            step = (steps[first] + steps[end - 1]) / 2
            yield Span(step, min(known), math.fsum(known) / len(known), max(known))
        else:
            yield None


def _pieces(spans: Sequence[Span | None]) -> Iterator[list[Span]]:
    """The stretches between gaps."""
    piece: list[Span] = []
    for span in [*spans, None]:
        if span is not None:
            piece.append(span)
        elif piece:
            yield piece
            piece = []


def _smoothed(values: Sequence[float], reach: int) -> list[float]:
    """Each value with those up to ``reach`` places beside it, as many on either side: what is smoothed does not lag."""
    smooth = []
    for at in range(len(values)):
        near = min(reach, at, len(values) - 1 - at)
        around = values[at - near : at + near + 1]
        smooth.append(math.fsum(around) / len(around))
    return smooth


@dataclass(frozen=True)
class _Axes:
    """Where a step and a value lie in the picture."""

    first: float
    last: float
    low: float  # its logarithm, where the axis is logarithmic
    high: float
    log: bool

    @classmethod
    def around(cls, spans: Sequence[Span], dots: Sequence[tuple[int, float]], log: bool, zero: bool) -> _Axes:
        values = [bound for span in spans for bound in (span.low, span.high)] + [value for _, value in dots]
        steps = [span.step for span in spans] + [float(step) for step, _ in dots]
        log = log and min(values) > _FLOOR
        low, high = min(values + [0.0] * zero), max(values)
        if log:
            low, high = math.log10(low), math.log10(high)
        room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
        first, last = min(steps), max(steps)
        return cls(first, last if last > first else first + 1, low if zero else low - room, high + room, log)

    def x(self, step: float) -> float:
        return _LEFT + (step - self.first) / (self.last - self.first) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        placed = math.log10(max(value, _FLOOR)) if self.log else value
        return HEIGHT - _BOTTOM - (placed - self.low) / (self.high - self.low) * (HEIGHT - _TOP - _BOTTOM)

    def value_ticks(self) -> list[float]:
        if not self.log:
            return ticks(self.low, self.high, 5)
        tens = range(math.floor(self.low), math.ceil(self.high) + 1)
        every = [times * 10.0**ten for ten in tens for times in ((1, 2, 5) if len(tens) < 4 else (1,))]
        inside = [value for value in every if self.low <= math.log10(value) <= self.high]
        return inside[:: math.ceil(len(inside) / 6) or 1]

    def step_ticks(self) -> list[float]:
        return [step for step in ticks(self.first, self.last, 6) if step == int(step)]


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round numbers between two."""
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    apart = next(size * times for times in (1, 2, 5, 10) if size * times >= rough)
    first = math.ceil(low / apart - 1e-9)
    return [number * apart for number in range(first, math.floor(high / apart + 1e-9) + 1)]
