"""What came, file by file, into a collection: kept, known already, left out, refused; one bad file stops no other."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hornbook.errors import HornbookError, ParseError, UsageError
from hornbook.retrieve.walk import SKIPPED_FOLDERS
from hornbook.serve.kb import names, unzip
from hornbook.serve.kb.collections import Collection
from hornbook.serve.kb.upload import FILES, Received

_RESIDUE = frozenset([".ds_store", "thumbs.db", "desktop.ini"])


@dataclass
class Taken:
    """What became of the files of one request."""

    documents: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)

    @property
    def fresh(self) -> bool:
        """Whether there is something new to read."""
        return any(not document["duplicate"] for document in self.documents)

    def refuse(self, name: str, error: HornbookError) -> None:
        self.errors.append({"name": shown_path(name), "error": error.what, "remedy": error.remedy})

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append({"name": shown_path(name), "reason": reason})

    def to_json(self) -> dict[str, Any]:
        return {"documents": self.documents, "skipped": self.skipped, "errors": self.errors}


def take(collection: Collection, files: Iterable[Received], *, max_bytes: int, max_file_bytes: int) -> Taken:
    """Blocking. ``max_bytes``: what the archives of one request may come to when they are opened."""
    taken = Taken()
    room = unzip.Room(FILES, max_bytes)
    waiting = list(files)
    try:
        while waiting:
            file = waiting[0]
            if file.too_large:
                limit = f"{max_file_bytes / 2**20:,.0f} MB"
                taken.refuse(file.name, UsageError(f"larger than {limit}", "Raise max_file_mb, or send a part of it."))
            elif names.suffix_of(file.name) == ".zip":
                _open(collection, file, room, max_file_bytes, taken)
            else:
                _one(collection, file, taken)
            del waiting[0]
    finally:
        for file in waiting:
            file.path.unlink(missing_ok=True)
    return taken


def keep(collection: Collection, taken: Taken, file: Received, url: str | None = None) -> None:
    """Make a document of a file, or say why not."""
    try:
        document, new = collection.keep(file.path, sha256=file.sha256, size=file.size, given=file.name, url=url)
        taken.documents.append(document.to_json() | {"duplicate": not new})
    except UsageError as error:
        taken.refuse(file.name, error)


def shown_path(name: str) -> str:
    base, folder = names.document_name(name)
    return f"{folder}/{base}" if folder else base


def _one(collection: Collection, file: Received, taken: Taken) -> None:
    if reason := _ordinary(file.name):
        file.path.unlink(missing_ok=True)
        taken.skip(file.name, reason)
    else:
        keep(collection, taken, file)


def _ordinary(given: str) -> str:
    """The rule by which a file of a dropped folder is left out without a warning, or ""."""
    name, folder = names.document_name(given)
    if name.lower() in _RESIDUE or name.startswith("~$"):
        return "left by a program, not a document"
    inside = folder.split("/") if folder else []
    if any(part in SKIPPED_FOLDERS for part in inside):
        return "folder of installed packages"
    if inside and any(part.startswith(".") for part in [*inside, name]):
        return "hidden"
    return ""


def _open(collection: Collection, archive: Received, room: unzip.Room, max_file_bytes: int, taken: Taken) -> None:
    """The archive's files become documents in a folder of its name; the archive itself is not kept."""
    _, folder = names.document_name(archive.name)
    above = f"{folder}/" if folder else ""
    try:
        for entry in unzip.entries(archive.path, room, max_bytes=max_file_bytes):
            name = above + entry.name
            if isinstance(entry, unzip.Refused):
                if entry.ordinary:
                    taken.skip(name, entry.reason)
                else:
                    taken.refuse(name, UsageError(entry.reason))
            elif reason := _ordinary(name):
                taken.skip(name, reason)
            else:
                _unpack(collection, entry, name, taken)
    except ParseError as error:
        taken.refuse(archive.name, error)
    finally:
        archive.path.unlink(missing_ok=True)


def _unpack(collection: Collection, entry: unzip.Entry, name: str, taken: Taken) -> None:
    """Raises TooMuch, after which nothing more of the archive is read."""
    path: Path = collection.incoming / secrets.token_hex(16)
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "xb") as file:
            for block in entry.blocks():
                size += len(block)
                digest.update(block)
                file.write(block)
        keep(collection, taken, Received(name, path, size, digest.hexdigest()))
    except unzip.TooMuch:
        raise
    except ParseError as error:
        taken.refuse(name, error)
    finally:
        path.unlink(missing_ok=True)
