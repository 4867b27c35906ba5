"""Where the index of a set of paths lives when nobody says: under the home folder, never among a person's own files.

    HORNBOOK_HOME/indexes/papers-3f1c9a0b2d4e/      for  hornbook ask papers "..."

The name is the folder's own, for a person who looks; the digest is of the resolved paths in any order, so that
``ask papers``, ``ask ./papers/`` and ``ask /home/me/papers`` share one index.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from hornbook.settings import Settings


def index_folder(paths: Sequence[str | os.PathLike[str]], settings: Settings) -> Path:
    """The folder that holds the index of these paths. Nothing is created."""
    resolved = sorted({os.fspath(Path(path).expanduser().resolve()) for path in paths})
    digest = hashlib.sha256("\0".join(resolved).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    name = re.sub(r"[^\w.-]+", "-", Path(resolved[0]).name).strip("-.")[:40] or "index"
    return settings.indexes / f"{name}-{digest}"
