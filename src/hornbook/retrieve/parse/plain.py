"""Plain text, logs, reStructuredText and Org: paragraphs by blank lines, headings where the markup has them.

The words stay as they were written, markup too; only headings are recognised, because they say where one is.
"""

from __future__ import annotations

import re

from hornbook.retrieve.parse.builder import Builder
from hornbook.retrieve.parse.source import Source

_LINES_A_PIECE = 40  # a log or a poem without blank lines is cut here
_ADORNMENT = re.compile(r"([=\-`:.'\"~^_*+#<>])\1{2,}\s*")  # reStructuredText, "Sections"
_ORG_HEADING = re.compile(r"(\*+)\s+(?:(?:TODO|DONE)\s+)?(.+)")
_ORG_TAGS = re.compile(r":[\w@:]+:")
_ORG_KEYWORD = re.compile(r"#\+(\w+):\s*(.*)", re.IGNORECASE)


def parse(source: Source, builder: Builder) -> None:
    lines = source.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if source.suffix == ".rst":
        _parse_rst(lines, builder)
    elif source.suffix == ".org":
        _parse_org(lines, builder)
    else:
        _Paragraphs(builder).feed(lines, 1)


class _Paragraphs:
    """Cuts a run of lines into paragraphs, each with the number of its first line."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def feed(self, lines: list[str], number: int) -> None:
        paragraph: list[str] = []
        for offset, line in enumerate([*lines, ""]):
            if line.strip() and len(paragraph) < _LINES_A_PIECE:
                paragraph.append(line)
                continue
            if paragraph:
                self._builder.add("\n".join(paragraph), line=number + offset - len(paragraph))
            paragraph = [line] if line.strip() else []
        if paragraph:
            self._builder.add("\n".join(paragraph), line=number + len(lines) - len(paragraph))


def _parse_rst(lines: list[str], builder: Builder) -> None:
    """A title is a line underlined (and maybe overlined) by one repeated sign; a new style is a deeper level."""
    styles: list[tuple[str, bool]] = []
    paragraphs = _Paragraphs(builder)
    start = at = 0
    while at < len(lines):
        over = bool(_ADORNMENT.fullmatch(lines[at])) and at + 2 < len(lines) and lines[at + 1].strip() != ""
        over = over and lines[at + 2].rstrip() == lines[at].rstrip()
        title = at + 1 if over else at
        under = title + 1
        if under < len(lines) and lines[title].strip() and _ADORNMENT.fullmatch(lines[under]):
            long_enough = len(lines[under].rstrip()) >= min(len(lines[title].strip()), 4)
            blank_before = at == 0 or not lines[at - 1].strip()
            if long_enough and blank_before and not _ADORNMENT.fullmatch(lines[title]):
                paragraphs.feed(lines[start:at], start + 1)
                style = (lines[under][0], over)
                if style not in styles:
                    styles.append(style)
                builder.heading(lines[title].strip(), styles.index(style) + 1, line=title + 1)
                start = at = under + 1
                continue
        at += 1
    paragraphs.feed(lines[start:], start + 1)


def _parse_org(lines: list[str], builder: Builder) -> None:
    paragraphs = _Paragraphs(builder)
    start = 0
    for at, line in enumerate(lines):
        keyword, heading = _ORG_KEYWORD.fullmatch(line), _ORG_HEADING.fullmatch(line)
        if not keyword and not heading:
            continue
        paragraphs.feed(lines[start:at], start + 1)
        start = at + 1
        if heading:
            words, _, last = heading.group(2).strip().rpartition(" ")
            title = words if words and _ORG_TAGS.fullmatch(last) else heading.group(2)
            builder.heading(title, len(heading.group(1)), line=at + 1)
        elif keyword and (name := keyword.group(1).lower()) in ("title", "author", "date"):
            if name == "title":
                builder.title = keyword.group(2)
            else:
                builder.metadata[name] = keyword.group(2)
    paragraphs.feed(lines[start:], start + 1)
