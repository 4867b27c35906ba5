"""Scores as a table for a terminal: of one model, or of two beside each other and what lies between them.

    task           items  shots  metric     value          95 % interval
    arc_challenge  1,172      0  acc        28.67  ± 1.32  26.16 … 31.32
                                 acc_norm   31.14  ± 1.35  28.55 … 33.85

Columns are left out from the least needed on until the table fits; where there is no terminal it is as wide as it has to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, TypeAlias

from hornbook.evals.shown import chance, error, interval, name, number

if TYPE_CHECKING:
    from hornbook.evals.compare import Difference
    from hornbook.evals.outcome import Figure, Outcome, Result

CERTAIN = 0.05
_Cell: TypeAlias = "str | tuple[str, str]"  # with its colour
_WIDE = 10_000


@dataclass(frozen=True)
class _Column:
    title: str
    left: bool = False  # aligned
    keep: int = 0  # 0: always; the higher, the sooner it is left out


_ONE = (
    _Column("task", True), _Column("items", keep=2), _Column("shots", keep=4), _Column("metric", True), _Column("value"),
    _Column("", True, 1), _Column("95 % interval", True, 3),
)  # fmt: skip


def scores(outcome: Outcome, *, groups: bool = False, width: int | None = None, colour: bool = False) -> str:
    """One model's. ``groups``: the parts of tasks too. ``width``: columns of the terminal; None: no limit."""
    rows: list[list[_Cell]] = []
    for result in outcome.results:
        for place, figure in enumerate(result.figures):
            first = ["", "", ""] if place else [result.task, f"{result.items:,}", _shots(result)]
            rows.append([*first, *_figure(figure)])
        for group in result.groups if groups else ():
            rows.append([f"  {group.name}", f"{group.items:,}", "", *_figure(group.figures[0])])
    return _table(_ONE, rows, width, colour)


def compared(
    before: Outcome,
    after: Outcome,
    differences: Sequence[Difference],
    *,
    width: int | None = None,
    colour: bool = False,
) -> str:
    """Two models', and how sure the difference between them is. ``differences``: of evals.compare."""
    columns = (
        _Column("task", True), _Column("items", keep=3), _Column("metric", True), _Column(before.model.name, keep=1),
        _Column(after.model.name, keep=1), _Column("difference"), _Column("95 % interval", True, 2), _Column("p"),
        _Column("better", keep=4), _Column("worse", keep=4),
    )  # fmt: skip
    rows: list[list[_Cell]] = []
    said = ""
    for one in differences:
        good = (one.value > 0) == one.higher_is_better
        flips = bool(one.better or one.worse)
        rows.append([
            one.task if one.task != said else "", f"{one.items:,}" if one.task != said else "",
            name(one.metric, one.higher_is_better), number(one.before, one.percent), number(one.after, one.percent),
            (number(one.value, one.percent, signed=True), ("green" if good else "red") if one.p <= CERTAIN else ""),
            interval(one.low, one.high, one.percent, signed=True), chance(one.p),
            f"{len(one.better):,}" if flips else "", f"{len(one.worse):,}" if flips else "",
        ])  # fmt: skip
        said = one.task
    return _table(columns, rows, width, colour)


def _figure(figure: Figure) -> list[str]:
    return [
        name(figure.name, figure.higher_is_better),
        number(figure.value, figure.percent),
        error(figure.stderr, figure.percent),
        interval(figure.low, figure.high, figure.percent),
    ]


def _shots(result: Result) -> str:
    least = min(result.fewer.values(), default=result.shots)
    return f"{result.shots}" if least == result.shots else f"{least}–{result.shots}"


# ---------------------------------------------------------------------------------------------------------- drawing


def _table(columns: Sequence[_Column], rows: Sequence[Sequence[_Cell]], width: int | None, colour: bool) -> str:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    console = Console(
        file=StringIO(), width=width or _WIDE, force_terminal=colour, color_system="standard" if colour else None
    )
    for kept in _fewer(columns):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim" if colour else "")
        for at in kept:
            left = columns[at].left
            table.add_column(Text(_plain(columns[at].title)), justify="left" if left else "right", overflow="fold")
        for row in rows:
            cells = [row[at] for at in kept]
            table.add_row(
                *(Text(_plain(one)) if isinstance(one, str) else Text(_plain(one[0]), one[1]) for one in cells)
            )
        if width is None or Measurement.get(console, console.options.update(width=_WIDE), table).maximum <= width:
            break
    with console.capture() as drawn:
        console.print(table)
    return "\n".join(line.rstrip() for line in drawn.get().splitlines())


def _fewer(columns: Sequence[_Column]) -> Iterator[list[int]]:
    """The places of all columns, then of fewer and fewer."""
    for most in sorted({column.keep for column in columns}, reverse=True):
        yield [at for at, column in enumerate(columns) if column.keep <= most]


def _plain(text: str) -> str:
    """A name as it can do no harm to a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
