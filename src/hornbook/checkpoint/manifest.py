"""What the store writes beside a model: hornbook.json, in the model's own folder, with paths relative to it.

So a model is one folder that can be copied to another disk or machine and is known there. Unknown keys are left
alone: a newer Hornbook may have written them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from hornbook.checkpoint.catalog import Kind
from hornbook.errors import ModelFileError

MANIFEST = "hornbook.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Entry:
    """A model that can be opened. ``path``: its GGUF file, or its folder. ``size`` in bytes, all files together.

    ``sha256`` is that of the weights (of their list of hashes, when there are several files) and empty for a path that
    is used in place; ``terms`` is a URL, or a file, where the licence's terms are; ``pulled`` is an ISO 8601 time, UTC.
    """

    name: str
    source: str
    path: Path
    kind: Kind = "unknown"
    sha256: str = ""
    size: int = 0
    licence: str = ""
    terms: str = ""
    pulled: str = ""
    resolved: tuple[str, ...] = ()  # what the source stood for then: name==version, or repository@commit
    files: Mapping[str, int] = field(default_factory=dict)  # name in the folder -> bytes

    def to_json(self) -> dict[str, Any]:
        """The stable form that ``hornbook list --json`` prints."""
        return {
            "name": self.name,
            "source": self.source,
            "path": str(self.path),
            "kind": self.kind,
            "sha256": self.sha256,
            "size": self.size,
            "licence": self.licence,
            "terms": self.terms,
            "pulled": self.pulled or None,
        }


def write(folder: Path, entry: Entry, hashes: Mapping[str, tuple[int, str]]) -> None:
    """Write the manifest of a model whose files lie in ``folder``. ``hashes``: name -> (bytes, SHA-256)."""
    data = {
        "format": FORMAT,
        "name": entry.name,
        "source": entry.source,
        "resolved": list(entry.resolved),
        "path": entry.path.relative_to(folder).as_posix() if entry.path != folder else ".",
        "kind": entry.kind,
        "sha256": entry.sha256,
        "licence": entry.licence,
        "terms": entry.terms,
        "pulled": entry.pulled,
        "files": {name: {"size": size, "sha256": sha256} for name, (size, sha256) in sorted(hashes.items())},
    }
    (folder / MANIFEST).write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", "utf-8")


def read(folder: Path) -> Entry:
    """Read the manifest in ``folder``; raises ModelFileError when it is damaged or of a newer format."""
    try:
        data = json.loads((folder / MANIFEST).read_text("utf-8"))
        if data["format"] > FORMAT:
            raise ModelFileError(
                f"{folder / MANIFEST} has format {data['format']}, this Hornbook reads up to {FORMAT}",
                "Upgrade Hornbook.",
            )
        files = {str(name): int(about["size"]) for name, about in data["files"].items()}
        for name in [*files, data["path"]]:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name!r} is outside the folder")
        return Entry(
            name=str(data["name"]),
            source=str(data["source"]),
            path=folder if data["path"] == "." else folder / str(data["path"]),
            kind=data["kind"] if data["kind"] in get_args(Kind) else "unknown",
            sha256=str(data["sha256"]),
            size=sum(files.values()),
            licence=str(data.get("licence", "")),
            terms=_terms(folder, str(data.get("terms", ""))),
            pulled=str(data.get("pulled", "")),
            resolved=tuple(map(str, data.get("resolved", ()))),
            files=files,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"{folder / MANIFEST} cannot be read ({type(error).__name__}: {error})",
            f"hornbook rm {folder.name} removes this model; pull it again after that.",
        ) from error


def _terms(folder: Path, terms: str) -> str:
    """A URL as it is; the name of a licence file as a path that can be opened."""
    return terms if "://" in terms or not terms else str(folder / Path(terms).name)


def check_files(folder: Path, entry: Entry) -> None:
    """The quick check at every opening: each file is there with its size (a SHA-256 is taken at pull time only)."""
    for name, size in entry.files.items():
        try:
            found = (folder / name).stat().st_size
        except OSError:
            found = -1
        if found != size:
            state = "is missing" if found < 0 else f"has {found:,} bytes instead of {size:,}"
            raise ModelFileError(
                f"{entry.name} is damaged: {folder / name} {state}", f"hornbook pull {entry.name} fetches it again."
            )
