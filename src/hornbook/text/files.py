"""Read the small files of a model's folder; what is wrong with one is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hornbook.errors import ModelFileError

FIX = "Pull the model again, or restore the file."
Json = dict[str, Any]


def read_json(path: Path) -> Json:
    """A JSON object from a file, {} where there is none. Raise ModelFileError on anything else."""
    text = read_text(path)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} cannot be read: {one_line(error)}", FIX) from error
    if not isinstance(value, dict):
        raise ModelFileError(f"{path} is not a JSON object", FIX)
    return value


def read_text(path: Path) -> str | None:
    """The text of a UTF-8 file, None where there is none. Raise ModelFileError where it cannot be read."""
    try:
        return path.read_text("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path} cannot be read: {one_line(error)}", FIX) from error


def one_line(error: Exception) -> str:
    """An error's message without its line breaks, shortened."""
    return " ".join(str(error).split())[:200]
