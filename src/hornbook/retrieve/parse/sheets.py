"""Workbooks (.xlsx, .xlsm, .xls) through calamine, sheet by sheet, with the cell range of every piece.

Values, not formulas, are read, dates as ISO dates; hidden sheets are left out and named in the metadata. calamine keeps
a sheet as one dense rectangle, so a file that claims a cell far away is measured before it is opened.
"""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterator, Sequence
from typing import IO, Any
from xml.parsers import expat

from hornbook.errors import ParseError
from hornbook.retrieve.parse import delimited, grid, html
from hornbook.retrieve.parse.archive import Archive
from hornbook.retrieve.parse.builder import Builder
from hornbook.retrieve.parse.compound import check_chains
from hornbook.retrieve.parse.source import Source

MAX_CELLS = 20_000_000  # of one sheet's rectangle: 640 MB inside calamine
SPARSE_CELLS = 2_000_000  # a larger rectangle must hold something in one of a hundred cells
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def parse(source: Source, builder: Builder) -> None:
    data = source.data
    if source.suffix == ".xls" and not data.startswith((_OLE, b"PK")):
        # what many programs export as "Excel" is a web page or separated text
        (html if data.lstrip()[:1] == b"<" else delimited).parse(source, builder)
        return
    if data.startswith(_OLE) and source.suffix == ".xls":
        check_chains(data)
        _write(io.BytesIO(data), builder)
        return
    archive = Archive(data, "a workbook")
    for name in archive.names:
        if name.lower().endswith(".xml"):  # a sheet may lie anywhere
            _measure(archive.read(name), name)
    if "docProps/core.xml" in archive.names:
        for element in archive.xml("docProps/core.xml").iter():
            tag = str(element.tag).rpartition("}")[2]
            if tag == "title" and element.text:
                builder.title = element.text
            elif tag in ("creator", "created") and element.text:
                builder.metadata["author" if tag == "creator" else "date"] = element.text[:100].partition("T")[0]
    _write(archive.stream(), builder)


def _measure(data: bytes, name: str) -> None:
    """Refuse a sheet whose rectangle calamine could not hold, or a table of strings that claims more than it has.

    calamine allocates what the file claims, and ends the whole program where there is no such memory.
    """
    columns = rows = 1
    filled = 0

    def element(tag: str, attributes: dict[str, str]) -> None:
        nonlocal columns, rows, filled
        local = tag.rpartition(":")[2]
        if local in ("c", "row"):
            place = attributes.get("r", "").replace("$", "").upper()
            letters = place.rstrip("0123456789")
            if letters.isascii() and len(letters) <= 8:
                at = 0
                for letter in letters:
                    at = at * 26 + ord(letter) - 64
                columns = max(columns, at)
            digits = place[len(letters) :]
            rows = max(rows, int(digits) if 0 < len(digits) < 20 else filled)
            filled += 1
        elif local == "sst":
            for claim in (attributes.get("uniqueCount", ""), attributes.get("count", "")):
                if claim.isdigit() and (len(claim) > 10 or int(claim) > 100 * len(data)):
                    raise ParseError(f"damaged workbook: claims {claim[:20]} strings in {len(data):,} bytes")

    parser = expat.ParserCreate()
    parser.StartElementHandler = element
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ParseError(f"damaged workbook: {name} is not well-formed XML ({error})") from error
    cells = rows * columns
    if cells > MAX_CELLS or (cells > SPARSE_CELLS and cells > 100 * filled):
        limit = MAX_CELLS if cells > MAX_CELLS else SPARSE_CELLS
        raise ParseError(f"a sheet claims {rows:,} rows by {columns:,} columns, the limit is {limit:,} cells")


def _write(file: IO[bytes], builder: Builder) -> None:
    import python_calamine as calamine

    hidden = []
    try:
        workbook = calamine.CalamineWorkbook.from_filelike(file)
        for about in workbook.sheets_metadata:
            if about.typ != calamine.SheetTypeEnum.WorkSheet:
                continue
            if about.visible != calamine.SheetVisibleEnum.Visible:
                hidden.append(about.name)
                continue
            sheet = workbook.get_sheet_by_name(about.name)
            grid.write(_rows(sheet), builder, sheet=about.name)
    except calamine.PasswordError as error:
        raise ParseError("password protected", "Save a copy without a password.") from error
    except calamine.CalamineError as error:
        raise ParseError(f"damaged workbook ({str(error)[:120]})") from error
    except BaseException as error:
        if type(error).__name__ == "PanicException":  # a Rust panic derives from BaseException alone
            raise ParseError("damaged workbook") from error
        raise
    if hidden:
        builder.metadata["hidden sheets"] = ", ".join(hidden)


def _rows(sheet: Any) -> Iterator[tuple[int, Sequence[str]]]:
    if sheet.start is None:
        return
    for number, row in enumerate(sheet.iter_rows(), 1):
        yield number, [_text(value) for value in row]


def _text(value: object) -> str:
    """A cell as its sheet would show it, numbers to the 15 digits that a sheet keeps."""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ", "seconds")
    return str(value)
