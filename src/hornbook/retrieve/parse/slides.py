"""Presentations through python-pptx: a slide is a page; its title, text, lists, tables, charts, grouped shapes and notes.

Shapes are read in the order of the slide's tree, which is the order in which a screen reader speaks them. Hidden slides
are left out and numbered in the metadata; a picture gives its alternative text where somebody wrote one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hornbook.errors import ParseError
from hornbook.retrieve.parse.archive import Archive
from hornbook.retrieve.parse.builder import Builder, described, one_line
from hornbook.retrieve.parse.source import Source

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_MAX_DEPTH = 40  # groups in groups


def parse(source: Source, builder: Builder) -> None:
    import pptx
    from pptx.exc import PackageNotFoundError

    archive = Archive(source.data, "a presentation")
    try:
        presentation = pptx.Presentation(archive.stream())
    except (PackageNotFoundError, KeyError, ValueError) as error:
        raise ParseError(f"damaged presentation ({str(error)[:120]})") from error
    properties = presentation.core_properties
    title = one_line(properties.title or "")
    builder.title = "" if title == "PowerPoint Presentation" else title  # what PowerPoint writes by itself
    builder.metadata["author"] = properties.author or ""
    if properties.created:
        builder.metadata["date"] = properties.created.date().isoformat()
    hidden = []
    for number, slide in enumerate(presentation.slides, 1):
        if slide.element.get("show") in ("0", "false"):
            hidden.append(str(number))
            continue
        builder.page = number
        builder.leave()
        _slide(slide, number, builder)
    if hidden:
        builder.metadata["hidden slides"] = ", ".join(hidden)


def _slide(slide: Any, number: int, builder: Builder) -> None:
    title = slide.shapes.title
    if title is not None and title.text_frame.text.strip():
        builder.heading(_frame_text(title.text_frame))
    for shape in _shapes(slide.shapes, 0):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if getattr(shape, "has_table", False) and shape.has_table:
            builder.table([[one_line(_cell(cell)) for cell in row.cells] for row in shape.table.rows])
        elif getattr(shape, "has_chart", False) and shape.has_chart:
            _chart(shape.chart, builder)
        elif shape.has_text_frame:
            _frame(shape.text_frame, builder)
        elif words := described(_alternative(shape)):
            builder.add(words)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = _frame_text(slide.notes_slide.notes_text_frame)
        builder.add(notes, section=" > ".join(filter(None, (builder.section, "Notes"))))


def _shapes(shapes: Any, depth: int) -> Iterator[Any]:
    if depth > _MAX_DEPTH:
        raise ParseError("damaged presentation: nested too deeply")
    for shape in shapes:
        if shape.element.tag.endswith("}grpSp"):
            yield from _shapes(shape.shapes, depth + 1)
        else:
            yield shape


def _frame(frame: Any, builder: Builder) -> None:
    """Paragraphs; those with a level or a bullet as a list."""
    for paragraph in frame.paragraphs:
        text = _paragraph(paragraph)
        properties = paragraph._p.pPr
        bullet = properties is not None and any(
            properties.find(_A + name) is not None for name in ("buChar", "buAutoNum")
        )
        if text.strip() and (bullet or paragraph.level):
            builder.add("  " * paragraph.level + "- " + text.strip(), "list")
        else:
            builder.add(text)


def _frame_text(frame: Any) -> str:
    return "\n".join(filter(None, (_paragraph(p).strip() for p in frame.paragraphs)))


def _paragraph(paragraph: Any) -> str:
    """Runs, fields and breaks in order (python-pptx's own text leaves fields out)."""
    parts = []
    for element in paragraph._p.iter(_A + "t", _A + "br"):
        parts.append("\n" if element.tag == _A + "br" else element.text or "")
    return "".join(parts)


def _cell(cell: Any) -> str:
    return "" if cell.is_spanned else _frame_text(cell.text_frame)


def _chart(chart: Any, builder: Builder) -> None:
    """A chart as the table it draws: categories down, series across."""
    name = one_line(chart.chart_title.text_frame.text) if chart.has_title and chart.chart_title.has_text_frame else ""
    builder.add(f"Chart: {name}" if name else "")
    for plot in chart.plots:
        series = list(plot.series)
        rows = [["Category", *(one_line(str(one.name)) for one in series)]]
        columns = [list(one.values) for one in series]
        for at, category in enumerate(plot.categories):
            values = [column[at] if at < len(column) else None for column in columns]
            rows.append([one_line(str(category)), *("" if v is None else f"{v:.15g}" for v in values)])
        builder.table(rows)


def _alternative(shape: Any) -> str:
    for properties in shape.element.iter("{http://schemas.openxmlformats.org/presentationml/2006/main}cNvPr"):
        return properties.get("descr") or ""
    return ""
