"""The collections of a home: made and deleted at once or not at all, and found again after any kill.

    collections = Collections(home / "collections", settings)
    papers = collections.create("papers", title="My papers")
    papers.keep(received, ...)          a file that came becomes a document that waits for its turn
    papers.shelf(embedder).search(...)  what the index finds, less what was deleted a moment ago

A collection is made in a folder of another name and renamed into place; deleted, it is renamed away first. Its index has a
number in its name, so that a new one is built beside the old, which answers until the new one is whole.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from hornbook.errors import HornbookError, StoreError, UsageError
from hornbook.retrieve.index import Index, Mode
from hornbook.retrieve.ingest import document_id
from hornbook.retrieve.parse import FORMATS, refusal
from hornbook.serve.errors import AlreadyThere, NotThere
from hornbook.serve.kb import names
from hornbook.serve.kb.catalogue import FILE_NAME, Catalogue, Listed
from hornbook.settings import Settings
from hornbook.types import Document, Embedder, Hit

_ID = 24  # characters of the SHA-256 that are a document's id: 96 bits
_LOOKING = 16  # look-ups and searches at once, of all collections; more wait
_ANSWERING = 64  # questions that a model is writing to
_MAKING, _GOING = ".new-", ".gone-"


class Collection:
    """One collection, open. Safe to use from several threads."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self.name = folder.resolve(), folder.name
        self.files, self.incoming = self.folder / "files", self.folder / "incoming"
        self.notices: list[str] = []
        self._lock = threading.RLock()
        self._index: Index | None = None
        self._embedder: Embedder | None = None  # with which the index is open
        # Without the mark that a person chose an embedding model: the collection has its own.
        self._index_settings = Settings.model_construct(_fields_set=set(), **settings.model_dump())
        self._closed = False
        self.is_begun_anew = False  # the index was damaged: what it held waits to be read again
        self.catalogue = Catalogue(folder / FILE_NAME)
        for made in (self.files, self.incoming):
            made.mkdir(exist_ok=True)
        self._sweep()

    def _sweep(self) -> None:
        """Take away what a kill left behind: half uploads, files without a row, indexes that were never finished."""
        for left in self.incoming.iterdir():
            left.unlink()
        stored = {document.stored: document for document in self.catalogue.documents()}
        for file in self.files.iterdir():
            if file.name not in stored:
                file.unlink()
        present = {file.name for file in self.files.iterdir()}
        for name, document in stored.items():
            if name not in present:
                self.catalogue.change(
                    document.id, state="failed", error="the file is gone from the collection's folder"
                )
            elif document.state == "reading":
                self.catalogue.change(document.id, state="waiting")
        self._follow_a_move()
        kept = {self.index_folder.name, self.rebuilding.name if self.rebuilding else ""}
        for old in self.folder.glob("index-*"):
            if old.name not in kept:
                shutil.rmtree(old, ignore_errors=True)

    def _follow_a_move(self) -> None:
        """An index knows its files by where they lie: a home that was moved or copied needs a new one."""
        known = self.catalogue.meta().get("folder")
        if known != str(self.folder):
            self.catalogue.set_meta({"folder": str(self.folder)})
            if known is not None and self.rebuilding is None:
                self.begin_rebuilding()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._close_index()
            self.catalogue.close()

    # ---------------------------------------------------------------------------------------------------- what it is

    @property
    def embedder(self) -> str:
        return str(self.catalogue.meta()["embedder"])

    @property
    def model(self) -> str | None:
        return self.catalogue.meta().get("model")

    def describe(self) -> dict[str, Any]:
        """The members of the form Collection that the disk knows."""
        meta, counts = self.catalogue.meta(), self.catalogue.counts()
        return {
            "name": self.name,
            "title": meta["title"],
            "description": meta["description"],
            "created": meta["created"],
            "documents": counts["waiting"] + counts["reading"] + counts["ready"] + counts["failed"],
            "waiting": counts["waiting"] + counts["reading"],
            "failed": counts["failed"],
            "passages": counts["passages"],
            "bytes": counts["bytes"],
            "embedder": meta["embedder"],
            "model": meta.get("model"),
            "notices": list(self.notices),
        }

    def searched(self, hits: int) -> dict[str, int]:
        """What a search went through."""
        counts = self.catalogue.counts()
        return {"documents": counts["ready"], "passages": counts["passages"], "hits": hits}

    # --------------------------------------------------------------------------------------------------- its documents

    def keep(self, file: Path, *, sha256: str, size: int, given: str, url: str | None = None) -> tuple[Listed, bool]:
        """Take over a file of ``incoming``: (the document, whether it is new). Raises UsageError for what no parser reads.

        given: what its sender calls it.
        """
        name, folder = names.document_name(given)
        suffix = names.suffix_of(name)
        try:
            if not size:
                raise UsageError("empty file", "Send a file with something in it.")
            with open(file, "rb") as start:
                if reason := refusal(Path("file" + suffix), start.read(8192)):
                    raise UsageError(reason, "docs/documents.md lists the formats that Hornbook reads.")
            id = sha256[:_ID]
            if (known := self.catalogue.get(id)) is not None and (self.files / known.stored).exists():
                return known, False
            media = FORMATS[suffix].media_type if suffix in FORMATS else "text/plain"
            document = Listed(id, name, folder, url, size, sha256, id + suffix, media, time.time())
            with self._lock:
                self._check_open()
                _to_disk(file)
                file.replace(self.files / document.stored)
                if not self.catalogue.add(document):  # its file was gone, and now it is back
                    self.catalogue.change(id, state="waiting", error=None, stored=document.stored)
            return self.catalogue.get(id) or document, True
        except OSError as error:
            raise StoreError(f"{name} cannot be kept: {error.strerror or error}", "Free some space.") from error
        finally:
            file.unlink(missing_ok=True)

    def document(self, id: str) -> Listed:
        """Raises NotThere."""
        found = self.catalogue.get(id)
        if found is None:
            raise NotThere(
                f"there is no document {names.shown(id)[:40]} in {self.name}", f"GET /kb/{self.name}/documents"
            )
        return found

    def remove(self, id: str) -> Listed:
        """Forget a document and delete its file; its passages are not found any more. Raises NotThere."""
        found = self.document(id)
        with self._lock:
            self._check_open()
            self.catalogue.remove(id)
            (self.files / found.stored).unlink(missing_ok=True)
        return found

    def file_of(self, listed: Listed) -> Path:
        """Raises NotThere where somebody took the file away."""
        if not (path := self.files / listed.stored).is_file():
            raise NotThere(f"the file of {listed.name} is gone from the collection's folder", "Send it again.")
        return path

    def of_hits(self, hits: Sequence[Hit]) -> dict[str, Listed]:
        """The documents of these hits, by the path that a hit and a citation name."""
        paths = {hit.document.path for hit in hits}
        found = {path: self.catalogue.get(id_of(path)) for path in paths}
        return {path: document for path, document in found.items() if document is not None}

    # ------------------------------------------------------------------------------------------------------- its index

    @property
    def index_folder(self) -> Path:
        return self.folder / f"index-{self.catalogue.meta().get('index', 1)}"

    @property
    def rebuilding(self) -> Path | None:
        """Where a new index is being built, if one is."""
        number = self.catalogue.meta().get("rebuilding")
        return self.folder / f"index-{number}" if number else None

    def begin_rebuilding(self) -> Path:
        """The folder of a new index; that of an earlier call where it was not finished."""
        if self.rebuilding is None:
            self.catalogue.set_meta({"rebuilding": int(self.catalogue.meta().get("index", 1)) + 1})
            self.catalogue.begin_again()
        folder = self.rebuilding
        assert folder is not None
        return folder

    def finish_rebuilding(self) -> None:
        """Let the new index answer from now on, and delete the old one."""
        with self._lock:
            self._check_open()
            old, meta = self.index_folder, self.catalogue.meta()
            self.catalogue.set_meta({"index": meta["rebuilding"], "rebuilding": None})
            self._close_index()
            self.notices.clear()
        shutil.rmtree(old, ignore_errors=True)

    def shelf(self, embedder: Embedder) -> Shelf:
        return Shelf(self, embedder)

    def opened(self, embedder: Embedder | None) -> Index:
        """The index, open for searching; hold ``lock`` while it is used. ``embedder`` None: for texts alone."""
        self._check_open()
        if self._index is not None and embedder is not None and self._embedder is not embedder:
            self._close_index()
        if self._index is None:
            self._index = self.open_index(self.index_folder, embedder)
            self._embedder = embedder
        return self._index

    def open_index(self, folder: Path, embedder: Embedder | None) -> Index:
        """An Index of its own, which the caller closes."""
        index = Index.open(folder, embedder=embedder, settings=self._index_settings)
        if index.notices:
            self.notices += index.notices
            self.is_begun_anew = True
            self.catalogue.begin_again()
        return index

    @property
    def lock(self) -> threading.RLock:
        return self._lock

    def forget_index(self) -> None:
        """Open it anew at the next search: another Index may have set a damaged one aside."""
        with self._lock:
            self._close_index()

    def text_of(self, listed: Listed) -> Document:
        """The document as it was read. Raises NotThere where it has not been read yet."""
        path = self.files / listed.stored
        with self._lock:
            found = self.opened(None).document(document_id(str(path)))
        if found is None:
            why = listed.error or f"it is {listed.state}"
            raise NotThere(
                f"{listed.name} has no text in {self.name}: {why}", "Wait until it is read, or see its error."
            )
        return found[0]

    def _check_open(self) -> None:
        if self._closed:
            raise NotThere(f"the collection {self.name} was deleted", "GET /kb lists those that are here.")

    def _close_index(self) -> None:
        if self._index is not None:
            self._index.close()
            self._index = self._embedder = None


