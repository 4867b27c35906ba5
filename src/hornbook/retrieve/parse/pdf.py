"""PDF through pypdfium2: characters with their boxes, then lines, columns, paragraphs and headings (layout.py).

PDFium is the engine of a browser that opens hostile files all day, and is fuzzed as such; an ingest runs it in a
process of its own all the same (worker.py). A page that it cannot load is left out and said in the metadata; a file
without any text raises "no text found".
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from math import hypot
from typing import TYPE_CHECKING, Any

from hornbook.errors import ParseError
from hornbook.retrieve.parse import layout
from hornbook.retrieve.parse.builder import LATIN_LIGATURES, Builder, one_line
from hornbook.retrieve.parse.source import Source

if TYPE_CHECKING:
    import pypdfium2 as pdfium

_REASONS = {
    "password": ParseError("password protected", "Save a copy without a password."),
    "security": ParseError("password protected", "Save a copy without a password."),
}
_DATE = re.compile(r"D:(\d{4})(\d{2})?(\d{2})?")
_AMOUNT = re.compile(r"[$€£¥]\s*-?\d")
_HYPHENS = "\x02\ufffe"  # what PDFium puts for a hyphen at a line's end


def parse(source: Source, builder: Builder) -> None:
    import pypdfium2 as pdfium

    try:
        document = pdfium.PdfDocument(source.data)
    except pdfium.PdfiumError as error:
        reason = str(error).lower()
        for sign, known in _REASONS.items():
            if sign in reason:
                raise known from error
        raise ParseError("damaged PDF") from error
    try:
        _metadata(document, builder)
        if document.get_formtype() != 0:
            document.init_forms()
        pages, unreadable = [], []
        for number in range(len(document)):
            try:
                pages.append((number + 1, _page_lines(document, number)))
            except pdfium.PdfiumError:
                unreadable.append(number + 1)
    finally:
        document.close()
    if not any(lines for _, lines in pages):
        raise ParseError("damaged PDF" if unreadable and not pages else "no text found (scanned?)")
    if unreadable:
        builder.metadata["unreadable pages"] = ", ".join(map(str, unreadable))
    _write(pages, builder)


def _metadata(document: pdfium.PdfDocument, builder: Builder) -> None:
    info = document.get_metadata_dict(skip_empty=True)
    title = one_line(info.get("Title", ""))
    # what a word processor left behind ("Microsoft Word - draft3.doc", "untitled") is no title
    if title and not re.search(r"\.\w{2,4}$|^(untitled|microsoft word)|^\(anonymous\)|^\W*$", title, re.IGNORECASE):
        builder.title = title
    if (author := info.get("Author", "")) and author != "(anonymous)":
        builder.metadata["author"] = author
    if date := _DATE.match(info.get("CreationDate", "")):
        builder.metadata["date"] = "-".join(part for part in date.groups() if part)


def _page_lines(document: pdfium.PdfDocument, number: int) -> list[layout.Line]:
    """The lines of a page in reading order."""
    import pypdfium2.raw as raw

    page = document[number]
    try:
        if document.formenv is not None:
            raw.FPDFPage_Flatten(page, raw.FLAT_NORMALDISPLAY)  # so that what was typed into a form is text of the page
            page.close()
            page = document[number]
        textpage = page.get_textpage()
        try:
            spans = _spans(textpage.raw, raw)
        finally:
            textpage.close()
    finally:
        page.close()
    return layout.reading_order(layout.upright(spans))


def _spans(textpage: Any, raw: Any) -> list[layout.Span]:
    """Runs of characters that touch, in the order of the page's content stream.

    PDFium parts words by a space of its own making and lines by a newline; a gap much wider than a space parts the
    cells of a table or the columns of a page.
    """
    builder = layout.SpanBuilder()
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    refs = [ctypes.byref(value) for value in (left, right, bottom, top)]
    matrix = raw.FS_MATRIX()
    get_origin = raw.FPDFText_GetCharOrigin
    get_unicode, get_box = raw.FPDFText_GetUnicode, raw.FPDFText_GetCharBox
    get_size, get_angle, get_weight = raw.FPDFText_GetFontSize, raw.FPDFText_GetCharAngle, raw.FPDFText_GetFontWeight
    for at in range(raw.FPDFText_CountChars(textpage)):
        code = get_unicode(textpage, at)
        character = chr(code) if 0 < code < 0x110000 else ""
        if character in "\r\n":
            builder.end()
        elif character == " " or character == "\u00a0" or character == "\t":
            builder.space()
        elif character in _HYPHENS:
            builder.hyphen()
        elif character and get_box(textpage, at, *refs):
            starts = builder.add(character, left.value, right.value, bottom.value, top.value)
            if starts:
                get_origin(textpage, at, *refs[:2])
                origin = (left.value, right.value)
                # many producers set a font of one point and let the matrix enlarge it
                scale = hypot(matrix.c, matrix.d) if raw.FPDFText_GetMatrix(textpage, at, matrix) else 1.0
                builder.style(get_size(textpage, at) * scale, get_angle(textpage, at), get_weight(textpage, at), origin)
    return builder.finish()


def _write(pages: list[tuple[int, list[layout.Line]]], builder: Builder) -> None:
    sizes: Counter[float] = Counter()
    words: set[str] = set()
    for _, lines in pages:
        for line in lines:
            sizes[line.size] += len(line.text)
        words |= layout.whole_words(lines)
    body = sizes.most_common(1)[0][0]
    larger = sorted((size for size in sizes if size >= 1.12 * body), reverse=True)[:6]
    for number, lines in pages:
        builder.page = number
        for block in layout.blocks(lines):
            text = layout.join(block.lines, words).translate(LATIN_LIGATURES)
            if block.table:
                builder.table([line.text.translate(LATIN_LIGATURES).split(layout.CELL) for line in block.lines])
            elif _is_heading(block, text, body):
                size = block.lines[0].size
                builder.heading(text, 1 + (larger.index(size) if size in larger else len(larger)))
            else:
                builder.add(text)


def _is_heading(block: layout.Block, text: str, body: float) -> bool:
    """Larger than the body, or one bold line; short, with letters, and not the middle of a sentence."""
    if (
        len(block.lines) > 3
        or len(text) > 160
        or not re.search(r"[^\W\d_]{2}", text)
        or text.endswith((",", ";", "。"))
        or _AMOUNT.search(text)  # the total of a bill is set large, and is no heading
    ):
        return False
    if all(line.size >= 1.12 * body for line in block.lines):
        return True
    alone = len(block.lines) == 1 and not text.endswith((".", ":", "!", "?")) and len(text) < 90
    return alone and block.lines[0].bold and block.lines[0].size >= 0.98 * body
