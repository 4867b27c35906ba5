"""A wheel read as a stranger's archive: every name, size and hash is checked before a byte of it is kept.

Nothing is installed or imported. A wheel carries the SHA-256 of each of its files in RECORD (PEP 427, PEP 376); what is
extracted must have it. Refused: names that leave the folder, links, encrypted members, members that claim or turn out
to unpack to far more than they are (zip bombs).
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import BinaryIO

from hornbook.checkpoint.selection import check_name
from hornbook.errors import DownloadError

BLOCK = 1 << 20
MAX_MEMBERS = 10_000
MAX_TEXT = 32 << 20  # METADATA, RECORD and SHA256SUMS: far above any honest one
MAX_RATIO = 100  # weights hardly compress and JSON about tenfold; deflate can claim a thousandfold

_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, OverflowError, NotImplementedError)


class Wheel:
    """An open wheel. ``names`` are its files; use as a context manager. Raises DownloadError for anything wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (*_DAMAGE, OSError) as error:
            raise self._broken(str(error)) from error
        try:
            self._members = self._checked()
            self.names = list(self._members)
            self._record = self._read_record()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> Wheel:
        return self

    def __exit__(self, *exception: object) -> None:
        self._zip.close()

    @property
    def metadata(self) -> Message:
        """The METADATA file: Name, Version, License, Requires-Dist, Project-URL, ..."""
        return Parser().parsestr(self.text(self._dist_info("METADATA")), headersonly=True)

    def size(self, name: str) -> int:
        """Unpacked, in bytes, as the archive declares it (and as ``copy`` enforces it)."""
        return self._members[name].file_size

    def text(self, name: str) -> str:
        """A small text file of the wheel, checked against RECORD."""
        if self.size(name) > MAX_TEXT:
            raise self._broken(f"{name} claims {self.size(name)} bytes")
        into = io.BytesIO()
        self.copy(name, into)
        return into.getvalue().decode("utf-8", "replace")

    def copy(self, name: str, into: BinaryIO, on_block: Callable[[bytes], None] | None = None) -> str:
        """Write a file of the wheel to ``into`` and return its SHA-256 (hex), which agrees with RECORD."""
        member = self._members[name]
        digest = hashlib.sha256()
        written = 0
        for block in self._blocks(member):
            written += len(block)
            if written > member.file_size:
                raise self._broken(f"{name} unpacks to more than the {member.file_size} bytes it declares")
            digest.update(block)
            into.write(block)
            if on_block:
                on_block(block)
        expected = self._record.get(name) if name != self._record_name else digest.hexdigest()
        if expected is None:
            raise self._broken(f"{name} is not in its RECORD")
        if written != member.file_size or digest.hexdigest() != expected:
            raise self._broken(f"{name} has the SHA-256 {digest.hexdigest()}, its RECORD says {expected}")
        return expected

    def _blocks(self, member: zipfile.ZipInfo) -> Iterator[bytes]:
        """Unpacked blocks. Only what is wrong with the archive is caught here: a full disk is the writer's to tell."""
        try:
            with self._zip.open(member) as packed:
                while block := packed.read(BLOCK):
                    yield block
        except (*_DAMAGE, OSError, RuntimeError) as error:
            raise self._broken(f"{member.filename}: {error}") from error

    def _checked(self) -> dict[str, zipfile.ZipInfo]:
        found: dict[str, zipfile.ZipInfo] = {}
        infos = self._zip.infolist()
        if len(infos) > MAX_MEMBERS:
            raise self._broken(f"it holds {len(infos)} files, more than {MAX_MEMBERS}")
        for info in infos:
            check_name(info.filename, self.path.name)
            mode = info.external_attr >> 16
            if info.is_dir():
                continue
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise self._broken(f"{info.filename} is a link or a device")
            if info.flag_bits & 0x1:
                raise self._broken(f"{info.filename} is encrypted")
            if info.file_size > MAX_RATIO * info.compress_size + BLOCK:
                raise self._broken(f"{info.filename} claims to unpack {info.compress_size} into {info.file_size} bytes")
            if info.filename in found:
                raise self._broken(f"{info.filename} is in it twice")
            found[info.filename] = info
        return found

    def _dist_info(self, file: str) -> str:
        found = [name for name in self._members if name.count("/") == 1 and name.endswith(f".dist-info/{file}")]
        if len(found) != 1:
            raise self._broken(f"it has {len(found)} {file} files, a wheel has one")
        return found[0]

    def _read_record(self) -> dict[str, str]:
        """name -> SHA-256 in hex."""
        self._record_name = self._dist_info("RECORD")
        record: dict[str, str] = {}
        self._record = record
        for row in csv.reader(io.StringIO(self.text(self._record_name))):
            if len(row) >= 2 and row[1].startswith("sha256="):
                encoded = row[1].removeprefix("sha256=")
                try:
                    record[row[0]] = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).hex()
                except ValueError as error:
                    raise self._broken(f"its RECORD has a hash that cannot be read: {encoded!r}") from error
        return record

    def _broken(self, why: str) -> DownloadError:
        return DownloadError(
            f"{self.path.name} is damaged or not a sound wheel: {why}",
            "Pull again; if it comes the same, the index or mirror that pip uses serves a bad file.",
        )
