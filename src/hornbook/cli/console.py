"""What the verbs share to speak: data to stdout, everything for a person to stderr, bars only on a terminal."""

from __future__ import annotations

import json
import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hornbook.types import Progress


def __getattr__(name: str) -> Any:
    """``console.err`` and ``console.out``: rich Consoles, made when first used; no markup, so any text is safe."""
    if name in ("err", "out"):
        from rich.console import Console

        made = Console(stderr=name == "err", highlight=False, markup=False, emoji=False, soft_wrap=True)
        globals()[name] = made
        return made
    raise AttributeError(name)


def say(text: str = "") -> None:
    """One line for a person, on stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """The stable form for programs, on stdout, in UTF-8 whatever the locale."""
    text = json.dumps(data, ensure_ascii=False, indent=2) + "\n"
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None:
        sys.stdout.write(text)
        return
    sys.stdout.flush()
    stream.write(text.encode("utf-8", "surrogatepass" if text.isascii() else "replace"))
    stream.flush()


def accent(text: str) -> str:
    """The one colour of stdout, for what a person follows: none where it is not a terminal or NO_COLOR is set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[36m{text}\x1b[0m"


def width(text: str) -> int:
    """Columns that a terminal gives a text: wide East Asian characters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def table(rows: Iterable[Sequence[str]], headers: Sequence[str] = ()) -> str:
    """Columns two spaces apart, the last one ragged; the same on a terminal and in a file."""
    body = [list(map(str, row)) for row in ([headers] if headers else []) + list(rows)]
    if not body:
        return ""
    widths = [max(width(row[i]) for row in body) for i in range(len(body[0]))]
    lines = []
    for row in body:
        cells = [cell + " " * (w - width(cell)) for cell, w in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def bytes_text(count: float) -> str:
    """1536 -> "1.5 kB", in powers of 1000 as disks and networks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


@contextmanager
def progress(unit: str = "") -> Iterator[Progress]:
    """A Progress callback ``(what, done, total)``: a bar with speed and ETA on a terminal, sparse lines elsewhere.

    ``unit="bytes"`` shows sizes and speed. Nothing is drawn for work that is over within half a second.
    """
    if sys.stderr.isatty():
        with _bar(unit) as report:
            yield report
    else:
        yield _Lines(unit)


@contextmanager
def _bar(unit: str) -> Iterator[Progress]:
    from rich import progress as rich_progress

    count: list[Any] = (
        [rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn()]
        if unit == "bytes"
        else [rich_progress.MofNCompleteColumn()]
    )
    bar = rich_progress.Progress(
        rich_progress.TextColumn("  {task.description}", markup=False),
        rich_progress.BarColumn(bar_width=28),
        *count,
        rich_progress.TimeRemainingColumn(),
        console=__getattr__("err"),
        transient=True,
    )
    began = time.monotonic()
    tasks: dict[str, Any] = {}
    ended = False

    def report(what: str, done: int, total: int) -> None:
        if ended or (not tasks and time.monotonic() - began < 0.5):
            return
        if not bar.live.is_started:
            bar.start()
        if what not in tasks:
            for task in tasks.values():
                bar.remove_task(task)
            tasks.clear()
            tasks[what] = bar.add_task(what, total=total or None)
        bar.update(tasks[what], completed=done, total=total or None)

    try:
        yield report
    finally:
        ended = True
        if bar.live.is_started:
            bar.stop()


class _Lines:
    """Progress where there is no terminal: a line at the start of long work and every ten seconds after."""

    def __init__(self, unit: str, every: float = 10.0) -> None:
        self.unit = unit
        self.every = every
        self.last = time.monotonic()
        self.begun = ("", self.last, 0)  # what, when, and how much of it was done then

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if self.begun[0] != what:
            self.begun = (what, now, done)
        if now - self.last < self.every:
            return
        self.last = now
        shown = bytes_text if self.unit == "bytes" else str
        say(f"  {what}: {shown(done)}" + (f" of {shown(total)}{self._left(now, done, total)}" if total else ""))

    def _left(self, now: float, done: int, total: int) -> str:
        _, when, first = self.begun
        if done <= first or done >= total:
            return ""
        seconds = (now - when) * (total - done) / (done - first)
        return f", about {seconds:.0f} s left" if seconds < 90 else f", about {seconds / 60:.0f} min left"
