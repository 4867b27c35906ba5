"""Which files of a folder are documents, and why the others are not.

    for found in walk(["papers", "notes/today.md"]):
        match found:
            case Found(path, size, modified_ns): ...
            case Skipped(path, reason, ordinary): ...      # ordinary: what nobody expects to be read (.git, hidden files)

The order is the same each time: the paths as given, folders by name, each real file once. Links to files are followed;
links to folders only while they stay inside the folder that was given, and never round.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from hornbook.errors import UsageError
from hornbook.retrieve.parse import FORMATS, MAX_BYTES, refusal, too_large

SKIPPED_FOLDERS = frozenset(["node_modules", "__pycache__", "venv", "site-packages", "bower_components", "__MACOSX"])
_HEAD = 8192  # bytes by which a file of an unknown name is judged


class Found(NamedTuple):
    """A file to parse; size and modification time tell whether it changed since."""

    path: Path
    size: int
    modified_ns: int


class Skipped(NamedTuple):
    """A file or folder left out. ``ordinary``: by a rule that a person takes for granted, not worth a warning."""

    path: Path
    reason: str
    ordinary: bool = False


def walk(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, max_bytes: int = MAX_BYTES
) -> Iterator[Found | Skipped]:
    """Yield every file under the paths once. Raise UsageError, before anything is yielded, when a path is missing.

    A file that is named itself is taken even when it is hidden; in folders, hidden files and folders are skipped.
    """
    roots = [Path(p) for p in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    if not roots:
        raise UsageError("no path was given", "Name a document or a folder of documents.")
    for root in roots:
        if not os.path.lexists(root):
            raise UsageError(f"{root} does not exist", "Check the path; a folder or a file is expected.")
    return _walk(roots, max_bytes)


def _walk(roots: list[Path], max_bytes: int) -> Iterator[Found | Skipped]:
    seen: set[tuple[int, int]] = set()  # (device, inode) of every file and folder met
    for root in roots:
        if not root.is_dir():
            yield from _file(root, seen, max_bytes)
            continue
        boundary = os.path.realpath(root)
        folders = [root]
        while folders:
            folder = folders.pop()
            try:
                status = os.stat(folder)
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                yield Skipped(folder, f"cannot be read: {(error.strerror or str(error)).lower()}")
                continue
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                continue
            seen.add(identity)
            inner: list[Path] = []
            for entry in entries:
                path = folder / entry.name
                if reason := _ignored(entry, boundary):
                    yield Skipped(path, reason, ordinary=True)
                elif _is_folder(entry):
                    inner.append(path)
                else:
                    yield from _file(path, seen, max_bytes)
            folders.extend(reversed(inner))


def _ignored(entry: os.DirEntry[str], boundary: str) -> str:
    """The rule that leaves an entry of a folder out, or ""."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.name.startswith("~$"):
        return "lock file of an open document"
    if not _is_folder(entry):
        return ""
    if entry.name in SKIPPED_FOLDERS or os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
        return "folder of installed packages"
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if target != boundary and not target.startswith(boundary.rstrip(os.sep) + os.sep):
            return "link to a folder outside"
    return ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _file(path: Path, seen: set[tuple[int, int]], max_bytes: int) -> Iterator[Found | Skipped]:
    try:
        status = os.stat(path)
    except OSError as error:
        broken = path.is_symlink()
        yield Skipped(path, "broken link" if broken else f"cannot be read: {(error.strerror or str(error)).lower()}")
        return
    identity = (status.st_dev, status.st_ino)
    if identity in seen:
        return
    seen.add(identity)
    if not stat.S_ISREG(status.st_mode):  # never opened: a pipe would wait for a writer
        yield Skipped(path, "not a file (pipe, socket or device)", ordinary=True)
    elif not status.st_size:
        yield Skipped(path, "empty file", ordinary=True)
    elif reason := too_large(status.st_size, max_bytes) or _unreadable(path):
        yield Skipped(path, reason)
    else:
        yield Found(path, status.st_size, status.st_mtime_ns)


def _unreadable(path: Path) -> str:
    if path.suffix.lower() in FORMATS and os.access(path, os.R_OK):
        return ""
    try:
        with open(path, "rb") as file:
            return refusal(path, file.read(_HEAD))
    except OSError as error:
        return f"cannot be read: {(error.strerror or str(error)).lower()}"
