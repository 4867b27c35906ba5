"""Markdown (CommonMark with tables), as its reader sees it: without the signs, with the line of each block.

markdown-it-py makes the flat list of tokens; HTML inside Markdown goes to the HTML writer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hornbook.retrieve.parse import html
from hornbook.retrieve.parse.builder import Builder, described
from hornbook.retrieve.parse.source import Source

if TYPE_CHECKING:
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"(title|author|date)\s*:\s*(.+)", re.IGNORECASE)


def parse(source: Source, builder: Builder) -> None:
    text = source.text.replace("\r\n", "\n").replace("\r", "\n")
    skipped = 0
    if front := _FRONT_MATTER.match(text):  # of a static site: says what the page is, and is not shown
        for line in front.group(1).split("\n"):
            if field := _FIELD.fullmatch(line.strip()):
                name, value = field.group(1).lower(), field.group(2).strip("\"' ")
                if name == "title":
                    builder.title = value
                else:
                    builder.metadata[name] = value
        skipped = front.group(0).count("\n")
        text = text[front.end() :]
    write(text, builder, first_line=skipped + 1)


def write(text: str, builder: Builder, *, first_line: int | None = 1) -> None:
    """Write Markdown under the builder's current section. ``first_line`` None: lines mean nothing (a notebook's cell)."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    lists: list[int | None] = []  # open lists: the number of the next item, None for bullets
    marker = ""
    heading = 0
    rows: list[list[str]] = []
    table_line: int | None = None
    for token in tokens:
        line = None if first_line is None or not token.map else first_line + token.map[0]
        kind = token.type
        if kind in ("bullet_list_open", "ordered_list_open"):
            lists.append(int(token.attrs.get("start", 1)) if kind[0] == "o" else None)
        elif kind in ("bullet_list_close", "ordered_list_close"):
            lists.pop()
        elif kind == "list_item_open":
            number = lists[-1]
            marker = "  " * (len(lists) - 1) + ("- " if number is None else f"{number}. ")
            lists[-1] = None if number is None else number + 1
        elif kind == "heading_open":
            heading = int(token.tag[1])
        elif kind == "heading_close":
            heading = 0
        elif kind == "table_open":
            rows, table_line = [], line
        elif kind == "tr_open":
            rows.append([])
        elif kind == "table_close":
            builder.table(rows, line=table_line)
            rows = []
        elif kind == "inline":
            words = _inline(token.children or ())
            if rows:
                rows[-1].append(words)
            elif heading:
                builder.heading(words, heading, line=line)
            elif lists:
                builder.add(marker + words if words.strip() else "", "list", line=line)
                marker = ""
            else:
                builder.add(words, line=line)
        elif kind in ("fence", "code_block"):
            builder.add(token.content, "code", line=line)
        elif kind == "html_block":
            html.write_fragment(token.content, builder, line=line)


def _inline(tokens: Sequence[Token]) -> str:
    """The words of a run of inline tokens: link texts and descriptions of pictures stay, addresses go."""
    parts: list[str] = []
    for token in tokens:
        if token.type in ("text", "code_inline"):
            parts.append(token.content)
        elif token.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif token.type == "image":
            parts.append(described(_inline(token.children or ())))
        elif token.type == "html_inline" and token.content.lower().startswith("<br"):
            parts.append("\n")
    return "".join(parts)
