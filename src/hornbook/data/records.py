"""Files as records: one function for each format, none of which holds more than a record or a batch of rows in memory.

    .jsonl .ndjson    a JSON object a line; empty lines are passed over
    .json             an array of objects, or objects one after the other
    .csv .tsv         a row a record; .csv with quotes (RFC 4180), .tsv without (IANA text/tab-separated-values)
    .parquet          a row a record, read by batches; only the columns that some shape knows
    .txt .text .md    text: the whole file, or cut at blank lines or lines

A record is a dict, a text, a list of columns, or a Fault: what cannot be a record, at a line that the reader may skip.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, TypeAlias

from hornbook.data.compression import PACKED, opened
from hornbook.errors import DataError

LONGEST = 256 << 20  # bytes of one record: one line without an end must not take the machine's memory
Split: TypeAlias = Literal["file", "blank-line", "line"]
TEXT_SUFFIXES = (".txt", ".text", ".md")
_ROWS = 256  # of a Parquet file, at once
_CHUNK = 1 << 18
_SURROGATE = re.compile("[\ud800-\udfff]")


class Fault(NamedTuple):
    """Why something is no record, or no example; and what to do."""

    what: str
    remedy: str = ""


class Record(NamedTuple):
    line: int  # of the file, from 1, where the record begins; of Parquet the row
    number: int  # of the record, from 0
    value: dict[str, Any] | str | list[str] | Fault


def records(path: Path, format: str, *, split: Split, skip: int = 0, columns: Collection[str] = ()) -> Iterator[Record]:
    """The records of a file in order, but for the first ``skip``; of a table, the first row always.

    format   the suffix that names it     split    how a text is cut
    columns  those that are read of a Parquet file; none: all
    Raises DataError where the file cannot be read as a whole, or from some line on.
    """
    if format == ".parquet":
        yield from _parquet(path, skip, columns)
        return
    read = _TEXTS[split] if format in TEXT_SUFFIXES else _READERS[format]
    with opened(path) as file:
        try:
            yield from read(file, skip)
        except Broken as broken:
            raise DataError(f"{path}, line {broken.line}: {broken.what}", broken.remedy) from broken


class Broken(Exception):
    """A fault behind which the rest of a file cannot be told."""

    def __init__(self, line: int, what: str, remedy: str) -> None:
        super().__init__(what)
        self.line, self.what, self.remedy = line, what, remedy


# ---------------------------------------------------------------------------------------------------------- lines

_TOO_LONG = f"is longer than {LONGEST >> 20} MiB"
_NOT_UTF8 = "Save the file as UTF-8."


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered lines; only a line feed ends one. A byte order mark is taken away."""
    number = 0
    while line := file.readline(LONGEST + 1):
        number += 1
        if number == 1:
            if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise Broken(1, "the text is UTF-16, not UTF-8", _NOT_UTF8)
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > LONGEST:
            raise Broken(number, f"it {_TOO_LONG}", "Cut it into examples; text may also be cut at every line.")
        yield number, line


def _decoded(line: bytes) -> str | Fault:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return Fault(f"byte {error.start + 1} is not UTF-8", _NOT_UTF8)


def _json_lines(file: BinaryIO, skip: int) -> Iterator[Record]:
    full = ((number, line) for number, line in _lines(file) if not line.isspace())
    for at, (number, line) in enumerate(full):
        if at >= skip:
            text = _decoded(line)
            yield Record(number, at, text if isinstance(text, Fault) else _object(text))


def _object(text: str) -> dict[str, Any] | Fault:
    try:
        return _sound(json.loads(text), text)
    except RecursionError:
        return Fault("it is nested too deeply", "Write a JSON object a line.")
    except ValueError as error:
        return Fault(f"it is not JSON: {error}: {_shown(text)}", "Write a JSON object a line.")


def _sound(value: Any, text: str) -> dict[str, Any] | Fault:
    """A dict all of whose texts can be written down: JSON can escape half a character."""
    if not isinstance(value, dict):
        return Fault(f"it is not a JSON object: {_shown(text)}", 'Write an object such as {"text": "..."}.')
    if "\\u" in text and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        return Fault(
            f"it has half of a surrogate pair, which is no text: {_shown(text)}",
            "Write the character itself, or both halves.",
        )
    return value


def _shown(text: str) -> str:
    text = text.strip()
    return ascii(text[:60]) + "..." * (len(text) > 60) if _SURROGATE.search(text[:60]) else repr(text[:60])


