"""``hornbook ingest`` and ``hornbook search``: an index without a language model. ``ask`` speaks with their words."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hornbook.cli import console
from hornbook.cli.models import fetch
from hornbook.errors import UsageError
from hornbook.retrieve.location import index_folder
from hornbook.settings import Settings
from hornbook.types import Hit, IngestReport

if TYPE_CHECKING:
    from hornbook.retrieve.index import Index


class SearchMode(Enum):
    hybrid = "hybrid"
    dense = "dense"
    sparse = "sparse"


def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders to read.", show_default=False)],
    index: Annotated[Path | None, typer.Option(help="Where the index lives. Default: under HORNBOOK_HOME.")] = None,
    embedder: Annotated[str | None, typer.Option(help="The embedding model.")] = None,
    max_file_mb: Annotated[float | None, typer.Option(help="Files above this are skipped, and said.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never open a socket.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Read files into an index, or bring it up to date: only what changed is read again."""
    settings = Settings.load(embedder=embedder, max_file_mb=max_file_mb, offline=offline or None)
    paths = existing(paths)
    fetch(settings, settings.embedder)
    with opened(paths, index, settings) as opened_index, console.progress() as progress:
        report = opened_index.ingest(paths, progress=progress)
        folder = opened_index.folder
    say_report(report, every_failure=True)
    if as_json:
        failed = [{"path": path, "reason": reason} for path, reason in report.failed]
        fields = ("added", "updated", "removed", "unchanged", "chunks", "seconds")
        console.print_json({**{name: getattr(report, name) for name in fields}, "failed": failed, "index": str(folder)})
    else:
        console.say(f"  index: {folder}")


def search(
    words: Annotated[
        list[str],
        typer.Argument(metavar='PATH... "QUERY"', help="Files and folders, then the query.", show_default=False),
    ],
    k: Annotated[int, typer.Option(min=1, help="How many passages.")] = 5,
    mode: Annotated[SearchMode, typer.Option(help="How passages are found.")] = SearchMode.hybrid,
    index: Annotated[Path | None, typer.Option(help="Where the index lives. Default: under HORNBOOK_HOME.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never open a socket.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the passages as JSON.")] = False,
) -> None:
    """Find passages without a language model. What changed on disk is read first."""
    paths, query = paths_and_question(words, have_index=index is not None)
    settings = Settings.load(offline=offline or None)
    fetch(settings, settings.embedder)
    with opened(paths, index, settings) as opened_index:
        if paths:
            with console.progress() as progress:
                report = opened_index.ingest(paths, progress=progress)
            if not as_json:
                say_report(report)
        hits = opened_index.search(query, k, mode=mode.value)
    if as_json:
        console.print_json([as_data(rank, hit) for rank, hit in enumerate(hits, 1)])
        return
    if not hits:
        console.say("  nothing found")
    for rank, hit in enumerate(hits, 1):
        print(f"[{rank}] {place(hit.document.path, hit.chunk.page, hit.chunk.section)} · {hit.score:.3f}")
        print(textwrap.fill(shorten(hit.chunk.text, 400), 100, initial_indent="    ", subsequent_indent="    "))


def as_data(rank: int, hit: Hit) -> dict[str, Any]:
    chunk = hit.chunk
    return {
        "rank": rank,
        "score": hit.score,
        "parts": dict(hit.parts),
        "path": hit.document.path,
        "page": chunk.page,
        "section": chunk.section,
        "line": chunk.line,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
    }


def paths_and_question(words: Sequence[str], *, have_index: bool) -> tuple[list[Path], str]:
    """``PATH... "question"``: the last word is the question. Without a path there must be an index."""
    *paths, question = words
    if not paths and not have_index:
        missing = "a question" if os.path.exists(question) else "a file or folder"
        raise UsageError(f"{missing} is missing", 'The form is: hornbook ask FOLDER "question".')
    if not question.strip():
        raise UsageError("the question is empty", 'The form is: hornbook ask FOLDER "question".')
    return existing(paths), question


def existing(paths: Sequence[str | Path]) -> list[Path]:
    """The paths, expanded. Raises UsageError where one is not there, before anything is made for it."""
    found = [Path(path).expanduser() for path in paths]
    for path in found:
        if not os.path.lexists(path):
            raise UsageError(f"{path} does not exist", "Check the path. A question of several words stands in quotes.")
    return found


@contextmanager
def opened(paths: Sequence[Path], folder: Path | None, settings: Settings) -> Iterator[Index]:
    """The index of these paths, or the one in ``folder``."""
    from hornbook.retrieve.index import Index

    with Index.open(folder or index_folder(paths, settings), settings=settings) as index:
        try:
            yield index
        finally:
            for notice in index.notices:
                console.say(f"  {notice}")


def say_report(report: IngestReport, *, every_failure: bool = False) -> None:
    """``indexed 42 files (3 new, 1 changed) · 1,204 passages · 0.9 s`` and what could not be read."""
    files = report.added + report.updated + report.unchanged
    changes = [
        f"{count} {word}"
        for count, word in ((report.added, "new"), (report.updated, "changed"), (report.removed, "gone"))
        if count
    ]
    changed = f" ({', '.join(changes)})" if changes else ""
    noun = "file" if files == 1 else "files"
    console.say(f"  indexed {files:,} {noun}{changed} · {report.chunks:,} passages · {report.seconds:.1f} s")
    if report.failed:
        count = len(report.failed)
        shown = report.failed if every_failure else report.failed[:3]
        named = ", ".join(f"{Path(path).name} ({reason})" for path, reason in shown)
        more = f" and {count - len(shown)} more" if count > len(shown) else ""
        console.say(f"  {count} {'file' if count == 1 else 'files'} could not be read: {named}{more}")


def place(path: str, page: int | None, section: str) -> str:
    """``training.pdf · p. 7`` or ``notes/run-2.md · Results``; the path relative to here where that is shorter."""
    try:
        shown = min(path, os.path.relpath(path), key=len)
    except ValueError:  # another drive
        shown = path
    parts = [shown, f"p. {page}" if page else "", section if not page else ""]
    return " · ".join(part for part in parts if part)


def shorten(text: str, limit: int) -> str:
    """One line of at most ``limit`` characters, cut at a space, with an ellipsis."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    cut = line[: limit - 1]
    space = cut.rfind(" ")
    return (cut[:space] if space > limit // 2 else cut) + "…"
