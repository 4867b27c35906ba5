"""Rows of measures as an SVG of bars: no script, no font of its own, readable on light and dark grounds."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from hornbook.cli.benching.rows import Row

WIDTH, LABELS, BAR, GAP = 760, 300, 14, 18
COLOURS = ("#2a78b8", "#b8862a", "#6a9a3a", "#9a4a7a")


def figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def svg(rows: Sequence[Row], title: str) -> str:
    """Bars of the medians. Each row has a scale of its own: units differ, and programs are compared within a row."""
    shown = [row for row in rows if any(row.figures.values())]
    names = list(dict.fromkeys(name for row in shown for name in row.figures))
    y = 56.0
    body = [_text(12, 24, title, "bold")]
    for place, name in enumerate(names):
        x = 12 + 190 * place
        body += [_rect(x, 34, 10, 10, COLOURS[place % len(COLOURS)]), _text(x + 16, 43, name)]
    for row in shown:
        medians = {name: value for name in names if (value := row.median(name)) is not None}
        longest = max(max(medians.values()), 1e-9)
        better = "" if row.measure.more_is_better else ", less is better"
        body.append(_text(12, y + GAP, f"{row.measure.title} ({row.measure.unit}{better})"))
        for name, value in medians.items():
            length = max(1.0, (WIDTH - LABELS - 90) * max(value, 0) / longest)
            body.append(_rect(LABELS, y + 8, length, BAR - 3, COLOURS[names.index(name) % len(COLOURS)]))
            body.append(_text(LABELS + length + 6, y + 17, figure(value)))
            y += BAR
        y += GAP
    height = round(y + 12)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
    head += f'role="img" font-family="system-ui, sans-serif" font-size="12"><title>{escape(title)}</title>'
    ground = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    return "\n".join([head, ground, *body, "</svg>", ""])


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="#222" font-weight="{weight}">{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'
