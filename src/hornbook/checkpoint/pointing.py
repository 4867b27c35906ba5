"""Weights that are used where they lie, known by their SHA-256: pointed at once, and checked whenever they are asked for.

The check is of size and time of modification; where the time has changed the bytes are hashed again.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hornbook.checkpoint.selection import MODULE, choose
from hornbook.errors import HornbookError, ModelFileError
from hornbook.types import Progress

_SPLIT = re.compile(r"(.+)-\d{5}-of-(\d{5}\.gguf)", re.I)


@dataclass(frozen=True, slots=True)
class Target:
    """Weights that a manifest points at. ``source``: a stored model's name, or an absolute path.

    ``sha256``: of the file; of a folder, of the list of its files' hashes. ``modified``: of a path, in ns since 1970.
    """

    source: str
    sha256: str
    size: int
    modified: int = 0

    @property
    def in_store(self) -> bool:
        return not os.path.isabs(self.source)


def point_at(path: Path, progress: Progress | None) -> Target:
    """What lies there now, hashed."""
    size, modified = _state(path)
    return Target(str(path), _hash(path, size, progress), size, modified)


def checked(target: Target, name: str, keyword: str) -> Path:
    """The path, if what lies there is what ``name`` was made for; ``keyword`` is that of its Modelfile. Raises ModelFileError."""
    path = Path(target.source)
    try:
        size, modified = _state(path)
    except (OSError, HornbookError) as error:
        why = error.what if isinstance(error, HornbookError) else error.strerror
        what = f"{name} points at {path} ({keyword}), which cannot be read: {why}"
        raise ModelFileError(what, f"Put it back, or create {name} again.") from error
    if size != target.size:
        what = f"{name} points at {path} ({keyword}), which has {size:,} bytes instead of {target.size:,}"
        raise ModelFileError(what, f"Put the file back that it was made from, or create {name} again.")
    if modified != target.modified and (sha256 := _known_hash(path, size, modified)) != target.sha256:
        what = f"{name} points at {path} ({keyword}), whose SHA-256 is {sha256[:12]}… instead of {target.sha256[:12]}…"
        raise ModelFileError(what, f"Put the file back that it was made from, or create {name} again.")
    return path


@lru_cache(maxsize=256)
def _known_hash(path: Path, size: int, modified: int) -> str:
    """Hashed once in a process, as long as the file does not change."""
    return _hash(path, size, None)


def _files(path: Path) -> list[Path]:
    """Of a file that is one of several, all of them; of a folder, the files that the model or the adapter is: a Modelfile beside them, or photographs, are not."""
    if split := _SPLIT.fullmatch(path.name):
        return sorted(path.parent.glob(f"{glob.escape(split[1])}-*-of-{split[2]}"))
    if not path.is_dir():
        return [path]
    if (path / "adapter_config.json").is_file():
        return sorted(path.glob("adapter_*"))
    folders = [path, *(inner for inner in path.iterdir() if inner.is_dir() and MODULE.match(inner.name))]
    names = [file.relative_to(path).as_posix() for folder in folders for file in folder.iterdir() if file.is_file()]
    selection = choose([name for name in names if not set(name) & set("\\:")], source=str(path))
    return [path / name for name in sorted(selection.files)]


def _state(path: Path) -> tuple[int, int]:
    """(bytes, the latest time of modification) of a file or of all in a folder. Raises OSError where there is none."""
    states = [file.stat() for file in _files(path)]
    return sum(state.st_size for state in states), max(state.st_mtime_ns for state in states)


def _hash(path: Path, size: int, progress: Progress | None) -> str:
    """SHA-256 of a file, or of the list of a folder's files' hashes as sha256sum prints it."""
    done, lines = 0, []
    for file in _files(path):
        sha256 = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha256.update(block)
                done += len(block)
                if progress:
                    progress(f"hashing {path.name}", done, size)
        lines.append((sha256.hexdigest(), file.relative_to(path if path.is_dir() else path.parent).as_posix()))
    if not path.is_dir() and len(lines) == 1:
        return lines[0][0]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in lines).encode()).hexdigest()
