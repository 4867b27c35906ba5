"""A curve in a terminal: dots of braille where the terminal has them, stars elsewhere; every line within its width.

4.31 ⡇⢄
     ⠁⠈⠢⣀                  o  what was measured now and then
1.37      ⠑⠒⠤⢄⣀⣀o
     1                2,000
"""

from __future__ import annotations

from collections.abc import Sequence

from hornbook.cli.console import width as columns_of
from hornbook.train.plots import condense

# The bits of a braille character's dots, by row (from the top) and column.
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_BLANK = 0x2800


def draw(
    steps: Sequence[int],
    values: Sequence[float | None],
    dots: Sequence[tuple[int, float]],
    *,
    width: int,
    height: int,
    braille: bool = True,
) -> list[str]:
    """Lines of at most ``width`` columns, ``height`` of them and one for the steps; none where there is nothing to draw."""
    across, down = (2, 4) if braille else (1, 1)
    labels = 10
    columns = max(8, width - labels)
    spans = [span for span in condense(steps, values, columns * across) if span is not None]
    points = [(span.step, span.mean) for span in spans]
    everything = points + [(float(step), value) for step, value in dots]
    if not everything:
        return []
    low, high = min(value for _, value in everything), max(value for _, value in everything)
    first, last = min(step for step, _ in everything), max(step for step, _ in everything)

    def place(step: float, value: float) -> tuple[int, int]:
        x = (step - first) / ((last - first) or 1.0) * (columns * across - 1)
        y = (high - value) / ((high - low) or 1.0) * (height * down - 1)
        return round(x), round(y)

    cells = [[0] * columns for _ in range(height)]
    before: tuple[int, int] | None = None
    for x, y in (place(*point) for point in points):
        start = y if before is None or x - before[0] > across else before[1]  # joined with its neighbour
        for between in range(min(start, y), max(start, y) + 1):
            cells[between // down][x // across] |= _BITS[between % down][x % across] if braille else 1
        before = (x, y)
    lines = [[chr(_BLANK + bits) if braille and bits else " *"[bits] for bits in row] for row in cells]
    for x, y in (place(*dot) for dot in dots):
        lines[y // down][x // across] = "o"
    named = {0: f"{high:.4g}", height - 1: f"{low:.4g}"}
    drawn = [f"{named.get(row, ''):>{labels - 2}}  {''.join(line).rstrip()}" for row, line in enumerate(lines)]
    ends = f"{first:,.0f}", f"{last:,.0f}"
    gap = " " * max(1, columns - len(ends[0]) - len(ends[1]))
    return [*drawn, f"{'':{labels}}{ends[0]}{gap}{ends[1]}"]


def cropped(text: str, width: int) -> str:
    """A text of at most ``width`` columns, in which wide characters take two; what was cut is marked."""
    text = plain(text)
    if columns_of(text) <= width:
        return text
    while text and columns_of(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def plain(text: str) -> str:
    """On one line and without control characters, which a terminal would obey: names and models come from others."""
    return "".join(char if char.isprintable() else " " for char in text)


def can_braille(encoding: str | None) -> bool:
    """Whether what is written in an encoding can hold such dots."""
    try:
        "⣿".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
