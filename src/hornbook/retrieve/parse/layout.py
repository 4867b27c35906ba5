"""Where the words of a PDF page stand, read back into lines, columns and paragraphs.

    spans (runs of touching characters) -> upright -> rows -> columns -> lines in reading order -> blocks

Coordinates are in points, y upwards as in PDF. A page is cut into columns only where a gutter runs through it and
both sides read like prose, so that the columns of a table stay side by side.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections import Counter
from dataclasses import dataclass, field
from itertools import accumulate, groupby, pairwise
from math import pi
from statistics import median

CELL = "\x1f"  # unit separator: parts the cells of a row inside Line.text, never in a document
_CJK = (
    r"\u2e80-\u303f\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uff65\U00020000-\U0003ffff"
)
_CJK_EDGE = re.compile(rf"[{_CJK}]")
_ITEM = re.compile(r"(?:[•◦▪‣●○■□–—-]|\(?\d{1,3}[.)、]|\(?[a-zA-Z][.)]|[一二三四五六七八九十]+、)\s*\S")
_COMPOUND = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_WORD_END = re.compile(r"([^\W\d_]+)\Z")
_WORD_START = re.compile(r"[^\W\d_]+")
_FIGURE = re.compile(r"\d[\d.,:%)]*\Z")
_NARROW = 45  # characters: a till's receipt, narrower than a column of prose
_GUTTER_ROWS = 4  # rows that each side of a gutter must have
_PROSE = 18  # mean characters of a span of prose


@dataclass(slots=True)
class Span:
    """A run of characters on one line, without a wide gap."""

    text: str
    left: float
    right: float
    bottom: float
    top: float
    size: float = 0.0
    angle: float = 0.0  # radians, clockwise
    bold: bool = False
    origin: tuple[float, float] = (0.0, 0.0)  # where its first character sits on the baseline


@dataclass(slots=True)
class Line:
    """A row of a column: its spans, left to right. ``text`` parts wide gaps by CELL."""

    spans: list[Span]
    text: str = ""
    hyphenated: bool = False
    edge: float = 0.0  # where the lines of this column end at most
    left: float = field(init=False)
    right: float = field(init=False)
    bottom: float = field(init=False)
    top: float = field(init=False)
    base: float = field(init=False)
    size: float = field(init=False)
    bold: bool = field(init=False)

    def __post_init__(self) -> None:
        self.left, self.right = min(s.left for s in self.spans), max(s.right for s in self.spans)
        self.bottom, self.top = min(s.bottom for s in self.spans), max(s.top for s in self.spans)
        self.size = Counter({s.size: len(s.text) for s in self.spans}).most_common(1)[0][0]
        self.base = max(self.spans, key=lambda s: (s.size, len(s.text))).origin[1]
        self.bold = all(s.bold for s in self.spans)
        self.text = self.spans[0].text
        for before, after in pairwise(self.spans):
            gap = after.left - before.right
            close = gap < 0.15 * self.size or (gap < 0.6 * self.size and _no_space(before.text, after.text))
            self.text += ("" if close else CELL if gap > 1.2 * self.size else " ") + after.text
        self.hyphenated = self.text.endswith(HYPHEN)


@dataclass(slots=True)
class Block:
    lines: list[Line]
    table: bool = False


HYPHEN = "\x1e"  # a hyphen that the typesetter put at a line's end


class SpanBuilder:
    """Takes the characters of a page one by one, in the order of its content stream."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._open: Span | None = None
        self._space = False

    def end(self) -> None:
        self._open, self._space = None, False

    def space(self) -> None:
        self._space = True

    def hyphen(self) -> None:
        if self._open:
            self._open.text += HYPHEN
        self.end()

    def add(self, character: str, left: float, right: float, bottom: float, top: float) -> bool:
        """Place a character; True when it begins a span, whose style the caller then gives."""
        span = self._open
        if span is not None and span.size:
            gap = left - span.right
            along = bottom < span.top + 0.5 * span.size and top > span.bottom - 0.5 * span.size
            upright = abs(span.angle) < 0.1
            if not upright or (along and -0.5 * span.size - 1 <= gap <= 1.0 * span.size):
                span.text += f" {character}" if self._space else character
                span.left, span.right = min(span.left, left), max(span.right, right)
                span.bottom, span.top = min(span.bottom, bottom), max(span.top, top)
                self._space = False
                return False
        self._open = Span(character, left, right, bottom, top)
        self._spans.append(self._open)
        self._space = False
        return True

    def style(self, size: float, angle: float, weight: int, origin: tuple[float, float]) -> None:
        """How the span that was just begun is set: points, radians clockwise, 400 for regular, its place."""
        span = self._spans[-1]
        span.origin = origin
        height = max(abs(span.top - span.bottom), abs(span.right - span.left))
        # a size that nobody could read or print is a mistake of the producer: then the box tells
        span.size = round(size, 1) if 3 <= size <= 200 else round(max(height, 3.0) * 1.3, 1)
        span.angle, span.bold = angle if angle > 0 else 0.0, weight >= 600

    def finish(self) -> list[Span]:
        return [span for span in self._spans if span.text.strip()]


