"""Metadata filters of a search: a small mapping, turned into parameterised SQL and nothing else.

    where={"path": "papers/2024"}              a folder and all below it, or a file
    where={"path": "*.pdf"}                    a glob on the whole path (``*`` crosses folders)
    where={"suffix": [".md", ".rst"]}          any of a list
    where={"section": "Methods*", "page": 3}   all must hold

Keys: path, suffix, media_type, title, document (its id), section, page. Text that holds ``*`` or ``?`` is a glob, other
text must be equal, but for path. Keys that no passage has are an error, not an empty answer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from hornbook.errors import UsageError

Where: TypeAlias = "Mapping[str, str | int | os.PathLike[str] | Sequence[str | int | os.PathLike[str]]]"

_COLUMNS = {
    "path": "d.path",
    "suffix": "d.suffix",
    "media_type": "d.media_type",
    "title": "d.title",
    "document": "d.uid",
    "section": "c.section",
    "page": "c.page",
}


def to_sql(where: Where) -> tuple[str, list[Any]]:
    """A condition over ``document d`` and ``chunk c``, and its parameters. Raises UsageError on an unknown key."""
    conditions, parameters = ["1"], []
    for key, wanted in where.items():
        if key not in _COLUMNS:
            raise UsageError(f"there is no filter {key!r}", f"The filters are: {', '.join(_COLUMNS)}.")
        values = [wanted] if isinstance(wanted, (str, int, os.PathLike)) else list(wanted)
        any_of = []
        for value in values:
            condition, given = _one(key, value)
            any_of.append(condition)
            parameters += given
        conditions.append(f"({' OR '.join(any_of)})" if any_of else "0")
    return " AND ".join(conditions), parameters


def _one(key: str, value: str | int | os.PathLike[str]) -> tuple[str, list[Any]]:
    column = _COLUMNS[key]
    if isinstance(value, int):
        return f"{column} = ?", [value]
    text = os.fspath(value)
    if "*" in text or "?" in text:
        return f"{column} GLOB ?", [text.replace("[", "[[]")]
    if key == "path":
        resolved = str(Path(text).expanduser().resolve())
        # 'x/' <= path < 'x0': everything below the folder x ('0' follows '/'), through the index on path
        below = resolved.rstrip(os.sep)
        return "(d.path = ? OR (d.path >= ? AND d.path < ?))", [resolved, below + os.sep, below + chr(ord(os.sep) + 1)]
    if key == "suffix":
        text = "." + text.lower().lstrip(".")
    return f"{column} = ?", [text]
