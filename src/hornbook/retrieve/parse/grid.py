"""Rows of cells as text that retrieves and cites well, whether they come from a workbook or from a CSV file.

    Team | Location | Stanley Cups                       the header, once
    Team: Blues | Location: STL | Stanley Cups: 1        a row, readable by itself

A row is what an answer cites, and a row alone ("Blues | STL | 1") says nothing: so each value stands under its name.
Where no header is found, a row is its cells joined by " | ". Blank rows part one table from the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hornbook.retrieve.parse.builder import Builder, one_line

_PIECE_CHARACTERS = 1000  # rows are gathered into pieces of about this size, so that a place stays exact
_PIECE_ROWS = 25
_LABEL = 60  # longer than this is no column's name
_NUMBER = re.compile(r"[-+(]?[$€£¥]?\s*\d[\d.,' ]*\s*%?\)?|\d{4}-\d\d-\d\d([T ].*)?|\d{1,2}[./:]\d{1,2}([./:]\d{1,4})?")


def write(rows: Iterable[tuple[int, Sequence[str]]], builder: Builder, *, sheet: str | None = None) -> None:
    """Write rows, each with its number (from 1) and its cells from column A on; "" is an empty cell.

    With ``sheet``, a piece's section is its range ("Sheet1!A2:C9"); without, its line is the number of its first row.
    """
    table: list[_Row] = []
    writer = _Writer(builder, sheet)
    for number, cells in rows:
        row = _Row(number, {at: text for at, cell in enumerate(cells) if (text := one_line(cell))})
        if not row.cells:
            writer.table(table)
            table = []
        elif len(table) < 2:
            table.append(row)  # the header is judged by the row under it
        elif writer.open:
            writer.row(row)
        else:
            writer.begin(table)
            writer.row(row)
        if len(table) == 2 and not writer.open:
            writer.begin(table)
    writer.table(table)


@dataclass(slots=True)
class _Row:
    number: int
    cells: dict[int, str]  # column from 0 -> text, empty ones left out


@dataclass
class _Writer:
    builder: Builder
    sheet: str | None
    header: dict[int, str] = field(default_factory=dict)
    open: bool = False
    lines: list[str] = field(default_factory=list)
    size: int = 0
    first: int = 0
    last: int = 0
    left: int = 1 << 30
    right: int = 0

    def begin(self, rows: list[_Row]) -> None:
        """A table begins with these two rows: a header and a row, or a caption and something, or two rows."""
        self.open = True
        head, below = rows
        if len(head.cells) == 1 and len(below.cells) > 1:  # a caption above the table: the header is to be found below
            self._line(head, next(iter(head.cells.values())))
            self.flush()
            self.open = False
            rows[:] = [below]
        elif _is_header(head, below):
            self.header = head.cells
            self._line(head, " | ".join(head.cells.values()))
            self.row(below)
        else:
            self.row(head)
            self.row(below)

    def row(self, row: _Row) -> None:
        cells = row.cells
        if self.header:
            text = " | ".join(f"{self.header[at]}: {cell}" if at in self.header else cell for at, cell in cells.items())
        else:
            text = " | ".join(cells.values())
        self._line(row, text)

    def table(self, rows: list[_Row]) -> None:
        """The table ends; ``rows`` is its beginning, which is all there is of a table of one row."""
        if not self.open:
            for row in rows:
                self.row(row)
        self.flush()
        self.header, self.open = {}, False

    def _line(self, row: _Row, text: str) -> None:
        if self.lines and (self.size + len(text) > _PIECE_CHARACTERS or len(self.lines) >= _PIECE_ROWS):
            self.flush()
        self.first = self.first or row.number
        self.last = row.number
        self.left, self.right = min(self.left, *row.cells), max(self.right, *row.cells)
        self.lines.append(text)
        self.size += len(text)

    def flush(self) -> None:
        if self.lines:
            place = None
            if self.sheet is not None:
                place = f"{self.sheet}!{column(self.left)}{self.first}"
                if (self.first, self.left) != (self.last, self.right):
                    place += f":{column(self.right)}{self.last}"
            self.builder.add("\n".join(self.lines), "table", section=place, line=None if self.sheet else self.first)
        self.lines, self.size, self.first, self.left, self.right = [], 0, 0, 1 << 30, 0


def column(number: int) -> str:
    """0 -> A, 25 -> Z, 26 -> AA."""
    letters = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def _is_header(head: _Row, below: _Row) -> bool:
    """Short, different, wordy cells over the columns that the row below fills.

    A table of words alone is taken to have a header too: nearly all have one, and its names then repeat themselves
    in the text, which does less harm than rows whose values nobody can name.
    """
    names = list(head.cells.values())
    return (
        len(names) >= 2
        and len(set(names)) == len(names)
        and all(len(name) <= _LABEL and not _NUMBER.fullmatch(name) for name in names)
        and len(set(below.cells) - set(head.cells)) <= (len(names) >= 3)  # row numbers often stand under no name
    )
