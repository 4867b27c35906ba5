"""Where a task's questions lie: files that a person has, found by name, and read row by row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hornbook.data.compression import inner_suffix
from hornbook.data.records import Fault, records
from hornbook.errors import DataError
from hornbook.settings import Settings


class Row(NamedTuple):
    place: str  # "file, line 7", for messages
    number: int  # from 0
    value: Mapping[str, Any]


@dataclass(frozen=True)
class Data:
    """The folders that are looked through, in their order, subfolders too."""

    folders: tuple[Path, ...]

    @classmethod
    def load(cls, settings: Settings, *given: str | Path) -> Data:
        """What was given, then HORNBOOK_DATA (folders apart by the path separator), then ``data`` in Hornbook's home."""
        return cls((*(Path(one).expanduser() for one in given), *settings.data, settings.home / "data"))

    def find(self, task: str, *patterns: str) -> list[Path]:
        """The files of the first pattern that any folder has, by name. Raises DataError that says where was looked."""
        for pattern in patterns:
            for folder in self.folders:
                found = sorted(path for path in folder.rglob(pattern) if path.is_file()) if folder.is_dir() else []
                if found:
                    return found
        raise DataError(
            f"the questions of {task} are not here: none of {', '.join(patterns)} in {', '.join(map(str, self.folders))}",
            "Put the files in one of these folders, or name theirs with --data or HORNBOOK_DATA.",
        )


def rows(paths: Sequence[Path]) -> Iterator[Row]:
    """The rows of files: .jsonl, .json, .csv, .tsv, .parquet, packed or not. Raises DataError with file and line."""
    for path in paths:
        for record in records(path, inner_suffix(path), split="line"):
            value = record.value
            if isinstance(value, Fault):
                raise DataError(f"{path}, line {record.line}: {value.what}", value.remedy or "Mend the line.")
            if not isinstance(value, dict):
                raise DataError(f"{path}, line {record.line} is no row with names", "Give a table, or JSON objects.")
            yield Row(f"{path}, line {record.line}", record.number, value)


def field(row: Row, name: str, kind: type | tuple[type, ...]) -> Any:
    """A field of a row. Raises DataError where it is absent or something else."""
    value = row.value.get(name)
    if not isinstance(value, kind):
        has = f"holds {value!r:.60}" if name in row.value else f"is absent; there are {', '.join(map(str, row.value))}"
        raise DataError(f"{row.place}: the field {name} {has}", "Mend the row, or take the file the task is made for.")
    return value
