"""What the disk can refuse, said to a person: no room, no permission, a read-only home."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hornbook.errors import StoreError

FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST})


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn an OSError of work below ``folder`` into a StoreError with the remedy."""
    try:
        yield
    except OSError as error:
        raise refused(folder, error) from error


def refused(folder: Path, error: OSError) -> StoreError:
    if error.errno in FULL:
        return StoreError(
            f"no room left on the disk of {folder}",
            "Free some space (hornbook list shows what the models take), or set HORNBOOK_HOME to another disk.",
        )
    if error.errno in _REFUSED:
        return StoreError(
            f"{folder} cannot be written: {error.strerror}",
            "Make it writable, or set HORNBOOK_HOME to a folder of your own.",
        )
    return StoreError(f"{folder} cannot be used: {error}", "Check the disk, or set HORNBOOK_HOME to another folder.")


def require_room(folder: Path, needed: int) -> None:
    """Raise StoreError when the disk of ``folder`` has fewer than ``needed`` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StoreError(
            f"{needed / 1e6:,.0f} MB are needed in {folder} and {free / 1e6:,.0f} MB are free",
            "Free some space (hornbook list shows what the models take), or set HORNBOOK_HOME to another disk.",
        )


def settle(path: Path) -> None:
    """Ask the disk to have a file's bytes before its name is made final, so that a power cut leaves no empty model."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def remove_tree(path: Path) -> None:
    """Remove a folder or a file that may be absent, and that another process may be removing too."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
