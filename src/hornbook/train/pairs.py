"""Pairs of texts from a file: what is read and what is to be written, as translation data comes.

    .tsv, .txt     a line each: source, tab, target
    .jsonl         a line each: {"source": ..., "target": ...}
    .gz            either, compressed

A line that is not so is an error that names it; empty lines are passed over.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from hornbook.errors import DataError

SHAPES = {".tsv": "source, tab, target", ".jsonl": '{"source": "...", "target": "..."}'}


class Pair(NamedTuple):
    source: str
    target: str
    line: int  # of the file, from 1


def read_pairs(path: str | Path) -> list[Pair]:
    """All pairs of a file, in order. Raises DataError where it cannot be read, names a line that is no pair, or is empty."""
    path = Path(path)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    read = _json if ".jsonl" in suffixes[-2:] else _columns
    try:
        found = [Pair(*read(text, path, line), line) for line, text in _lines(path) if text.strip()]
    except (OSError, EOFError, zlib.error) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path} cannot be read: {why}", "Check the path, and that the file is whole.") from error
    if not found:
        raise DataError(f"{path} holds no pairs", f"Give a line for each: {SHAPES['.tsv']}.")
    return found


def hold_out(pairs: Sequence[Pair], count: int, random: Random) -> tuple[list[Pair], list[Pair]]:
    """Pairs to learn from, and ``count`` or a few more to be asked: no source is on both sides.

    Raises DataError where nothing would remain to learn from.
    """
    sources = list(dict.fromkeys(pair.source for pair in pairs))
    random.shuffle(sources)
    kept: dict[str, list[Pair]] = {}
    for pair in pairs:
        kept.setdefault(pair.source, []).append(pair)
    asked: list[Pair] = []
    while sources and len(asked) < count:
        asked += kept.pop(sources.pop())
    if not kept:
        raise DataError(
            f"{len(pairs)} pairs with {len(asked)} held out leave none to learn from", "Hold out fewer, or give more."
        )
    return [pair for pair in pairs if pair.source in kept], asked


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines; only a line feed ends one."""
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: byte {error.start + 1} is not UTF-8", "Save the file as UTF-8."
                ) from error
            yield number, text.rstrip("\r\n")


def _columns(text: str, path: Path, line: int) -> tuple[str, str]:
    columns = text.split("\t")
    if len(columns) != 2:
        found = "no tab" if len(columns) == 1 else f"{len(columns)} columns"
        raise DataError(f"{path}, line {line} has {found}: {text[:60]!r}", f"A line is {SHAPES['.tsv']}.")
    return _full(columns[0].strip(), columns[1].strip(), path, line)


def _json(text: str, path: Path, line: int) -> tuple[str, str]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}, line {line} is not JSON: {error}", f"A line is {SHAPES['.jsonl']}.") from error
    if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in ("source", "target")):
        raise DataError(
            f"{path}, line {line} has no texts named source and target: {text[:60]!r}",
            f"A line is {SHAPES['.jsonl']}.",
        )
    source, target = value["source"].strip(), value["target"].strip()
    if any("\ud800" <= char <= "\udfff" for char in source + target):  # JSON can escape half a character
        raise DataError(
            f"{path}, line {line} has half of a surrogate pair, which is no text: {text[:60]!r}",
            "Write the character itself, or both halves.",
        )
    return _full(source, target, path, line)


def _full(source: str, target: str, path: Path, line: int) -> tuple[str, str]:
    if not source or not target:
        raise DataError(
            f"{path}, line {line} has an empty {'target' if source else 'source'}", "Remove the line or complete it."
        )
    return source, target