class Shelf:
    """The index of a collection with an embedding model in hand, and without the documents that were just deleted."""

    def __init__(self, collection: Collection, embedder: Embedder) -> None:
        self._collection, self._embedder = collection, embedder

    def search(self, query: str, k: int = 10, *, mode: Mode = "hybrid", documents: Sequence[str] = ()) -> list[Hit]:
        """As Index.search. ``documents``: only in these, by id."""
        own = self._collection
        paths = [str(own.files.resolve() / found.stored) for found in own.catalogue.some(documents).values()]
        if documents and not paths:
            return []
        wanted = k
        while True:
            with own.lock:
                where = {"path": paths} if paths else None
                hits = own.opened(self._embedder).search(query, wanted, mode=mode, where=where)
            there = own.of_hits(hits)
            living = [hit for hit in hits if hit.document.path in there]
            if len(living) >= k or len(hits) < wanted:
                return living[:k]
            wanted *= 2

    def frequencies(self, terms: Sequence[str]) -> tuple[int, dict[str, int]]:
        with self._collection.lock:
            return self._collection.opened(self._embedder).frequencies(terms)


class Collections:
    """All collections below one folder, each opened when it is first asked for."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder, self._settings = folder, settings
        self._lock = threading.RLock()
        self._open: dict[str, Collection] = {}
        self.threads = anyio.CapacityLimiter(_LOOKING)
        self.answering = anyio.CapacityLimiter(_ANSWERING)  # apart: who looks does not wait for who writes
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{folder} cannot be made: {error.strerror or error}", "Check its permissions.") from error
        for left in [*folder.glob(_MAKING + "*"), *folder.glob(_GOING + "*")]:
            shutil.rmtree(left, ignore_errors=True)

    def names(self) -> list[str]:
        """Those that are here, in order."""
        return sorted(
            at.name for at in self.folder.iterdir() if not at.name.startswith(".") and (at / FILE_NAME).is_file()
        )

    def all(self) -> tuple[list[Collection], dict[str, HornbookError]]:
        """Those that are here, and by name what is wrong with those that cannot be opened."""
        found, broken = [], {}
        for name in self.names():
            try:
                found.append(self.get(name))
            except HornbookError as error:
                broken[name] = error
        return found, broken

    def get(self, name: str) -> Collection:
        """Raises NotThere, also for what cannot be a name, and IndexFailure where it is damaged."""
        with self._lock:
            name = self.check(name)
            if name not in self._open:
                self._open[name] = Collection(self.folder / name, self._settings)
            return self._open[name]

    def check(self, name: str) -> str:
        """The name in its one spelling. Raises NotThere."""
        with contextlib.suppress(UsageError):
            spelled = names.collection_name(name)
            if spelled in self._open or (
                (self.folder / spelled / FILE_NAME).is_file() and spelled in os.listdir(self.folder)
            ):
                return spelled
        raise NotThere(f"there is no collection {names.shown(name)[:80]!r}", "GET /kb lists those that are here.")

    def create(
        self,
        name: str | None = None,
        *,
        title: str = "",
        description: str = "",
        embedder: str | None = None,
        model: str | None = None,
    ) -> Collection:
        """Raises UsageError for a bad name, AlreadyThere."""
        title = names.shown(title)
        name = names.collection_name(name) if name else names.name_of_title(title)
        with self._lock:
            taken = {there.casefold() for there in self.names()}  # on some disks "Papers" and "papers" are one
            if name.casefold() in taken:
                raise AlreadyThere(
                    f"there is a collection {name!r} already", "Choose another name, or delete that one."
                )
            made = self.folder / (_MAKING + secrets.token_hex(8))
            try:
                made.mkdir()
                catalogue = Catalogue(made / FILE_NAME)
                catalogue.set_meta(
                    {
                        "title": title[:200] or name,
                        "description": names.shown(description)[:2_000],
                        "created": time.time(),
                        "embedder": embedder or self._settings.embedder,
                        "model": model,
                        "index": 1,
                        "rebuilding": None,
                    }
                )
                catalogue.close()
                made.rename(self.folder / name)
            except OSError as error:
                shutil.rmtree(made, ignore_errors=True)
                raise StoreError(
                    f"the collection {name} cannot be made in {self.folder}: {error.strerror or error}",
                    "Free some space.",
                ) from error
            return self.get(name)

    def delete(self, name: str) -> None:
        """All of it, also of one that is damaged. Whoever searches it meanwhile gets NotThere. Raises NotThere."""
        with self._lock:
            name = self.check(name)
            if (collection := self._open.pop(name, None)) is not None:
                collection.close()
            gone = self.folder / (_GOING + secrets.token_hex(8))
            (self.folder / name).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def close(self) -> None:
        with self._lock:
            for collection in self._open.values():
                collection.close()
            self._open.clear()


def id_of(path: str) -> str:
    """The id of the document that is stored at this path."""
    return Path(path).name.partition(".")[0]


def _to_disk(file: Path) -> None:
    """Wait until what was written would survive the machine's power."""
    with open(file, "rb+") as opened:
        os.fsync(opened.fileno())
