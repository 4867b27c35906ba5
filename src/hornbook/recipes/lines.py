"""A file of JSON, a value a line, that is as long as what was written to it even where the work is broken off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hornbook.errors import StoreError


class Lines:
    """Writes each line at once. Raises StoreError where the file cannot be opened or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("wb", buffering=0)  # nothing is left for closing, which could fail once more
        except OSError as error:
            raise self._refused(error) from error

    def write(self, row: Mapping[str, Any]) -> None:
        left = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        try:
            while left:
                left = left[self._file.write(left) :]  # a disk that is nearly full takes a part
        except OSError as error:
            raise self._refused(error) from error

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(
            f"{self.path} cannot be written: {error.strerror}", "Check the folder's permissions and the disk's space."
        )

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
