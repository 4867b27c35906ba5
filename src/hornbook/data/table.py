"""An encoded set on disk, read through the memory map: it may be larger than memory, and is encoded once.

    FOLDER/table.json      format, fingerprint, account, the names of the source files
           ids.bin         uint16, or int32 where the vocabulary is larger: all rows one behind another
           flags.bin       uint8 a token: 1 learnt, 2 of the second text, 4 begins a sentence, 8 begins a word
           rows.npy        int64 [n+1]: where each row starts
           numbers.npy     int32 [n,3]: label, file, line; -1 where there is none
           targets.bin, target_rows.npy      the same two for the targets of pairs

It is written beside its place and renamed when whole and on disk: what has a name is complete. A table is used again
when its fingerprint is the same, which is made of the files' bytes and of all that the encoder does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from array import array
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np

from hornbook.data.encoded import SENTENCE, Account, Bits, Encoded
from hornbook.data.example import Place
from hornbook.errors import DataError, StoreError

FORMAT = 1
STALE = 3600  # seconds
LEARNT, SECOND, STARTS = 1, 2, 2  # flags; those of Encoded.starts stand two bits higher


def fingerprint(files: Iterable[Path], *said: str) -> str:
    """What a table is made of: the bytes of files, in this order, and whatever else is ``said``."""
    digest = hashlib.sha256(json.dumps([FORMAT, *said]).encode())
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class Table:
    """Encoded rows by number. ``lengths`` int64 [n]: each row's ids. ``target_lengths``: of its target, or 0."""

    def __init__(self, folder: Path, said: dict[str, Any]) -> None:
        self.folder = folder
        self.fingerprint: str = said["fingerprint"]
        self.account = Account.from_json(said["account"])
        self._files: list[str] = said["files"]
        self._rows, self._numbers = np.load(folder / "rows.npy"), np.load(folder / "numbers.npy")
        self._ids = _mapped(folder / "ids.bin", said["dtype"], self._rows[-1])
        self._flags = _mapped(folder / "flags.bin", "uint8", self._rows[-1])
        self.lengths = np.diff(self._rows)
        self.target_lengths = np.zeros_like(self.lengths)
        self._target_rows = None
        if said["targets"]:
            self._target_rows = np.load(folder / "target_rows.npy")
            self._targets = _mapped(folder / "targets.bin", said["dtype"], self._target_rows[-1])
            self.target_lengths = np.diff(self._target_rows)
        self.documents: bool = said["documents"]  # rows with starts, to be masked

    @classmethod
    def write(
        cls, folder: str | Path, rows: Iterable[Encoded], *, fingerprint: str, account: Account, vocab_size: int
    ) -> Table:
        """Write a table and open it; ``account`` is what the encoder counts while ``rows`` are drawn from it.

        Raises DataError where there is nothing to learn, StoreError where the disk does not take it; nothing is left
        of it then. A table that another process has made there meanwhile, with the same fingerprint, is used.
        """
        folder = Path(folder)
        part = _beside(folder)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            part.mkdir()
            said = _write(part, rows, "uint16" if vocab_size <= 1 << 16 else "int32")
            account.check()
            said |= {"format": FORMAT, "fingerprint": fingerprint, "account": account.to_json()}
            with (part / "table.json").open("w", encoding="utf-8") as file:
                json.dump(said, file, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            _put(part, folder, fingerprint)
        except OSError as error:
            raise StoreError(
                f"the encoded data cannot be written to {folder}: {error.strerror or error}",
                "Make room on the disk, or choose another folder.",
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Table:
        """Raises DataError where there is none, or it is damaged."""
        folder = Path(folder)
        try:
            said = json.loads((folder / "table.json").read_text("utf-8"))
            if said["format"] != FORMAT:
                raise ValueError(f"its format is {said['format']}")
            return cls(folder, said)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"there is no sound table of encoded data in {folder}: {error}", "Remove the folder: it is made anew."
            ) from error

    @classmethod
    def find(cls, folder: str | Path, fingerprint: str) -> Table | None:
        """The table in a folder if it has this fingerprint and is sound."""
        with suppress(DataError):
            table = cls.open(folder)
            if table.fingerprint == fingerprint:
                return table
        return None

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> Encoded:
        found = self._read(*self._span(self._rows, row))
        label, _, _ = self._numbers[row].tolist()
        if self._target_rows is not None:
            first, last = self._span(self._target_rows, row)
            found.target = self._targets[first:last].astype(np.int32)
        found.label = None if label < 0 else label
        found.place = self.place(row)
        return found

    def part(self, row: int, start: int, end: int) -> Encoded:
        """The ids and flags of tokens ``start`` to ``end`` of a row, which may be a whole book."""
        first, last = self._span(self._rows, row)
        return self._read(first + start, min(first + end, last))

    def sentences(self, row: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Where the row's sentences begin, and its end."""
        start, end = self._span(self._rows, row)
        places = np.flatnonzero(self._flags[start:end] & (SENTENCE << STARTS))
        return np.append(places, end - start)

    def _read(self, start: int, end: int) -> Encoded:
        flags: Bits = np.asarray(self._flags[start:end])
        types = _bits(flags, SECOND, 1)
        return Encoded(
            self._ids[start:end].astype(np.int32),
            _bits(flags, LEARNT, 0),
            types if types.any() else None,
            starts=_bits(flags, 0xFF, STARTS) if self.documents else None,
        )

    def place(self, row: int) -> Place | None:
        """Where the row's example stands in its file."""
        _, file, line = self._numbers[row].tolist()
        return None if file < 0 else Place(self._files[file], line)

    def _span(self, starts: Any, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"there is no row {row} in a table of {len(self)}")
        return int(starts[row]), int(starts[row + 1])


# ----------------------------------------------------------------------------------------------------------- writing


def _write(folder: Path, rows: Iterable[Encoded], dtype: str) -> dict[str, Any]:
    files: dict[str, int] = {}
    starts, target_starts, numbers = array("q", [0]), array("q", [0]), array("i")
    documents = targets = False
    with (
        (folder / "ids.bin").open("wb") as ids,
        (folder / "flags.bin").open("wb") as flags,
        (folder / "targets.bin").open("wb") as wanted,
    ):
        for row in rows:
            bits = row.learnt.copy()
            if row.types is not None:
                bits |= row.types.astype(np.uint8) << 1
            if row.starts is not None:
                bits |= row.starts << STARTS
                documents = True
            ids.write(row.ids.astype(dtype).tobytes())
            flags.write(bits.tobytes())
            starts.append(starts[-1] + len(row.ids))
            if row.target is not None:
                wanted.write(row.target.astype(dtype).tobytes())
                targets = True
            target_starts.append(target_starts[-1] + (0 if row.target is None else len(row.target)))
            place = (-1, -1)
            if row.place is not None:
                place = (files.setdefault(row.place.file, len(files)), row.place.line)
            numbers.extend((-1 if row.label is None else row.label, *place))
        for file in (ids, flags, wanted):
            _sync(file)
    for name, places in (("rows", starts), ("target_rows", target_starts)):
        _save(folder / f"{name}.npy", np.array(places, dtype=np.int64))
    _save(folder / "numbers.npy", np.array(numbers, dtype=np.int32).reshape(-1, 3))
    return {"dtype": dtype, "files": list(files), "targets": targets, "documents": documents}


def _save(path: Path, numbers: Any) -> None:
    with path.open("wb") as file:
        np.save(file, numbers)
        _sync(file)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _beside(folder: Path) -> Path:
    """A new name beside a folder."""
    return folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed have left half written: nobody has touched it for an hour."""
    for left in folder.parent.glob(f".{folder.name}.????????"):
        with suppress(OSError):
            if time.time() - max(path.stat().st_mtime for path in (left, *left.iterdir())) > STALE:
                shutil.rmtree(left, ignore_errors=True)


def _put(part: Path, folder: Path, wanted: str) -> None:
    """Give what was written its name, in place of what has another fingerprint or is damaged."""
    for _ in range(3):
        with suppress(OSError):  # there is one
            part.rename(folder)
            return
        if Table.find(folder, wanted) is not None:
            return  # another process was faster
        old = _beside(folder)
        with suppress(FileNotFoundError):
            folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    raise OSError(f"other processes keep writing {folder}")


def _mapped(path: Path, dtype: str, length: int) -> Any:
    """[length], read-only. Raises ValueError where the file has another size."""
    if path.stat().st_size != int(length) * np.dtype(dtype).itemsize:
        raise ValueError(f"{path.name} has {path.stat().st_size} bytes for {length} tokens")
    return np.memmap(path, dtype, "r") if length else np.empty(0, dtype)


def _bits(flags: Bits, kept: int, down: int) -> Bits:
    return ((flags & kept) >> down).astype(np.uint8)
