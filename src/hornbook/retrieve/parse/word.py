"""Word documents: python-docx opens the package and knows its parts and styles; the body is read in its order.

Read: paragraphs, headings by style, lists, tables (a merged cell once), text boxes, content controls, inserted text,
foot- and endnotes, headers and footers (once each), comments. Left out: deleted and hidden text, field codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hornbook.errors import ParseError
from hornbook.retrieve.parse.archive import Archive, xml
from hornbook.retrieve.parse.builder import Builder, one_line
from hornbook.retrieve.parse.source import Source

if TYPE_CHECKING:
    from docx.document import Document as WordDocument
    from lxml.etree import _Element

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_RELATED = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"
_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
_SKIPPED = {_W + name for name in ("del", "moveFrom", "instrText", "delText", "fldData", "pPr", "rPr", "annotationRef")}
_MAX_DEPTH = 60  # tables in text boxes in tables


def parse(source: Source, builder: Builder) -> None:
    import docx
    from docx.opc.exceptions import PackageNotFoundError

    archive = Archive(source.data, "a Word document")
    try:
        document = docx.Document(archive.stream())
    except (PackageNotFoundError, KeyError, ValueError) as error:
        raise ParseError(f"damaged Word document ({str(error)[:120]})") from error
    properties = document.core_properties
    builder.title = one_line(properties.title or "")
    builder.metadata["author"] = properties.author or ""
    if properties.created:
        builder.metadata["date"] = properties.created.date().isoformat()
    _Writer(document, builder).write()


class _Writer:
    def __init__(self, document: WordDocument, builder: Builder) -> None:
        self._document = document
        self._builder = builder
        self._levels = {style.style_id: level for style in document.styles if (level := _style_level(style))}
        body = document.element.body
        # Word notes where pages ended when it last laid the text out; without that, breaks set by hand are all there is
        self._rendered = next(body.iter(_W + "lastRenderedPageBreak"), None) is not None
        if self._rendered or any(_is_page_break(br) for br in body.iter(_W + "br")):
            builder.page = 1

    def write(self) -> None:
        for text in self._margins("header"):
            self._builder.add(text, section="Header")
        self._blocks(self._document.element.body, 0)
        self._builder.page = None
        for name, child in (("footnotes", "footnote"), ("endnotes", "endnote"), ("comments", "comment")):
            self._notes(name, child)
        for text in self._margins("footer"):
            self._builder.add(text, section="Footer")

    def _blocks(self, parent: _Element, depth: int) -> None:
        """Paragraphs and tables under ``parent``, looking into wrappers (content controls, custom XML, insertions)."""
        if depth > _MAX_DEPTH:
            raise ParseError("damaged Word document: nested too deeply")
        for child in parent:
            if child.tag == _W + "p":
                self._paragraph(child, depth)
            elif child.tag == _W + "tbl":
                self._table(child, depth)
            elif isinstance(child.tag, str) and child.tag not in _SKIPPED and child.tag != _W + "sectPr":
                self._blocks(child, depth + 1)

    def _paragraph(self, paragraph: _Element, depth: int) -> None:
        boxes: list[_Element] = []
        parts: list[str] = []
        ended = 0  # pages that ended inside the paragraph: it belongs to the one it begins on, so no sentence is cut
        for piece in _runs(paragraph, boxes):
            if isinstance(piece, str):
                parts.append(piece)
                continue
            if piece is _PAGE_BREAK:
                self._place(paragraph, "".join(parts))
                parts = []
            if (piece is _RENDERED_BREAK) == self._rendered:
                ended += 1
            if self._builder.page and not "".join(parts).strip():
                self._builder.page, ended = self._builder.page + ended, 0
        self._place(paragraph, "".join(parts))
        if self._builder.page:
            self._builder.page += ended
        for box in boxes:
            self._blocks(box, depth + 1)

    def _place(self, paragraph: _Element, text: str) -> None:
        properties = paragraph.find(_W + "pPr")
        style = _value(properties, "pStyle")
        outline = _value(properties, "outlineLvl")
        level = self._levels.get(style, 0) or (int(outline) + 1 if outline.isdigit() and int(outline) < 9 else 0)
        numbering = None if properties is None else properties.find(_W + "numPr")
        if level and len(text) <= 300:
            self._builder.heading(text, level)
        elif text.strip() and (numbering is not None or style.startswith("List")):
            indent = _value(numbering, "ilvl")
            self._builder.add("  " * min(int(indent) if indent.isdigit() else 0, 8) + "- " + text.strip(), "list")
        else:
            self._builder.add(text)

    def _table(self, table: _Element, depth: int) -> None:
        rows: list[list[str]] = []
        for row in _children(table, "tr"):
            cells: list[str] = []
            for cell in _children(row, "tc"):
                merged = cell.find(f"{_W}tcPr/{_W}vMerge")
                if merged is not None and merged.get(_W + "val", "continue") == "continue":
                    cells.append("")  # the cell above reaches down to here
                    continue
                boxes: list[_Element] = []
                words = [self._cell_text(part, boxes) for part in _paragraphs(cell)]
                cells.append(" ".join(word for word in words if word))
            rows.append(cells)
        if depth > _MAX_DEPTH:
            raise ParseError("damaged Word document: nested too deeply")
        if len(rows) == 1 and len(rows[0]) == 1:  # a frame around text
            for cell in _children(next(_children(table, "tr")), "tc"):
                self._blocks(cell, depth + 1)
            return
        self._builder.table(rows)

    def _cell_text(self, paragraph: _Element, boxes: list[_Element]) -> str:
        return one_line("".join(part for part in _runs(paragraph, boxes) if isinstance(part, str)))

    def _margins(self, kind: str) -> Iterator[str]:
        """The texts of the headers or footers, each once however many sections show it."""
        seen: set[str] = set()
        for part in self._parts(kind):
            for paragraph in _paragraphs(part):
                text = self._cell_text(paragraph, [])
                if text and text not in seen and not text.isdigit():
                    seen.add(text)
                    yield text

    def _notes(self, name: str, child: str) -> None:
        for part in self._parts(name):
            for note in part.iter(_W + child):
                if note.get(_W + "type") in ("separator", "continuationSeparator", "continuationNotice"):
                    continue
                text = "\n".join(filter(None, (self._cell_text(p, []) for p in _paragraphs(note))))
                author = note.get(_W + "author")
                self._builder.add(f"{author}: {text}" if author and text else text, section=name.capitalize())

    def _parts(self, kind: str) -> Iterator[_Element]:
        for relation in self._document.part.rels.values():
            if relation.reltype == _RELATED + kind and not relation.is_external:
                yield xml(relation.target_part.blob, kind)


_RENDERED_BREAK, _PAGE_BREAK = object(), object()


def _runs(paragraph: _Element, boxes: list[_Element]) -> Iterator[Any]:
    """The visible text of a paragraph in order, and its page breaks; text boxes are put aside in ``boxes``."""
    stack = list(reversed(paragraph))
    while stack:
        item = stack.pop()
        tag = item.tag
        if tag in _SKIPPED or not isinstance(tag, str):
            continue
        if tag in (_W + "t", _M + "t"):
            yield item.text or ""
        elif tag == _W + "lastRenderedPageBreak":
            yield _RENDERED_BREAK
        elif tag in (_W + "br", _W + "cr"):
            yield _PAGE_BREAK if _is_page_break(item) else "\n"
        elif tag in (_W + "tab", _W + "ptab"):
            yield "\t"
        elif tag == _W + "noBreakHyphen":
            yield "-"
        elif tag == _W + "txbxContent":
            boxes.append(item)
        elif tag == _MC + "AlternateContent":  # the same shape twice, for new and for old programs
            stack.extend(item[:1])
        elif tag == _W + "r" and _hidden(item):
            continue
        else:
            stack.extend(reversed(item))


def _hidden(run: _Element) -> bool:
    vanish = run.find(f"{_W}rPr/{_W}vanish")
    return vanish is not None and vanish.get(_W + "val", "true") not in ("0", "false", "off")


def _is_page_break(br: _Element) -> bool:
    return bool(br.get(_W + "type") == "page")


def _paragraphs(parent: _Element) -> Iterator[_Element]:
    """Every paragraph below, those in text boxes and inner tables too, but not the copy of a shape for old programs."""
    stack = [parent]
    while stack:
        item = stack.pop()
        if item.tag == _W + "p":
            yield item
        if item.tag != _MC + "Fallback":
            stack.extend(reversed(item))


def _children(parent: _Element, name: str) -> Iterator[_Element]:
    """Rows of a table or cells of a row, those inside content controls and insertions too; not of inner tables."""
    stack = list(reversed(parent))
    while stack:
        item = stack.pop()
        if item.tag == _W + name:
            yield item
        elif item.tag in (_W + "sdt", _W + "sdtContent", _W + "ins", _W + "customXml"):
            stack.extend(reversed(item))


def _value(parent: _Element | None, name: str) -> str:
    child = None if parent is None else parent.find(_W + name)
    return "" if child is None else child.get(_W + "val") or ""


def _style_level(style: Any) -> int:
    """The heading level that a paragraph style means, 0 for none; styles based on a heading inherit it."""
    for _ in range(10):
        if style is None or style.type != 1:
            return 0
        if style.name == "Title":
            return 1
        if match := _HEADING.fullmatch(style.name or ""):
            return int(match.group(1))
        style = style.base_style
    return 0