def upright(spans: list[Span]) -> list[Span]:
    """Turn the boxes so that most of the text runs left to right, however the page or its text is turned."""
    weights: Counter[int] = Counter()
    for span in spans:
        weights[round(span.angle / (pi / 2)) % 4] += len(span.text)
    quarters = weights.most_common(1)[0][0] if weights else 0
    for span in spans:
        for _ in range(quarters):  # text that runs downwards is turned up, by a quarter counter-clockwise each time
            span.left, span.right, span.bottom, span.top = -span.top, -span.bottom, span.left, span.right
            span.origin = (-span.origin[1], span.origin[0])
    return spans


def reading_order(spans: list[Span], depth: int = 0) -> list[Line]:
    """Lines from top to bottom, column by column where there are columns."""
    gutter = _gutter(spans) if depth < 3 else None
    if gutter is None:
        return _lines(spans)
    crossing = _lines([s for s in spans if s.left < gutter < s.right])
    # what stands across the gutter (a title, a wide figure's caption) parts the columns into bands
    bands: list[tuple[list[Span], list[Span]]] = [([], []) for _ in range(len(crossing) + 1)]
    heights = [-(line.bottom + line.top) / 2 for line in crossing]  # rising
    for span in spans:
        if not span.left < gutter < span.right:
            bands[bisect(heights, -(span.bottom + span.top) / 2)][span.left >= gutter].append(span)
    ordered: list[Line] = []
    for at, (left, right) in enumerate(bands):
        ordered += reading_order(left, depth + 1) + reading_order(right, depth + 1) + crossing[at : at + 1]
    return ordered


def blocks(lines: list[Line]) -> list[Block]:
    """Paragraphs, headings and tables."""
    steps: dict[float, list[float]] = {}
    for before, after in pairwise(lines):
        step = before.base - after.base
        if before.size == after.size and 0 < step < 4 * before.size:
            steps.setdefault(before.size, []).append(step)
    leading = {size: median(found) for size, found in steps.items()}
    found: list[Block] = []
    for line in lines:
        row = CELL in line.text
        last = found[-1] if found else None
        if last and row == last.table and (_next_row(last, line) if row else _continues(last, line, leading)):
            last.lines.append(line)
        else:
            found.append(Block([line], table=row))
    return found


def whole_words(lines: list[Line]) -> set[str]:
    """The words of the lines in lower case, without what a division at a line's end may have left of one."""
    words: set[str] = set()
    divided = False
    for line in lines:
        found = _COMPOUND.findall(line.text.lower())
        ends_divided = line.text.endswith((HYPHEN, "-"))
        words.update(found[1 if divided else 0 : len(found) - ends_divided])
        divided = ends_divided
    return words


def join(lines: list[Line], words: set[str]) -> str:
    """A paragraph's lines as flowing text. ``words``: the document's words in lower case, to mend divided ones."""
    text = ""
    for before, line in zip([None, *lines], lines, strict=False):
        after = line.text.replace(CELL, " ")
        if before is None:
            text = after
            continue
        left = _WORD_END.search(text.rstrip(HYPHEN + "-"))
        right = _WORD_START.match(after)
        if text.endswith((HYPHEN, "-")) and left and right and right.group()[0].islower():
            text = text[:-1] + _mend(left.group(), right.group(), words) + after
        elif text.endswith(HYPHEN):
            text = text[:-1] + "-" + after
        elif _breaks(before, line):
            text += "\n" + after
        else:
            text += ("" if _no_space(text, after) else " ") + after
    return text.replace(HYPHEN, "-")


def _mend(left: str, right: str, words: set[str]) -> str:
    """ "" where a word was divided, "-" where a compound was broken at its hyphen, as the document itself shows."""
    left, right = left.lower(), right.lower()
    if left + right in words:
        return ""
    if f"{left}-{right}" in words or (left in words and right in words and len(left) > 2 and len(right) > 3):
        return "-"
    return ""


