"""OpenDocument text (.odt): content.xml in its order; headings, lists, tables, notes and text boxes.

Left out: tracked deletions, and what a style hides. Comments (annotations) are kept, under "Comments".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hornbook.errors import ParseError
from hornbook.retrieve.parse.archive import Archive
from hornbook.retrieve.parse.builder import Builder, one_line
from hornbook.retrieve.parse.source import Source

if TYPE_CHECKING:
    from lxml.etree import _Element

_TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_DRAW = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
_META = {
    "{http://purl.org/dc/elements/1.1/}title": "title",
    "{http://purl.org/dc/elements/1.1/}creator": "author",
    "{http://purl.org/dc/elements/1.1/}date": "date",
}
_MAX_DEPTH = 100
_MAX_REPEAT = 100  # of spaces, and of cells: a row may claim a million


def parse(source: Source, builder: Builder) -> None:
    archive = Archive(source.data, "an OpenDocument text")
    manifest = "META-INF/manifest.xml"
    if manifest in archive.names and b"encryption-data" in archive.read(manifest):
        raise ParseError("password protected", "Save a copy without a password.")
    if "meta.xml" in archive.names:
        for element in archive.xml("meta.xml").iter(*_META):
            builder.metadata.setdefault(_META[element.tag], element.text or "")
        builder.title = builder.metadata.pop("title", "")
        if "date" in builder.metadata:
            builder.metadata["date"] = builder.metadata["date"].partition("T")[0]
    body = archive.xml("content.xml").find(f"{_OFFICE}body")
    if body is None:
        raise ParseError("damaged: content.xml has no body")
    writer = _Writer(builder)
    writer.blocks(body, 0)
    for kind, texts in (("Notes", writer.notes), ("Comments", writer.comments)):
        for text in texts:
            builder.add(text, section=kind)


class _Writer:
    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self.notes: list[str] = []
        self.comments: list[str] = []

    def blocks(self, parent: _Element, depth: int, lists: int = 0) -> None:
        if depth > _MAX_DEPTH:
            raise ParseError("damaged OpenDocument text: nested too deeply")
        for child in parent:
            tag = child.tag
            if tag == _TEXT + "h":
                level = child.get(_TEXT + "outline-level") or "1"
                frames: list[_Element] = []
                self._builder.heading(
                    self._words(child, frames), int(level) if level.isdigit() and len(level) < 3 else 1
                )
                self._frames(frames, depth)
            elif tag == _TEXT + "p":
                frames = []
                text = self._words(child, frames)
                if lists and text.strip():
                    self._builder.add("  " * min(lists - 1, 8) + "- " + text.strip(), "list")
                else:
                    self._builder.add(text)
                self._frames(frames, depth)
            elif tag == _TEXT + "list":
                self.blocks(child, depth + 1, lists + 1)
            elif tag == _TABLE + "table":
                self._table(child, depth)
            elif isinstance(tag, str) and tag not in (
                _TEXT + "tracked-changes",
                _TEXT + "sequence-decls",
                _OFFICE + "forms",
            ):
                self.blocks(child, depth + 1, lists)

    def _frames(self, frames: list[_Element], depth: int) -> None:
        for frame in frames:
            self.blocks(frame, depth + 1)

    def _table(self, table: _Element, depth: int) -> None:
        rows: list[list[str]] = []
        frames: list[_Element] = []
        for row in table.iter(_TABLE + "table-row"):
            cells: list[str] = []
            for cell in row:
                if cell.tag == _TABLE + "covered-table-cell":
                    cells.append("")
                elif cell.tag == _TABLE + "table-cell":
                    words = one_line(" ".join(self._words(p, frames) for p in cell.iter(_TEXT + "p", _TEXT + "h")))
                    cells += [words] * (_count(cell.get(_TABLE + "number-columns-repeated")) if words else 1)
            rows.append(cells)
        self._builder.table(rows)
        self._frames(frames, depth)

    def _words(self, paragraph: _Element, frames: list[_Element]) -> str:
        """The text of a paragraph; frames (text boxes) are put aside, notes and comments gathered."""
        parts: list[str] = [paragraph.text or ""]
        stack: list[_Element | str] = list(reversed(paragraph))
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                parts.append(item)
                continue
            tail = item.tail or ""
            tag = item.tag
            if tag == _TEXT + "s":
                parts.append(" " * _count(item.get(_TEXT + "c")))
            elif tag == _TEXT + "tab":
                parts.append("\t")
            elif tag == _TEXT + "line-break":
                parts.append("\n")
            elif tag == _TEXT + "note":
                self.notes.append(one_line(" ".join(item.itertext())))
            elif tag == _OFFICE + "annotation":
                self.comments.append(one_line(" ".join("".join(p.itertext()) for p in item.iter(_TEXT + "p"))))
            elif tag == _DRAW + "frame":
                frames.append(item)
            elif isinstance(tag, str):
                parts.append(item.text or "")
                stack.append(tail)
                stack.extend(reversed(item))
                continue
            parts.append(tail)
        return "".join(parts)


def _count(value: str | None) -> int:
    return min(int(value), _MAX_REPEAT) if value and value.isdigit() and len(value) < 10 else 1
