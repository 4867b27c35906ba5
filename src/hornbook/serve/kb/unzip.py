"""A .zip that somebody sends, opened without trusting a word of it.

    for entry in entries(path, limits): ...      Entry(name, write) to be kept, or Refused(name, reason)

Nothing is written by the archive's names: they are words to show (names.py), and an entry whose name climbs out of the
archive is refused all the same, as no honest program writes one. What an entry says of its size is not believed: bytes are
counted as they come out. A zip bomb (Fifield 2019, "A better zip bomb") ends at the limit of ratio or of the whole.
"""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hornbook.errors import ParseError

RATIO = 200  # bytes out for a byte in, beyond the first megabyte: text packs to a tenth, a bomb to a thousandth
_FREE = 1 << 20
_DIRECTORY = 4 << 20  # bytes of the table of contents, which is read whole before anything can be refused
_BLOCK = 1 << 16
_END = struct.Struct("<4s4H2LH")  # "PK\5\6", disks, entries, size and place of the table, length of the comment


class Refused(NamedTuple):
    """An entry that is not taken. ``ordinary``: one that nobody expects to be read (a folder's settings, a lock file)."""

    name: str
    reason: str
    ordinary: bool = False


@dataclass
class Room:
    """What may still come out of one request's archives."""

    files: int
    bytes: int


class Entry:
    """A file of the archive. ``blocks`` gives its bytes, within the limits; raises ParseError where they are passed."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, room: Room, max_bytes: int) -> None:
        self.name = info.filename
        self._archive, self._info, self._room, self._max_bytes = archive, info, room, max_bytes

    def blocks(self) -> Iterator[bytes]:
        size = 0
        try:
            with self._archive.open(self._info) as file:
                while block := file.read(_BLOCK):
                    size += len(block)
                    self._room.bytes -= len(block)
                    self._check(size)
                    yield block
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise ParseError(f"cannot be unpacked: {error}") from error

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            raise ParseError(f"larger than {self._max_bytes / 2**20:,.0f} MB when unpacked")
        if size > _FREE + RATIO * max(1, self._info.compress_size):
            raise ParseError(f"unpacks to more than {RATIO} times its size: a zip bomb")
        if self._room.bytes < 0:
            raise TooMuch("the archive holds more than may be uploaded at once")


class TooMuch(ParseError):
    """The whole archive passes a limit: nothing more of it is read."""


def entries(path: Path, room: Room, *, max_bytes: int) -> Iterator[Entry | Refused]:
    """Each file of the archive, in its order. Raises ParseError where it is no archive, TooMuch where it has too many."""
    with open(path, "rb") as file:
        _check_directory(file)
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
            raise ParseError(f"damaged ZIP archive: {error}") from error
        with archive:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                room.files -= 1
                if room.files < 0:
                    raise TooMuch("the archive holds more files than may be uploaded at once")
                yield _refusal(info) or Entry(archive, info, room, max_bytes)


def _refusal(info: zipfile.ZipInfo) -> Refused | None:
    name, mode = info.filename, info.external_attr >> 16
    parts = re.split(r"[/\\]", name)
    if ".." in parts or not parts[0] or re.match("[A-Za-z]:", name):
        return Refused(name, "its name leads out of the archive")
    if stat.S_ISLNK(mode):
        return Refused(name, "a link, not a file")
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return Refused(name, "not a file (pipe, socket or device)")
    if info.flag_bits & 1:
        return Refused(name, "locked with a password")
    if name.lower().endswith((".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")):
        return Refused(name, "an archive inside an archive is not opened")
    if not info.file_size:
        return Refused(name, "empty file", ordinary=True)
    return None


def _check_directory(file: BinaryIO) -> None:
    """Look at the archive's end before zipfile does, which reads as large a table of contents as the end announces."""
    size = file.seek(0, 2)
    tail_at = max(0, size - (1 << 16) - _END.size - 20)
    file.seek(tail_at)
    tail = file.read()
    file.seek(0)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise ParseError("no ZIP archive, or one that was cut off")
    if b"PK\6\7" in tail[max(0, at - 20) : at]:
        raise ParseError("a ZIP64 archive is not opened: pack fewer or smaller files")
    if _END.unpack_from(tail, at)[5] > _DIRECTORY:
        raise TooMuch("the archive's table of contents is too large")
