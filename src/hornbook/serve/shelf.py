"""What the names of models mean: those in the store, those that the server was started with, created ones, and adapters.

    smollm2:135m               a model of the store, by the name that ``hornbook list`` shows
    smollm2:135m:pirate        the same with an adapter: HOME/adapters/pirate, a folder that PEFT wrote
    mario                      a created model: another's weights with a system text, parameters, a template of its own

A name from a request is only ever looked up among these. It never becomes a path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from hornbook.checkpoint.catalog import nearest
from hornbook.checkpoint.created import Created, CreatedModels
from hornbook.checkpoint.meaning import Meaning
from hornbook.checkpoint.store import Entry, Store
from hornbook.errors import HornbookError, ModelNotFound
from hornbook.serve.errors import NotThere
from hornbook.settings import Settings

ADAPTER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that can be asked for. ``digest``: SHA-256 of the weights, "" where it was never taken; ``modified``: ISO 8601."""

    name: str
    kind: str
    size: int
    modified: str
    digest: str
    family: str = ""
    parameters: int | None = None
    quantisation: str = ""
    context_length: int | None = None
    parent: str = ""  # of a created model
    format: str = ""  # of the weights: gguf or safetensors


class Shelf:
    """All names of one server. Its methods read files: for a thread."""

    def __init__(self, settings: Settings, paths: tuple[Path, ...] = ()) -> None:
        self.store = Store(settings)
        self.created = CreatedModels(settings, self.store)
        self.adapters_folder = settings.home / "adapters"
        self._given = {path.stem: replace(self.store.get(str(path)), name=path.stem) for path in paths}

    def find(self, name: str) -> Meaning:
        """Raises ModelNotFound, which offers the nearest names, and ModelFileError where a created model has lost its weights."""
        entries = self.entries()
        found = self._plain(name, entries)
        if found is None:
            base, colon, adapter = name.rpartition(":")
            folder = self.adapter(adapter) if colon else None
            plain = self._plain(base, entries) if folder is not None else None
            if plain is not None and folder is not None and plain.adapter is None:
                found = replace(plain, name=name, adapter=(adapter, folder))
        if found is not None:
            return found
        known = sorted({*entries, *(made.name for made in self.created.all())})
        near = nearest(name, known)
        if near:
            remedy = f"Did you mean {' or '.join(near)}?"
        else:
            remedy = f"Here are: {', '.join(known) or 'none yet'}. hornbook pull fetches others."
        raise ModelNotFound(f"no model is named {name[:200]!r} here", remedy)

    def _plain(self, name: str, entries: Mapping[str, Entry]) -> Meaning | None:
        """What a name without an adapter stands for."""
        for one in (name, name.removesuffix(":latest")):
            if one in entries:
                return Meaning(one, entries[one])
        made = self.created.find(name)
        return None if made is None else Meaning.of(made, self.created)

    def entries(self) -> dict[str, Entry]:
        """The models with weights of their own."""
        return {entry.name: entry for entry in self.store.list()} | self._given

    def listed(self) -> list[Listed]:
        made = [self._listed_made(one) for one in self.created.all()]
        return [*(_listed(entry) for _, entry in sorted(self.entries().items())), *made]

    def _listed_made(self, made: Created) -> Listed:
        """With what its base is; also where that is gone, which is told when it is asked for."""
        base = Path(made.base.source) if not made.base.in_store else None
        try:
            entry = self.store.get(made.base.source)
        except HornbookError:
            entry = Entry(made.name, "path", base or Path(), "unknown")
        digest, size = made.digest, made.base.size + (made.adapter.size if made.adapter else 0)
        return replace(
            _listed(entry), name=made.name, size=size, modified=made.created, digest=digest, parent=made.parent
        )

    def adapter(self, name: str) -> Path | None:
        """The folder of an adapter; None where there is none of that name."""
        if not ADAPTER.fullmatch(name):
            return None
        folder = self.adapters_folder / name
        return folder if (folder / "adapter_config.json").is_file() else None

    def need_adapter(self, name: str) -> Path:
        folder = self.adapter(name)
        if folder is None:
            raise NotThere(
                f"there is no adapter {name[:100]!r}",
                f"Put the folder that PEFT wrote (adapter_config.json, adapter_model.safetensors) in {self.adapters_folder}.",
            )
        return folder

    def adapters(self) -> list[str]:
        if not self.adapters_folder.is_dir():
            return []
        return sorted(folder.name for folder in self.adapters_folder.iterdir() if self.adapter(folder.name) is not None)


def _listed(entry: Entry) -> Listed:
    try:
        modified = entry.path.stat().st_mtime
        about = _about(entry.path, modified)
    except (OSError, HornbookError):  # removed just now, or damaged: listed all the same
        modified, about = 0.0, {}
    return Listed(
        name=entry.name,
        kind=entry.kind,
        size=entry.size,
        modified=entry.pulled or datetime.fromtimestamp(modified, UTC).isoformat(timespec="seconds"),
        digest=entry.sha256,
        family=str(about.get("architecture") or ""),
        parameters=about.get("parameters"),
        quantisation=str(about.get("quantisation") or ""),
        context_length=about.get("context_length"),
        format=str(about.get("format") or ""),
    )


@lru_cache(maxsize=256)
def _about(path: Path, modified: float) -> dict[str, Any]:
    """What the header says; read once, as long as the file does not change."""
    from hornbook.checkpoint.describe import describe

    return dict(describe(path))
