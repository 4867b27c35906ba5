"""A file in, a Document out: one text, and pieces that know their page, section or line.

    document = parse("guide.docx")
    piece = document.pieces[3]
    document.text[piece.start : piece.end], piece.section        # "Run pip.", "Guide > Install"

Each format group is one small file with ``parse(source, builder)``; FORMATS is the whole dispatch. A file that cannot
be read raises ParseError, whose ``what`` is a short reason ("password protected"), whatever a library makes of it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from importlib import import_module
from pathlib import Path, PurePath
from typing import NamedTuple

from hornbook.errors import ParseError
from hornbook.retrieve.parse.builder import Builder
from hornbook.retrieve.parse.source import Source, looks_binary
from hornbook.types import Document

__all__ = ["FORMATS", "MAX_BYTES", "Format", "parse", "parse_bytes", "refusal", "supported_suffixes"]

MAX_BYTES = 64 * 2**20


class Format(NamedTuple):
    """A format group: the module of this package that parses it, its media type, and how a person calls it."""

    module: str
    media_type: str
    name: str


_OPEN_XML = "application/vnd.openxmlformats-officedocument"
_WORD = Format("word", f"{_OPEN_XML}.wordprocessingml.document", "Word document")
_SLIDES = Format("slides", f"{_OPEN_XML}.presentationml.presentation", "presentation")
_SHEETS = Format("sheets", f"{_OPEN_XML}.spreadsheetml.sheet", "workbook")
_PLAIN = Format("plain", "text/plain", "text file")
_MARKDOWN = Format("markdown", "text/markdown", "Markdown file")
_HTML = Format("html", "text/html", "HTML page")
_XML = Format("feed", "application/xml", "XML file")
_YAML = Format("code", "application/yaml", "YAML file")
_CODE = Format("code", "text/plain", "source file")

FORMATS: dict[str, Format] = {
    **dict.fromkeys([".txt", ".text", ".log"], _PLAIN),
    ".rst": Format("plain", "text/x-rst", "reStructuredText file"),
    ".org": Format("plain", "text/org", "Org file"),
    **dict.fromkeys([".md", ".markdown"], _MARKDOWN),
    **dict.fromkeys([".html", ".htm", ".xhtml"], _HTML),
    **dict.fromkeys([".xml", ".rss", ".atom"], _XML),
    ".pdf": Format("pdf", "application/pdf", "PDF"),
    **dict.fromkeys([".docx", ".docm"], _WORD),
    **dict.fromkeys([".pptx", ".pptm"], _SLIDES),
    **dict.fromkeys([".xlsx", ".xlsm"], _SHEETS),
    ".xls": Format("sheets", "application/vnd.ms-excel", "workbook"),
    ".csv": Format("delimited", "text/csv", "CSV file"),
    ".tsv": Format("delimited", "text/tab-separated-values", "TSV file"),
    ".json": Format("structured", "application/json", "JSON file"),
    **dict.fromkeys([".jsonl", ".ndjson"], Format("structured", "application/jsonl", "JSON lines file")),
    **dict.fromkeys([".yaml", ".yml"], _YAML),
    ".toml": Format("code", "application/toml", "TOML file"),
    ".epub": Format("epub", "application/epub+zip", "EPUB book"),
    ".odt": Format("opendocument", "application/vnd.oasis.opendocument.text", "OpenDocument text"),
    ".rtf": Format("rtf", "application/rtf", "RTF file"),
    ".ipynb": Format("notebook", "application/x-ipynb+json", "notebook"),
    ".eml": Format("mail", "message/rfc822", "mail message"),
    **dict.fromkeys(
        [
            *[".py", ".pyi", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx", ".c", ".h", ".cc", ".cpp", ".cxx", ".hpp"],
            *[".cs", ".rs", ".go", ".java", ".kt", ".kts", ".scala", ".swift", ".rb", ".php", ".pl", ".lua", ".r"],
            *[
                ".jl",
                ".sh",
                ".bash",
                ".zsh",
                ".ps1",
                ".sql",
                ".css",
                ".scss",
                ".vue",
                ".svelte",
                ".dart",
                ".ex",
                ".exs",
            ],
            *[".hs", ".clj", ".ml", ".tf", ".proto", ".graphql", ".ini", ".cfg", ".conf"],
        ],
        _CODE,
    ),
}

# Formats that a person may expect to work, and what to do instead.
_REFUSED = {
    ".doc": "old Word format is not supported: save it as .docx",
    ".dot": "old Word format is not supported: save it as .docx",
    ".ppt": "old PowerPoint format is not supported: save it as .pptx",
    ".pps": "old PowerPoint format is not supported: save it as .pptx",
    ".xlsb": "binary Excel format is not supported: save it as .xlsx",
    ".ods": "OpenDocument sheets are not supported: save it as .xlsx",
    ".odp": "OpenDocument slides are not supported: save it as .pptx",
    ".pages": "Pages documents are not supported: export it as .docx or .pdf",
    ".numbers": "Numbers sheets are not supported: export it as .xlsx",
    ".key": "Keynote slides are not supported: export it as .pptx",
    ".msg": "Outlook messages are not supported: save it as .eml",
    ".mobi": "Kindle books are not supported: convert it to .epub",
}


def supported_suffixes() -> list[str]:
    return sorted(FORMATS)


def parse(path: str | os.PathLike[str], *, max_bytes: int = MAX_BYTES) -> Document:
    """Parse one file. Raise ParseError when it is missing, too large, damaged, encrypted, or has no text."""
    path = Path(path)
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to must not wait; what is not a plain file is refused below
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ParseError("not a file", "Give a document or a folder of documents.")
            if reason := too_large(status.st_size, max_bytes):
                raise ParseError(reason)
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ParseError(f"cannot be read: {error.strerror or error}") from error
    if reason := too_large(len(data), max_bytes):  # it grew while it was read
        raise ParseError(reason)
    return parse_bytes(data, path)


def parse_bytes(data: bytes, path: str | os.PathLike[str]) -> Document:
    """Parse what a file holds; ``path`` names it and its suffix tells the format. Raise ParseError."""
    source = Source(Path(path), data)
    if not data.strip():
        raise ParseError("empty file")
    if reason := refusal(source.path, data[:8192]):
        raise ParseError(reason)
    format = FORMATS.get(source.suffix, _PLAIN)
    builder = Builder()
    try:
        import_module(f"{__name__}.{format.module}").parse(source, builder)
    except ParseError as error:  # a library's words inside may run over several lines
        raise ParseError(" ".join(error.what.split()), error.remedy) from error
    except RecursionError as error:
        raise ParseError(f"damaged {format.name}: nested too deeply") from error
    except MemoryError as error:
        raise ParseError(f"{format.name} needs more memory than there is") from error
    except Exception as error:  # a library met what its author did not expect: the file is at fault, and skipped
        raise ParseError(
            f"damaged {format.name} ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        ) from error
    if builder.empty:
        raise ParseError("no text found")
    identity = hashlib.sha256(Path(path).as_posix().encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return builder.document(id=identity, path=str(path), name=source.path.name, media_type=format.media_type)


def too_large(size: int, max_bytes: int) -> str:
    """The reason to refuse a file of ``size`` bytes, or ""."""
    if size <= max_bytes:
        return ""
    return f"{size / 2**20:,.1f} MB, the limit is {max_bytes / 2**20:,.0f} MB: raise --max-file-mb"


def refusal(path: PurePath, head: bytes) -> str:
    """Why a file of this name, beginning with ``head``, is of no format that can be read; "" when it can be tried.

    A name that says nothing ("README", "notes.2024") is judged by its bytes: text is parsed as text.
    """
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        return ""
    if suffix in _REFUSED:
        return _REFUSED[suffix]
    if looks_binary(head) and not head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
        return f"format not supported ({suffix})" if suffix else "binary file"
    return ""
