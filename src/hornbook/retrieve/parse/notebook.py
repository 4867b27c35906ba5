"""Jupyter notebooks: Markdown as Markdown, code as code under its cell's number, outputs as the text they show."""

from __future__ import annotations

import json
import re
from typing import Any

from hornbook.errors import ParseError
from hornbook.retrieve.parse import html, markdown, structured
from hornbook.retrieve.parse.builder import Builder
from hornbook.retrieve.parse.source import Source

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_OUTPUT_CHARACTERS = 20_000  # a cell that printed more is shown cut, as notebooks do, and says so


def parse(source: Source, builder: Builder) -> None:
    try:
        notebook = structured.load(source.text)
    except json.JSONDecodeError as error:
        raise ParseError(f"damaged notebook ({error.msg}, line {error.lineno})") from error
    if not isinstance(notebook, dict):
        raise ParseError("damaged notebook (no cells)")
    metadata = _dict(notebook.get("metadata"))
    if isinstance(title := metadata.get("title"), str):
        builder.title = title
    cells = notebook.get("cells")
    if cells is None:  # format 3 kept cells in worksheets
        cells = [cell for sheet in _list(notebook.get("worksheets")) for cell in _list(_dict(sheet).get("cells"))]
    for number, cell in enumerate(_list(cells), 1):
        _cell(_dict(cell), number, builder)


def _cell(cell: dict[str, Any], number: int, builder: Builder) -> None:
    text = _text(cell.get("source", cell.get("input", "")))
    kind = cell.get("cell_type")
    if kind == "markdown":
        markdown.write(text, builder, first_line=None)
        return
    if kind == "heading":
        level = str(cell.get("level", "1"))
        builder.heading(text, int(level) if level in "123456" else 1)
        return
    section = " > ".join(filter(None, (builder.section, f"cell {number}")))
    if kind != "code":
        builder.add(text, section=section)
        return
    builder.add(text, "code", section=section)
    for output in _list(cell.get("outputs")):
        shown = _output(_dict(output))
        if len(shown) > _OUTPUT_CHARACTERS:
            shown = f"{shown[:_OUTPUT_CHARACTERS]}\n… ({len(shown) - _OUTPUT_CHARACTERS:,} more characters of output)"
        builder.add(shown, section=f"{section} > output")


def _output(output: dict[str, Any]) -> str:
    if output.get("output_type") in ("error", "pyerr"):
        return (
            _COLOUR.sub("", "\n".join(map(str, _list(output.get("traceback")))))
            or f"{output.get('ename')}: {output.get('evalue')}"
        )
    if "text" in output and "data" not in output:
        return _COLOUR.sub("", _text(output["text"]))
    data = _dict(output.get("data"))
    for media_type in ("text/plain", "text/markdown", "text/latex"):
        if media_type in data:
            return _COLOUR.sub("", _text(data[media_type]))
    return html.plain(_text(data["text/html"])) if "text/html" in data else ""


def _text(value: Any) -> str:
    return "".join(part for part in value if isinstance(part, str)) if isinstance(value, list) else str(value or "")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
