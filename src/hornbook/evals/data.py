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
from hornbook.types import Progress


class Row(NamedTuple):
    place: str  # "file, line 7", for messages
    number: int  # from 0
    value: Mapping[str, Any]
    path: Path = Path()


@dataclass(frozen=True)
class Data:
    """The folders that are looked through, in their order, subfolders too."""

    folders: tuple[Path, ...]

    @classmethod
    def load(cls, settings: Settings, *given: str | Path, progress: Progress | None = None) -> Data:
        """What was given, then HORNBOOK_DATA (folders apart by the path separator), then ``data`` in Hornbook's home.

        A data set of the hub, ``hf:datasets/ORG/NAME`` or ``hf:datasets/ORG/NAME:PART``, may be given like a folder, and is
        fetched into Hornbook's home where it is not there. Raises UsageError, OfflineError, DownloadError, StoreError.
        """
        kept = settings.home / "data"
        return cls(
            (*(_folder(Path(one).as_posix(), kept, settings.offline, progress) for one in given), *settings.data, kept)
        )

    def find(self, task: str, *patterns: str, hub: str = "") -> list[Path]:
        """The files of the first pattern that any folder has, by name. Raises DataError that says where was looked.

        A pattern is a name with ``*``, or the last parts of a path. hub: the data set that holds the files, as a remedy.
        """
        listed = [_listed(folder) for folder in self.folders]
        for pattern in patterns:
            for paths in listed:
                if found := [path for path in paths if path.match(pattern)]:
                    return found
        hint = f"--data hf:datasets/{hub} gets them from the hub. " if hub else ""
        raise DataError(
            f"the questions of {task} are not here: none of {', '.join(patterns)} in {', '.join(map(str, self.folders))}",
            f"{hint}Put the files in one of these folders, or name theirs with --data or HORNBOOK_DATA.",
        )


def _folder(given: str, kept: Path, offline: bool, progress: Progress | None) -> Path:
    if not given.startswith("hf:"):
        return Path(given).expanduser()
    from hornbook.checkpoint import data_sets

    return data_sets.ensure(given, kept, offline=offline, progress=progress)


def _listed(folder: Path) -> list[Path]:
    """All files below a folder, those in hidden folders left out, by name."""
    inside = len(folder.parts)
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.parts[inside:]))


def rows(paths: Sequence[Path], columns: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of files: .jsonl, .json, .csv, .tsv, .parquet, packed or not. Raises DataError with file and line.

    columns: of a table whose first line does not name them.
    """
    for path in paths:
        names, headed = list(columns), 0
        for record in records(path, inner_suffix(path), split="line"):
            value, place = record.value, f"{path}, line {record.line}"
            if isinstance(value, Fault):
                raise DataError(f"{place}: {value.what}", value.remedy or "Mend the line.")
            if isinstance(value, list) and not names:
                names, headed = value, 1
                continue
            if isinstance(value, list):
                if len(value) != len(names):
                    raise DataError(f"{place} has {len(value)} columns, not {len(names)}", "Mend the line.")
                value = dict(zip(names, value, strict=True))
            if not isinstance(value, dict):
                raise DataError(f"{place} is no row with names", "Give a table, or JSON objects.")
            yield Row(place, record.number - headed, value, path)


def field(row: Row, name: str, kind: type | tuple[type, ...]) -> Any:
    """A field of a row. Raises DataError where it is absent or something else."""
    value = row.value.get(name)
    if not isinstance(value, kind):
        has = f"holds {value!r:.60}" if name in row.value else f"is absent; there are {', '.join(map(str, row.value))}"
        raise DataError(f"{row.place}: the field {name} {has}", "Mend the row, or take the file the task is made for.")
    return value