def _file(file: BinaryIO, skip: int) -> Iterator[Record]:
    text = file.read(LONGEST + 1)
    if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise Broken(1, "the text is UTF-16, not UTF-8", _NOT_UTF8)
    if len(text) > LONGEST:
        raise Broken(1, f"the file {_TOO_LONG}, too long for one text", "Cut it: split: blank-line, or split: line.")
    try:
        decoded = text.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise Broken(line, f"byte {error.start + 1} of the file is not UTF-8", _NOT_UTF8) from error
    if decoded.strip() and not skip:
        yield Record(1, 0, decoded.replace("\r\n", "\n"))


def _blocks(file: BinaryIO, skip: int) -> Iterator[Record]:
    blocks = groupby(_lines(file), key=lambda line: line[1].isspace())
    full = (_gathered(lines) for blank, lines in blocks if not blank)
    for at, lines in enumerate(full):
        if at >= skip:
            text = _decoded(b"".join(line for _, line in lines))
            yield Record(lines[0][0], at, text if isinstance(text, Fault) else text.replace("\r\n", "\n").rstrip("\n"))


def _gathered(lines: Iterable[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    found, size = list[tuple[int, bytes]](), 0
    for number, line in lines:
        found.append((number, line))
        size += len(line)
        if size > LONGEST:
            raise Broken(found[0][0], f"the text that begins here {_TOO_LONG}", "Cut it at every line: split: line.")
    return found


def _text_lines(file: BinaryIO, skip: int) -> Iterator[Record]:
    full = ((number, line) for number, line in _lines(file) if not line.isspace())
    for at, (number, line) in enumerate(full):
        if at >= skip:
            yield Record(number, at, _decoded(line.rstrip(b"\r\n")))


# ----------------------------------------------------------------------------------------------------------- JSON


def _json(file: BinaryIO, skip: int) -> Iterator[Record]:
    """The objects of an array, or objects one after the other, as they come: the array need not fit in memory."""
    text = _Growing(file)
    if not text.fill():
        return
    array = text.peek() == "["
    if array:
        text.at += 1
    at = 0
    while (char := text.peek()) and not (array and char == "]"):
        if array and at:
            if char != ",":
                raise Broken(text.line(), f"a comma was expected between objects, not {char!r}", "Correct the JSON.")
            text.at += 1
            char = text.peek()
        line, record = text.line(), text.value()
        if at >= skip:
            yield Record(line, at, record)
        at += 1
    if array:
        if not text.peek():
            raise Broken(text.line(), "the array has no end", "Check that the file is whole.")
        text.at += 1
        if text.peek():
            raise Broken(text.line(), "something follows the end of the array", "Write an object a line (.jsonl).")


class _Growing:
    """A text of which what was read is forgotten, and more comes when it is needed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._text = ""
        self._ended = False
        self._counted, self._line = 0, 1  # line at that place
        self.at = 0

    def line(self) -> int:
        self._line += self._text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def fill(self, least: int = _CHUNK) -> bool:
        """Read on; False where nothing is left."""
        if self._ended:
            return False
        line = self.line()
        self._text, self.at, self._counted = self._text[self.at :], 0, 0
        more = self._file.read(least)
        if line == 1 and not self._text:
            if more.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise Broken(1, "the text is UTF-16, not UTF-8", _NOT_UTF8)
            more = more.removeprefix(codecs.BOM_UTF8)
        self._ended = not more
        try:
            self._text += self._decoder.decode(more, final=self._ended)
        except UnicodeDecodeError as error:
            where = line + self._text.count("\n") + error.object.count(b"\n", 0, error.start)
            raise Broken(where, "it is not UTF-8", _NOT_UTF8) from error
        return not self._ended

    def peek(self) -> str:
        """The next character that is no space; nothing at the end."""
        while True:
            while self.at < len(self._text):
                if not (char := self._text[self.at]).isspace():
                    return char
                self.at += 1
            if not self.fill():
                return ""

    def value(self) -> dict[str, Any] | Fault:
        """The object that begins here. It may be cut by the end of what was read so far: then more is read, twice as much
        each time, so that the work stays in proportion to its length."""
        least = _CHUNK
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self.at)
            except RecursionError as error:
                raise Broken(self.line(), "it is nested too deeply", "Correct the JSON.") from error
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - 16
                long = len(self._text) - self.at > LONGEST
                if cut and not long and self.fill(least):
                    least *= 2
                    continue
                if long:
                    raise Broken(self.line(), f"an object {_TOO_LONG}", "Cut it into examples.") from error
                where = self.line() + self._text.count("\n", self.at, error.pos)
                raise Broken(
                    where, f"it is not JSON: {error.msg}", "Correct the JSON, or check that the file is whole."
                ) from error
            text, self.at = self._text[self.at : end], end
            return _sound(value, text)


# --------------------------------------------------------------------------------------------------------- tables


def _csv(file: BinaryIO, skip: int) -> Iterator[Record]:
    first = file.peek(1 << 12)[: 1 << 12].split(b"\n")[0]  # type: ignore[attr-defined]
    separator = "," if b"," in first else next((mark for mark in ";\t" if mark.encode() in first), ",")
    return _rows(file, skip, delimiter=separator, strict=True)


def _tsv(file: BinaryIO, skip: int) -> Iterator[Record]:
    return _rows(file, skip, delimiter="\t", quoting=csv.QUOTE_NONE)


def _rows(file: BinaryIO, skip: int, **form: Any) -> Iterator[Record]:
    """Rows as lists of columns, the header, if there is one, among them: only a shape knows whether there is."""
    if csv.field_size_limit() < LONGEST:
        csv.field_size_limit(LONGEST)  # the module's own limit is for all its readers; ours is that of a line

    faults: list[Fault] = []

    def decoded() -> Iterator[str]:
        for _, line in _lines(file):
            text = _decoded(line)
            if isinstance(text, Fault):
                faults.append(text)
                text = line.decode(errors="replace")
            yield text

    reader, at = csv.reader(decoded(), **form), 0
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise Broken(line, f"it is no row: {error}", "Close every quote, and double those inside.") from error
        fault = faults.pop() if faults else None
        if row and (len(row) > 1 or row[0].strip()):
            if at >= skip or not at:
                yield Record(line, at, fault or row)
            at += 1


def _parquet(path: Path, skip: int, columns: Collection[str]) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    with tempfile.TemporaryFile() as plain:
        source: Any = path
        if path.suffix.lower() in PACKED:
            with opened(path) as packed:
                shutil.copyfileobj(packed, plain)
            source = plain
        try:
            with pyarrow.parquet.ParquetFile(source) as file:
                known = [name for name in file.schema_arrow.names if not columns or name in columns]
                if not known:
                    names = ", ".join(file.schema_arrow.names)
                    raise DataError(f"{path} has no column that a shape knows: {names}", "Map its columns with fields.")
                row, groups = 0, list(range(file.num_row_groups))
                while groups and row + file.metadata.row_group(groups[0]).num_rows <= skip:
                    row += file.metadata.row_group(groups.pop(0)).num_rows
                for batch in file.iter_batches(_ROWS, row_groups=groups, columns=known, use_threads=False):
                    for value in _rows_of(batch):
                        row += 1
                        if row > skip:
                            yield Record(row, row - 1, value)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else str(error).split("\n")[0]
            raise DataError(f"{path} cannot be read: {why}", "Check the path, and that the file is whole.") from error


def _rows_of(batch: Any) -> list[dict[str, Any] | Fault]:
    """The rows of a batch; those with a text that is not UTF-8, as some programs write them, one by one."""
    try:
        return [_pruned(row) for row in batch.to_pylist()]
    except UnicodeDecodeError as error:
        if len(batch) == 1:
            return [Fault(f"a text is not UTF-8: {error.reason}", "Write the column as UTF-8.")]
        return [row for at in range(len(batch)) for row in _rows_of(batch.slice(at, 1))]


def _pruned(value: Any) -> Any:
    """Without the fields that are null: in a column of objects, each has the fields of all, also of all calls' arguments."""
    if isinstance(value, dict):
        return {name: _pruned(inner) for name, inner in value.items() if inner is not None}
    return [_pruned(inner) for inner in value] if isinstance(value, list) else value


_READERS: dict[str, Callable[[BinaryIO, int], Iterator[Record]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
}
_TEXTS: dict[Split, Callable[[BinaryIO, int], Iterator[Record]]] = {
    "file": _file,
    "blank-line": _blocks,
    "line": _text_lines,
}
FORMATS = (*_READERS, ".parquet", *TEXT_SUFFIXES)
