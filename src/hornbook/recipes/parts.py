"""Cleaned examples on disk while a corpus is made, in parts of which each is whole or does not count.

part-000.jsonl.zst   a line for each example: what is written of it in the end, where it stood, how long it was
part-000.npz         beside them, in the same order: keys [n,16], draws [n], signatures [n,P]
part-000.json        the account up to the end of this part, written last: where it is missing, the part is made again
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import zstandard

from hornbook.data.account import Ledger
from hornbook.data.cleaning import Cleaned
from hornbook.data.split import draw
from hornbook.data.texts import row

LEVEL = 6  # of zstd


class Kept(NamedTuple):
    """An example that stayed in the first pass."""

    row: dict[str, Any]
    place: str
    size: int  # characters


class Parts:
    """The parts in a folder. ``count``: how many are whole; ``kept``: examples in them and in the one being written;
    ``ledger``: the account at their end."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.count, self.kept, self.ledger = 0, 0, Ledger()
        while (said := self._path(".json", self.count)).is_file():
            account = json.loads(said.read_bytes())
            self.kept += account.pop("here")
            self.ledger, self.count = Ledger.of(account), self.count + 1

    def _path(self, suffix: str, number: int) -> Path:
        return self.folder / f"part-{number:05d}{suffix}"

    def begin(self) -> Part:
        """The next part, to be filled; one that was not ended is written over."""
        return Part(self, self._path("", self.count))

    def rows(self) -> Iterator[Kept]:
        """All examples in order."""
        for number in range(self.count):
            with self._path(".jsonl.zst", number).open("rb") as file:
                reader = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8", newline="\n")
                for line in reader:
                    yield Kept(*json.loads(line))

    def arrays(self, name: str) -> Iterator[np.ndarray]:
        """One of keys, draws and signatures, part by part."""
        for number in range(self.count):
            with np.load(self._path(".npz", number), allow_pickle=False) as arrays:
                yield arrays[name]

    def signatures(self, hashes: int) -> np.ndarray:
        """Those of all parts in one file that is mapped, not read: uint32 [n,P]."""
        path = self.folder / "signatures"
        with path.open("wb") as file:
            for array in self.arrays("signatures"):
                file.write(array.tobytes())
        if not self.kept:
            return np.zeros((0, hashes), np.uint32)
        return np.memmap(path, np.uint32, "r", shape=(self.kept, hashes))


class Part:
    """A part that is being written."""

    def __init__(self, parts: Parts, path: Path) -> None:
        self.parts, self.path = parts, path
        self.writer = Packed(path.with_suffix(".jsonl.zst"))
        self.keys: list[bytes] = []
        self.draws: list[float] = []
        self.signatures: list[np.ndarray] = []

    def add(self, result: Cleaned) -> None:
        """Write an example that stays; ``parts.kept`` counts it."""
        assert result.example is not None
        kept = Kept(row(result.example), str(result.example.place or ""), result.characters)
        self.writer.write(kept)
        self.keys.append(result.key)
        self.draws.append(draw(result.example, self.parts.seed))
        if result.signature is not None:
            self.signatures.append(result.signature)
        self.parts.kept += 1

    def end(self, ledger: Ledger) -> None:
        """Make the part whole."""
        self.writer.close()
        packed = io.BytesIO()
        np.savez(
            packed,
            keys=np.frombuffer(b"".join(self.keys), np.uint8).reshape(-1, 16),
            draws=np.array(self.draws, np.float64),
            signatures=np.stack(self.signatures) if self.signatures else np.zeros((0, 0), np.uint32),
        )
        write(self.path.with_suffix(".npz"), packed.getvalue())
        write(self.path.with_suffix(".json"), as_json({"here": len(self.keys), **ledger.as_dict()}))
        self.parts.count += 1


class Packed:
    """A .jsonl.zst file that is written line by line under another name, and takes its own when it is closed."""

    def __init__(self, path: Path) -> None:
        self.path, self.aside = path, path.with_name(f".{path.name}.part")
        self._file: BinaryIO = self.aside.open("wb")
        self._writer = zstandard.ZstdCompressor(LEVEL).stream_writer(self._file, closefd=False)

    def write(self, value: Any) -> None:
        self._writer.write(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    def close(self) -> None:
        self._writer.flush(zstandard.FLUSH_FRAME)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.aside.replace(self.path)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    aside = path.with_name(f".{path.name}.part")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def as_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")
