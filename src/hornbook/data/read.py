"""Files of any format and any shape as examples, each error named by file and line.

for example in read([Source("chats.jsonl.gz"), Source("books/", shape="text", split="blank-line")]): ...

path --files--> files --records--> rows --fields--> our names --shape--> examples
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from hornbook.data.compression import PACKED, inner_suffix
from hornbook.data.example import Example, Place, Text
from hornbook.data.records import FORMATS, TEXT_SUFFIXES, Fault, Record, Split, records
from hornbook.data.shapes import COLUMNS, FIELDS, NEEDS, SHAPES, Shape, detect
from hornbook.data.turns import Unfit
from hornbook.errors import DataError, UsageError

Malformed: TypeAlias = Literal["stop", "skip"]
Skipped: TypeAlias = Callable[[Place, str], None]
_TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class Source:
    """Where examples come from.

    path    a file, a folder (all its data files, in the order of their names), or a glob
    shape   of its rows (`hornbook.data.shapes`); auto: told from each row's fields
    fields  the data's own names of columns -> ours; "answer.text" is a field inside a field
    weight  its share where sources are mixed      split   how a text is cut into examples
    Raises UsageError for a shape, a field or a weight that there is not.
    """

    path: str
    shape: Shape | Literal["auto"] = "auto"
    fields: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0
    split: Split = "file"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", str(self.path))
        shapes = ("auto", *SHAPES)
        if self.shape not in shapes:
            raise UsageError(f"there is no shape {self.shape!r} of data", f"The shapes are: {', '.join(shapes)}.")
        if self.split not in get_args(Split):
            raise UsageError(
                f"a text is not split by {self.split!r}", f"Split by one of: {', '.join(get_args(Split))}."
            )
        if not 0 < self.weight < float("inf"):
            raise UsageError(f"the weight of {self.path} is {self.weight}", "A weight is a number above 0.")
        unknown = sorted(set(self.fields.values()) - FIELDS)
        if unknown:
            raise UsageError(f"no shape has a field {unknown[0]!r}", f"The fields are: {', '.join(sorted(FIELDS))}.")


def read(
    sources: Sequence[Source], *, malformed: Malformed = "stop", skipped: Skipped | None = None
) -> Iterator[Example]:
    """The examples of all sources, in order. A malformed line stops with a DataError that names file and line; with
    ``malformed="skip"`` it is told to ``skipped`` and passed over. Raises DataError where nothing is left, too."""
    found, passed = False, list[str]()

    def pass_over(place: Place, why: str) -> None:
        if not passed:
            passed.append(f"; the first that was skipped: {place}: {why}")
        if skipped is not None:
            skipped(place, why)

    for source in sources:
        for path in files(source):
            for at in examples(path, source, malformed=malformed, skipped=pass_over):
                found = True
                yield at.example
    if not found:
        paths = ", ".join(source.path for source in sources) or "no source"
        raise DataError(f"no example was found in {paths}{''.join(passed)}", "Give at least one.")


def files(source: Source) -> list[Path]:
    """The files of a source, ordered by name. Raises DataError where there are none."""
    path = Path(source.path).expanduser()
    if path.is_dir():
        inside = (file for file in path.rglob("*") if not any(part[0] == "." for part in file.relative_to(path).parts))
        found = [file for file in inside if inner_suffix(file) in FORMATS and file.is_file()]
        if not found:
            raise DataError(f"the folder {path} holds no data files", f"Their suffixes are: {', '.join(FORMATS)}.")
    elif path.exists() or not has_magic(str(path)):
        if not path.exists():
            raise DataError(f"{path} does not exist", "Check the path; a relative one begins at the current folder.")
        found = [path]
    else:
        found = [Path(file) for file in glob(str(path), recursive=True) if Path(file).is_file()]
        if not found:
            raise DataError(
                f"no file matches {path}", "Check the pattern; a relative one begins at the current folder."
            )
    return sorted(found)


class At(NamedTuple):
    """An example, and where to go on behind it: the number of its record in the file, and its own among that record's."""

    record: int
    within: int
    example: Example


