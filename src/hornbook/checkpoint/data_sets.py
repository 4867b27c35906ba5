"""Data sets of the hub as files, kept in HORNBOOK_HOME/data and fetched once.

    data/
      allenai/ai2_arc/              hornbook.json (commit, parts, hashes), and the files as the hub has them
        ARC-Easy/test-00000-of-00001.parquet
      .staging/allenai--ai2_arc/    what is being fetched, and a lock beside it

Only files of rows and licences are taken: no scripts, no archives. A part that is fetched later is of the same commit.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import filelock

from hornbook.checkpoint import disk
from hornbook.checkpoint.manifest import MANIFEST
from hornbook.checkpoint.source import Source
from hornbook.errors import OfflineError, StoreError, UsageError
from hornbook.types import Progress

_NAME = re.compile(r"hf:(?P<name>datasets/[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<part>[\w./*?-]+))?", re.A)


def parse(text: str) -> Source:
    """Read ``hf:datasets/ORG/NAME[:PART]``; PART: a folder or files of it, such as ``ARC-Easy`` or ``*/test-*``. Raises
    UsageError."""
    match = _NAME.fullmatch(text)
    if not match or ".." in text:
        raise UsageError(
            f"{text!r} is no data set of the hub", "Write hf:datasets/ORG/NAME, or hf:datasets/ORG/NAME:PART."
        )
    return Source("hf", match["name"], file=match["part"] or "")


def ensure(text: str, home: Path, *, offline: bool = False, progress: Progress | None = None) -> Path:
    """The folder of a data set, which is fetched where it is not there yet. Opens no socket for one that is.

    home: the folder in which data sets are kept
    Raises UsageError, OfflineError, DownloadError, StoreError.
    """
    source = parse(text)
    name = source.name.removeprefix("datasets/")
    folder = home / name
    if _has(folder, source.file):
        return folder
    if offline:
        raise OfflineError(
            f"{source} is not in {home}, and Hornbook is offline",
            "Run it once with the network, or name a folder that holds the files.",
        )
    from hornbook.checkpoint import hub

    staging = home / ".staging" / name.replace("/", "--")
    with disk.writing(home):
        staging.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{staging}.lock"):
            kept = _manifest(folder)
            if _has(folder, source.file):  # another process fetched it while we waited
                return folder
            fetched = hub.fetch(source, staging, label=str(source), progress=progress, commit=kept.get("commit", ""))
            for inner in fetched.files:
                target = folder / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                disk.settle(fetched.folder / inner)
                os.replace(fetched.folder / inner, target)
            about = {
                "source": f"hf:{source.name}",
                "commit": fetched.resolved[0].rpartition("@")[2],
                "licence": fetched.licence,
                "parts": sorted({*kept.get("parts", ()), source.file}),
                "files": kept.get("files", {}) | {inner: list(found) for inner, found in fetched.files.items()},
            }
            written = staging / MANIFEST
            written.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", "utf-8")
            disk.settle(written)
            os.replace(written, folder / MANIFEST)
            disk.remove_tree(staging)
    return folder


def _manifest(folder: Path) -> dict[str, Any]:
    """What is known of a folder; nothing where none was finished. Raises StoreError where it cannot be read."""
    path = folder / MANIFEST
    try:
        about = json.loads(path.read_text("utf-8"))
        if isinstance(about, dict) and all(isinstance(about.get(key), kind) for key, kind in _SHAPE.items()):
            return about
        reason = "it is not the record of a data set"
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        reason = str(error)
    raise StoreError(f"{path} cannot be read: {reason}", f"Delete {folder}, and it is fetched anew.")


_SHAPE = {"commit": str, "parts": list, "files": dict}


def _has(folder: Path, part: str) -> bool:
    """Whether a part was fetched, or the whole, and its files are as long as they were."""
    about = _manifest(folder)
    if not {part, ""} & set(about.get("parts", ())):
        return False
    sizes = {folder / name: found[0] for name, found in about["files"].items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in sizes.items())
