"""CSV and TSV: the separator is found in the file (comma, semicolon, tab, bar), quotes and line breaks inside hold."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from hornbook.errors import ParseError
from hornbook.retrieve.parse import grid
from hornbook.retrieve.parse.builder import Builder
from hornbook.retrieve.parse.source import Source

_SEPARATORS = ",;\t|"
_SAMPLE_ROWS = 50
_FIELD_LIMIT = 2**24  # characters of one cell; the csv module's own limit of 131,072 stops honest files


def parse(source: Source, builder: Builder) -> None:
    text = source.text.replace("\0", "")
    first, _, rest = text.partition("\n")
    skipped = 0
    if first.lower().startswith("sep=") and len(first.rstrip()) == 5:  # how a sheet program notes its separator
        separator, text, skipped = first[4], rest, 1
    else:
        separator = "\t" if source.suffix == ".tsv" else _separator(text)
    try:
        grid.write(_rows(text, separator, skipped), builder)
    except csv.Error as error:
        raise ParseError(f"damaged CSV file ({error})") from error


def _separator(text: str) -> str:
    """The sign that cuts the first rows into the most alike numbers of cells, more than one."""
    best = (0.0, 0.0, ",")
    for at, sign in enumerate(_SEPARATORS):
        widths = []
        try:
            for row in csv.reader(io.StringIO(text[:20_000], newline=""), delimiter=sign):
                if row:
                    widths.append(len(row))
                if len(widths) == _SAMPLE_ROWS:
                    break
        except csv.Error:
            continue
        if not widths or max(widths) == 1:
            continue
        common = max(set(widths), key=lambda width: (widths.count(width), width))
        if common > 1:
            best = max(best, (widths.count(common) / len(widths), -at / 10, sign))
    return best[2]


def _rows(text: str, separator: str, skipped: int) -> Iterator[tuple[int, Sequence[str]]]:
    """Rows with the number of the line that each begins on."""
    previous = csv.field_size_limit(_FIELD_LIMIT)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        line = 1 + skipped
        for row in reader:
            yield line, row
            line = reader.line_num + 1 + skipped
    finally:
        csv.field_size_limit(previous)
