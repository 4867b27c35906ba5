"""What a parser writes into: one text that grows, and pieces that are exact spans of it.

    builder.heading("Install", level=2)         text: "Guide\\n\\nInstall\\n\\nRun pip."
    builder.add("Run pip.")                     piece: text[16:24], section "Guide > Install"

Text is cleaned *before* it is placed, so that a span, once given, holds: NFC, ``\\n`` line ends, no control, invisible
or unpaired characters. The same file therefore gives the same text and the same spans, always.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

from hornbook.types import Document, Piece

Kind = Literal["text", "heading", "table", "list", "code"]

# What a reader cannot see: C0 and C1 controls (tab and newline kept), soft hyphen, zero-width space and no-break space,
# directional marks and isolates, invisible operators, unpaired surrogates, noncharacters, and the tag characters in
# which text can be smuggled past a reader. The joiners U+200C and U+200D stay: Persian, Indic scripts and emoji need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")  # the ideographic space U+3000 is left: it is wide
_TRAILING = re.compile(r"(?<![ \t])[ \t]++(?=\n|\Z)")  # linear: begins and ends only where a run does
_BLANKS = re.compile(r"\n{3,}")
_RUNS = re.compile(r"\s+")
_DESCRIPTION = re.compile(r"\S \S|[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]{2}")  # two words, or two signs of a word
_PLACEHOLDER = re.compile(
    r"(?:图片|图像|图|圖片|画像|이미지|image|img|picture|photo|screenshot|logo|icon|figure)[\s\d._()-]*"
    r"|.*\.(?:png|jpe?g|gif|svg|webp|bmp)",
    re.IGNORECASE,
)
LATIN_LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}  # U+FB00 to U+FB06
)


def clean(text: str) -> str:
    """NFC, unix line ends, plain spaces, nothing invisible, no trailing spaces, at most one blank line in a row."""
    text = _SPACES.sub(" ", _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text)))
    return _BLANKS.sub("\n\n", _TRAILING.sub("", unicodedata.normalize("NFC", text)))


def one_line(text: str) -> str:
    """The text with every run of white space as one space: what a title, a cell or flowing markup means."""
    return _RUNS.sub(" ", clean(text)).strip()


def described(alternative: str) -> str:
    """The alternative text of a picture where somebody wrote one, "" for a placeholder ("图片") or a file's name."""
    words = one_line(alternative)
    return words if _DESCRIPTION.search(words) and not _PLACEHOLDER.fullmatch(words) else ""


class Builder:
    """Collects a document. Sections follow the headings that were added; ``page`` holds until it is set again."""

    def __init__(self) -> None:
        self.title = ""
        self.metadata: dict[str, str] = {}
        self.page: int | None = None
        self._parts: list[str] = []
        self._length = 0
        self._pieces: list[Piece] = []
        self._path: list[tuple[int, str]] = []  # (level, heading), levels rising

    @property
    def section(self) -> str:
        return " > ".join(heading for _, heading in self._path)

    @property
    def empty(self) -> bool:
        return not self._pieces

    def add(self, text: str, kind: Kind = "text", *, section: str | None = None, line: int | None = None) -> None:
        """Place a piece after a blank line (a list item that follows another: after a newline).

        ``section`` None: under the current headings. Text without a visible character places nothing. The indent of
        a list item or of code stands before the piece, so that every span begins and ends with a visible character.
        """
        text = clean(text)
        indent = text[: len(text) - len(text.lstrip())].rpartition("\n")[2] if kind in ("list", "code") else ""
        text = text.strip()
        if not text:
            return
        separator = indent
        if self._pieces:
            separator = ("\n" if kind == self._pieces[-1].kind == "list" else "\n\n") + indent
        self._parts.append(separator)
        self._length += len(separator)
        start, self._length = self._length, self._length + len(text)
        self._parts.append(text)
        where = self.section if section is None else one_line(section)
        self._pieces.append(Piece(start, self._length, kind, self.page, where, line))

    def heading(self, text: str, level: int = 1, *, line: int | None = None) -> None:
        """A heading, which also becomes the section of what follows; ``level`` 1 is the highest."""
        text = one_line(text)
        if not text:
            return
        self.enter(text, level)
        self.title = self.title or text
        self.add(text, "heading", line=line)

    def enter(self, text: str, level: int = 1) -> None:
        """Open a section without writing its name into the text."""
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        self._path.append((level, one_line(text)[:200]))

    def leave(self, level: int = 1) -> None:
        """Close every section from ``level`` down."""
        while self._path and self._path[-1][0] >= level:
            self._path.pop()

    def table(self, rows: Iterable[Sequence[str]], *, line: int | None = None) -> None:
        """One row a line, cells joined by " | ", rows without text left out; long tables as several pieces."""
        lines = [
            " | ".join(one_line(cell) for cell in row).strip() for row in rows if any(cell.strip() for cell in row)
        ]
        for first in range(0, len(lines), ROWS_A_PIECE):
            self.add("\n".join(lines[first : first + ROWS_A_PIECE]), "table", line=line)

    def document(self, *, id: str, path: str, name: str, media_type: str) -> Document:
        """Everything that was added; ``name`` stands in where nothing gave a title."""
        metadata = {key: text for key, value in self.metadata.items() if (text := one_line(value))}
        title = one_line(self.title)[:300] or name
        return Document(id, path, "".join(self._parts), tuple(self._pieces), title, media_type, metadata)


ROWS_A_PIECE = 25  # about one passage of a narrow table