def _lines(spans: list[Span]) -> list[Line]:
    rows: list[list[Span]] = []
    bottom = top = 0.0
    for span in sorted(spans, key=lambda s: (-(s.bottom + s.top), s.left)):
        overlap = min(top, span.top) - max(bottom, span.bottom)
        if rows and overlap > 0.5 * min(top - bottom, span.top - span.bottom):
            rows[-1].append(span)
        else:
            rows.append([span])
            bottom, top = span.bottom, span.top
    lines = [Line(sorted(row, key=lambda s: s.left)) for row in rows]
    edge = max((line.right for line in lines), default=0.0)
    for line in lines:
        line.edge = edge
    return lines


def _gutter(spans: list[Span]) -> float | None:
    """The x of a gutter between two columns of prose, or None."""
    if len(spans) < 2 * _GUTTER_ROWS:
        return None
    left, right = min(s.left for s in spans), max(s.right for s in spans)
    width = int(right - left) + 2
    if not 100 < width < 20_000:
        return None
    change = [0] * (width + 1)
    for span in spans:
        change[int(span.left - left)] += 1
        change[int(span.right - left) + 1] -= 1
    crossed = list(accumulate(change))[:width]
    middle = range(width // 5, width - width // 5)
    fewest = min(crossed[x] for x in middle)
    start, length = _longest([crossed[x] == fewest for x in middle])
    start += middle.start
    size = median(s.size for s in spans)
    gutter = left + start + length / 2
    first = [s for s in spans if s.right <= gutter]
    second = [s for s in spans if s.left >= gutter]
    if length < 0.6 * size or fewest > 0.25 * max(len(first), len(second)):
        return None
    for column in (first, second):
        rows = _lines(column)
        if len(rows) < _GUTTER_ROWS or sum(len(s.text) for s in column) < _PROSE * len(rows):
            return None
        wide = max(line.right for line in rows) - min(line.left for line in rows)
        if median(line.right - line.left for line in rows) < 0.5 * wide:
            return None
    return gutter


def _longest(flags: list[bool]) -> tuple[int, int]:
    """Start and length of the longest run of True."""
    best, at = (0, 0), 0
    for flag, group in groupby(flags):
        length = len(list(group))
        if flag and length > best[1]:
            best = (at, length)
        at += length
    return best


def _next_row(block: Block, line: Line) -> bool:
    return 0 < block.lines[-1].base - line.base < 3 * line.size


def _continues(block: Block, line: Line, leading: dict[float, float]) -> bool:
    """Whether a line goes on with the paragraph above it."""
    last, first = block.lines[-1], block.lines[0]
    if abs(last.size - line.size) > 0.1 * max(last.size, line.size) or last.bold != line.bold or _ITEM.match(line.text):
        return False
    step = last.base - line.base
    if step <= 0:  # the next column: the sentence may go on there
        return not _ended(last) and line.text[:1].islower()
    if step > 1.35 * min(leading.get(line.size, 1.3 * line.size), 2.4 * line.size):  # 2.4: double spacing
        return False
    if _ended(last) and (_breaks(last, line) or line.left > last.left + 0.8 * line.size):
        item = _ITEM.match(first.text) and last is first  # under a number or a bullet, text stands further in
        return bool(item) and not _breaks(last, line)
    return True


def _breaks(before: Line, after: Line) -> bool:
    """Whether the line was ended on purpose: the first word of the next would still have had room."""
    if after.bottom > before.top:
        return False
    centred = abs(before.left + before.right - after.left - after.right) < after.size
    if centred and abs(before.left - after.left) > after.size:
        return True
    if len(before.text) < _NARROW and _FIGURE.search(before.text) and after.text[:1].isupper():
        return True  # "SUBTOTAL $863.91" over "Sales Tax $66.23": entries, not a sentence
    word = after.text.split(maxsplit=1)[0] if after.text.strip() else ""
    if _CJK_EDGE.match(word):
        word = word[:1]
    room = before.edge - before.right
    return (
        not before.hyphenated
        and room > (len(word) + 1) * (after.right - after.left) / max(1, len(after.text)) + after.size
    )


def _ended(line: Line) -> bool:
    return line.text.rstrip("\"'”’)]」』）").endswith((".", "!", "?", ":", ";", "。", "！", "？", "：", "；", "…"))


def _no_space(before: str, after: str) -> bool:
    """Chinese and Japanese are set without spaces."""
    return bool(_CJK_EDGE.match(before[-1:]) and _CJK_EDGE.match(after[:1]))
