"""Files as bytes, whatever packs them: .gz and .zst are unpacked as they are read, in bounded memory.

A file that ends in the middle is an error, never a short file: a truncated download must not become a smaller training set.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from hornbook.errors import DataError

PACKED = (".gz", ".zst", ".zstd")
_BLOCK = 1 << 17


def inner_suffix(path: Path) -> str:
    """The suffix that says the format, in lower case: ".jsonl" of data.JSONL.gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file's content, unpacked. Raises DataError where it cannot be read or is damaged, then or while it is read."""
    try:
        with path.open("rb") as file:
            suffix = path.suffix.lower()
            if suffix == ".gz":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, unpacked), _BLOCK))
            elif suffix in PACKED:
                yield cast(BinaryIO, io.BufferedReader(_Zstandard(file), _BLOCK))
            else:
                yield file
    except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path} cannot be read: {why}", "Check the path, and that the file is whole.") from error


class _Zstandard(io.RawIOBase):
    """Frame after frame. zstandard's own reader takes a file that ends inside a frame for a shorter one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._begun = False  # something of this frame was read
        self._packed = b""
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while not self._plain:
            if not self._unpack():
                return 0
        count = min(len(target), len(self._plain))
        target[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def _unpack(self) -> bool:
        """Unpack the next bytes of the file; False at its end."""
        packed = self._packed or self._file.read(_BLOCK >> 3)  # little at once: some of it unpacks to very much
        if not packed:
            if self._begun:
                raise EOFError("it ends in the middle of a zstandard frame")
            return False
        self._begun, self._packed = True, b""
        self._plain = memoryview(self._frame.decompress(packed))
        if self._frame.eof:
            self._packed = self._frame.unused_data
            self._frame, self._begun = zstandard.ZstdDecompressor().decompressobj(), False
        return True
