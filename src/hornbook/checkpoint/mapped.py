"""An untrusted file, mapped into memory read-only: what the model file readers stand on.

Bytes are handed out as views of the map, after a check against the file's size. A view keeps the map alive, so that an
array outlives ``close``; what is closed is the way to new ones. Views may be read from any thread. A file that another
program shortens while it is mapped is beyond what a reader can check: the system ends the process (SIGBUS).
"""

from __future__ import annotations

import mmap
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from hornbook.errors import ModelFileError, ModelNotFound

Bytes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"

FETCH_AGAIN = "Fetch it again: `hornbook rm NAME`, then `hornbook pull NAME`; or copy the file again from its source."

# What is often found where a model file should be: the first bytes, what it is, what to do.
_CONVERT = (
    "Convert it where you trust it (pip install safetensors): "
    "safetensors.torch.save_file(torch.load(FILE, weights_only=True), OUT)."
)
_IMPOSTORS: tuple[tuple[tuple[bytes, ...], str, str], ...] = (
    (
        (b"version https://git-lfs",),
        "a Git LFS pointer, not the model itself",
        "Fetch the real file: `git lfs pull` in that repository, or `hornbook pull hf:ORG/NAME`.",
    ),
    (
        (b"<!doctype", b"<html", b"<head", b"<?xml"),
        "a web page, not a model file",
        "The download was answered by a login or an error page: fetch the file again.",
    ),
    (
        (b"PK\x03\x04",),
        "a zip archive, probably a PyTorch pickle (.bin, .pt), which can run code and is never loaded",
        _CONVERT,
    ),
    (
        (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "a Python pickle, which can run code and is never loaded",
        _CONVERT,
    ),
    (
        (b"lmgg", b"fmgg", b"tjgg", b"algg"),
        "a GGML file of before August 2023",
        "That format was replaced by GGUF: fetch a GGUF file of the model.",
    ),
    ((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ"), "a compressed file", "Decompress it first."),
    ((b"GGUF",), "a GGUF file", "Give it the ending .gguf."),
    ((b"\x89HDF",), "an HDF5 file (Keras)", "Hornbook reads GGUF and safetensors."),
)


class TensorInfo(NamedTuple):
    """What a model file says of one tensor. ``shape`` is row-major, as torch has it; ``type`` is the stored one."""

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int


class MappedFile:
    """``path`` mapped read-only, ``size`` bytes of it, until ``close``; and the errors that speak of this file."""

    def __init__(self, path: Path) -> None:
        """Raise ModelNotFound where there is no file; ModelFileError where it cannot be read or is empty."""
        self.path = path
        try:
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                raise ModelFileError(f"{path} is a folder, not a model file", "Name the file inside it.")
            if not stat.S_ISREG(mode):  # a pipe would wait for ever, a device has no size
                raise ModelFileError(f"{path} is not a regular file", "Name a model file on a disk.")
            with path.open("rb") as file:
                self.size = file.seek(0, 2)
                if self.size == 0:
                    raise ModelFileError(f"{path.name} is empty (0 bytes)", FETCH_AGAIN)
                self._map: mmap.mmap | None = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self.size = len(self._map)
        except FileNotFoundError as error:
            raise ModelNotFound(f"there is no file {path}", "Check the path.") from error
        except (OSError, ValueError) as error:
            raise ModelFileError(f"{path} cannot be read: {error}", "Check the path and its permissions.") from error

    @property
    def map(self) -> mmap.mmap:
        if self._map is None:
            raise self._closed()
        return self._map

    def view(self, start: int, nbytes: int) -> Bytes:
        """The bytes [start, start + nbytes) without a copy, read-only. The caller has named what they are."""
        if not 0 <= start <= start + nbytes <= self.size:
            raise ModelFileError(
                f"{self.path.name}: bytes {start} to {start + nbytes} are wanted, the file has {self.size}", FETCH_AGAIN
            )
        try:
            return np.frombuffer(self.map, np.uint8, nbytes, start)
        except ValueError as error:  # closed by another thread just now
            raise self._closed() from error

    def release(self, start: int, nbytes: int) -> None:
        """Let the system take back the memory of these bytes, which have been used; views of them stay valid.

        Pages of a map that were touched count as the process's own until then: a model would be in memory twice.
        """
        first = start - start % mmap.PAGESIZE
        data = self._map
        if data is not None and nbytes and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            with suppress(ValueError):  # closed by another thread just now
                data.madvise(mmap.MADV_DONTNEED, first, start + nbytes - first)

    def close(self) -> None:
        """Give no more views. Those given live on; the system unmaps the file when the last one is gone."""
        data, self._map = self._map, None
        if data is not None:
            with suppress(BufferError):  # there are views
                data.close()

    # ------------------------------------------------------------------------------- the errors about this file

    def _closed(self) -> ModelFileError:
        return ModelFileError(f"{self.path.name} was closed and cannot be read any more", "Open it again.")

    def expect(self, magic: bytes, format: str, *, at: int = 0) -> None:
        """That ``magic`` stands at byte ``at``; else the error says what the file is, where its first bytes tell."""
        head = self.map[:64]
        found = head[at : at + len(magic)]
        if found == magic:
            return
        text = head.lstrip(b"\xef\xbb\xbf\r\n\t ").lower()
        for starts, what, remedy in _IMPOSTORS:
            if head.startswith(starts) or text.startswith(starts):
                raise ModelFileError(f"{self.path.name} is {what}", remedy)
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < self.size:
            raise ModelFileError(f"{self.path.name} is a safetensors file", "Give it the ending .safetensors.")
        raise ModelFileError(
            f"{self.path.name} is not a {format} file: at byte {at} it has {found!r}, not {magic!r}", FETCH_AGAIN
        )

    def damaged(self, what: str) -> ModelFileError:
        """The file contradicts itself."""
        return ModelFileError(f"{self.path.name} is damaged: {self.printable(what)}", FETCH_AGAIN)

    def truncated(self, what: str) -> ModelFileError:
        """Something reaches past the end of the file."""
        return ModelFileError(
            f"{self.path.name} is truncated or damaged: {self.printable(what)}, the file ends at {self.size:,}",
            FETCH_AGAIN,
        )

    @staticmethod
    def printable(text: str) -> str:
        """``text`` in one line of at most 300 characters: a name in a hostile file must not steer a terminal.

        What is too long loses its middle, for a name is long and what is wrong with it stands at the end.
        """
        text = text[:400] + text[400:][-400:]  # of 64 MB, if need be
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        return line if len(line) <= 300 else f"{line[:150]} ... {line[-140:]}"
