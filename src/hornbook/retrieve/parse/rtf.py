"""RTF through striprtf, which gives plain lines; lines of cells become tables."""

from __future__ import annotations

import re

from hornbook.errors import ParseError
from hornbook.retrieve.parse.builder import Builder
from hornbook.retrieve.parse.source import Source

# striprtf puts the address of the last link of a line into the text, by a search that takes cubic time; the space, which
# only ends the control word, keeps it from that: as elsewhere a link's words stay and its address goes
_LINK = re.compile(r"(\\fldinst)\{", re.IGNORECASE)


def parse(source: Source, builder: Builder) -> None:
    from striprtf.striprtf import rtf_to_text

    if not source.data.lstrip().startswith(b"{\\rtf"):
        raise ParseError("damaged RTF file (it does not begin as one)")
    # RTF is ASCII by its own rule; bytes over 127 belong to the code page that the file names
    markup = _LINK.sub(r"\1 {", source.data.decode("latin-1"))
    text: str = rtf_to_text(markup, errors="replace")  # type: ignore[no-untyped-call]
    rows: list[list[str]] = []
    for line in [*text.split("\n"), ""]:
        stripped = line.strip()
        if stripped.endswith("|") and stripped.count("|") > 1:  # a row: each cell ends with a bar
            rows.append(stripped[:-1].split("|"))
            continue
        builder.table(rows)
        rows = []
        builder.add(line)