def examples(
    path: Path,
    source: Source,
    *,
    malformed: Malformed = "stop",
    skipped: Skipped | None = None,
    start: tuple[int, int] = (0, 0),
) -> Iterator[At]:
    """The examples of one file from ``start`` on: (record, example among the record's). Raises DataError."""
    rows, seen = _Rows(path, source), False
    for record in records(path, rows.format, split=source.split, skip=start[0], columns=rows.columns):
        seen = True
        place = Place(str(path), record.line)
        within = 0
        try:
            for example in rows.read(record, place):
                if (record.number, within) >= start:
                    yield At(record.number, within, example)
                within += 1
        except Unfit as unfit:
            if malformed == "stop":
                raise DataError(f"{place}: {unfit.what}", unfit.remedy) from unfit
            if skipped is not None and record.number >= start[0]:
                skipped(place, unfit.what)
    if not seen and start == (0, 0):
        if malformed == "stop":
            raise DataError(f"{path} is empty", "Remove it, or give at least one example.")
        if skipped is not None:
            skipped(Place(str(path), 1), "the file is empty")


class _Rows:
    """The records of one file as examples."""

    def __init__(self, path: Path, source: Source) -> None:
        self.path, self.source = path, source
        self.format = _format(path, source.shape)
        self.columns = FIELDS | {name for theirs in source.fields for name in (theirs, theirs.split(".")[0])}
        self.shape: Shape | None = source.shape if source.shape != "auto" else _told_by(source.fields)
        self._names: Sequence[str] | None = None  # of a table's columns
        self._shapes: dict[tuple[str, ...], Shape] = {}

    def read(self, record: Record, place: Place) -> Iterator[Example]:
        value = record.value
        if isinstance(value, Fault):
            raise Unfit(value.what, value.remedy)
        if isinstance(value, str):
            if self.shape not in (None, "text"):
                raise DataError(f"{self.path} holds text, not the shape {self.shape}", "Give JSON lines or a table.")
            yield Text(value, place)
            return
        if isinstance(value, list):
            if self._names is None and self._is_header(value):
                return
            value = self._named(value)
        row = self._ours(value) if self.source.fields else value
        yield from SHAPES[self.shape or self._detected(row)](row, place)

    def _detected(self, row: Mapping[str, Any]) -> Shape:
        key = tuple(name for name, value in row.items() if value is not None)
        if key not in self._shapes:
            self._shapes[key] = detect(key)
        return self._shapes[key]

    def _ours(self, row: Mapping[str, Any]) -> dict[str, Any]:
        fields = self.source.fields
        ours = {name: value for name, value in row.items() if name not in fields}
        return ours | {name: _column(row, theirs) for theirs, name in fields.items()}

    def _is_header(self, row: Sequence[str]) -> bool:
        """Settle the names of a table's columns by its first row, which they may be."""
        names = [name.strip() for name in row]
        twice = sorted({name for name in names if names.count(name) > 1} & self.columns)
        if twice:
            raise DataError(f"{self.path} has two columns named {twice[0]!r}", "Give each column a name of its own.")
        ours = {self.source.fields.get(name, name) for name in names}
        if any(needed <= ours for shape, needed in NEEDS if self.shape in (None, shape)):
            self._names = names
            return True
        if self.shape in COLUMNS and not self.source.fields:
            for columns in COLUMNS[self.shape]:
                if len(columns) == len(row) or columns is COLUMNS[self.shape][-1]:
                    self._names = columns
                    return False
        raise DataError(
            f"{self.path}, line 1 names no columns that {'the' if self.shape else 'a'} shape {self.shape or ''} has: "
            f"{', '.join(names)[:80]}".replace("  ", " "),
            "Name them in the first row, or map them with fields.",
        )

    def _named(self, row: Sequence[str]) -> dict[str, str]:
        assert self._names is not None
        if len(row) != len(self._names):
            shown = "\t".join(row)[:60]
            raise Unfit(
                f"it has {len(row)} column{'s' * (len(row) != 1)}, not {len(self._names)}: {shown!r}",
                f"A row is: {', '.join(self._names)}.",
            )
        return dict(zip(self._names, row, strict=True))


def _told_by(fields: Mapping[str, str]) -> Shape | None:
    """The shape that fields were mapped to, where they tell it alone."""
    try:
        return detect(fields.values()) if fields else None
    except Unfit:
        return None


def _column(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise Unfit(f"it has no column {name!r}: its fields are {', '.join(sorted(row))}", "Correct fields.")
        value = value[part]
    return value


def _format(path: Path, shape: str) -> str:
    suffix = inner_suffix(path)
    if suffix in TEXT_SUFFIXES and shape in ("pair", "labelled"):
        return ".tsv"  # as translation data comes
    if suffix in FORMATS:
        return suffix
    if shape == "text":
        return TEXT_SUFFIXES[0]
    raise DataError(
        f"the format of {path} cannot be told by its suffix",
        f"The suffixes are {', '.join(FORMATS)}, each also with {' or '.join(PACKED)}; with shape: text any file is text.",
    )
