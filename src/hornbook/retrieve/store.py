"""The index on disk: one SQLite file. This file knows SQL and nothing of words or vectors.

    meta      what made the index: embedding model, dimensions, generation (grows with every commit), centroids
    document  a file as it was parsed: its text (deflated), its pieces, and what tells whether the file has changed
    failure   a file that could not be parsed, and why; it is not tried again until it changes
    chunk     id = segment * 65,536 + row: a chunk's number is its place; its text is document.text[start:end]
    segment   an immutable batch of chunks: their lengths in terms, and a bit for each that is not deleted
    posting   (segment, term) -> rows and counts          see sparse.py
    vector    (segment, cell) -> packed vectors           see dense.py
    pending   vectors of a large file that is not complete yet, so that an interruption loses little

Write-ahead logging makes a commit atomic and lets readers go on reading their snapshot while a writer writes.
Writers take turns by a file lock beside the database. docs/decisions/0001-index-store.md says why SQLite.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from hornbook.errors import IndexFailure, IndexMismatch
from hornbook.types import Chunk, Document, Piece

FORMAT = 1
FILE_NAME = "index.sqlite"
_APPLICATION_ID = 0x484F524E  # "HORN"
_BUSY_SECONDS = 30.0

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE document (
    id INTEGER PRIMARY KEY AUTOINCREMENT, uid TEXT NOT NULL UNIQUE, path TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, checked_ns INTEGER NOT NULL, sha256 BLOB NOT NULL,
    title TEXT NOT NULL, media_type TEXT NOT NULL, suffix TEXT NOT NULL, metadata TEXT NOT NULL,
    text BLOB NOT NULL, pieces BLOB NOT NULL);
CREATE TABLE failure (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, checked_ns INTEGER NOT NULL,
    sha256 BLOB NOT NULL, version TEXT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segment (
    id INTEGER PRIMARY KEY AUTOINCREMENT, rows INTEGER NOT NULL, dead INTEGER NOT NULL, celled INTEGER NOT NULL,
    lengths BLOB NOT NULL, alive BLOB NOT NULL);
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY, document INTEGER NOT NULL REFERENCES document (id), ordinal INTEGER NOT NULL,
    start INTEGER NOT NULL, end INTEGER NOT NULL, page INTEGER, section TEXT NOT NULL, line INTEGER,
    digest BLOB NOT NULL);
CREATE INDEX chunk_of_document ON chunk (document);
CREATE INDEX chunk_of_digest ON chunk (digest);
CREATE TABLE posting (
    segment INTEGER NOT NULL, term TEXT NOT NULL, rows BLOB NOT NULL, counts BLOB NOT NULL,
    PRIMARY KEY (segment, term)) WITHOUT ROWID;
CREATE TABLE vector (
    segment INTEGER NOT NULL, cell INTEGER NOT NULL, first INTEGER NOT NULL, data BLOB NOT NULL,
    UNIQUE (segment, first));
CREATE INDEX vector_of_cell ON vector (segment, cell);
CREATE TABLE pending (digest BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('generation', 0);
"""


class Database:
    """A connection to the index file. ``write()`` and ``read()`` are transactions."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, readonly: bool) -> None:
        self.connection = connection
        self.path = path
        self.readonly = readonly

    @classmethod
    def open(cls, path: Path, *, readonly: bool) -> Database:
        """Open, creating the file unless ``readonly``.

        Raises IndexMismatch where another format wrote it, sqlite3.DatabaseError where it is damaged.
        """
        connection = _connect_readonly(path) if readonly else _connect(path)
        try:
            if not readonly and not _tables(connection):
                connection.execute("BEGIN IMMEDIATE")
                if not _tables(connection):  # none were made by another process while this one waited for its turn
                    made = f"{_SCHEMA} PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {FORMAT};"
                    for statement in made.split(";"):  # executescript would end the transaction first
                        connection.execute(statement)
                connection.execute("COMMIT")
            application = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if application != _APPLICATION_ID:
                raise IndexFailure(f"{path} is not an index of Hornbook", "Choose another folder for the index.")
            elif version != FORMAT:
                age = "newer" if version > FORMAT else "older"
                raise IndexMismatch(
                    f"the index {path} has format {version}, this Hornbook writes format {FORMAT}",
                    f"A {age} Hornbook made it: use that one, or delete the folder {path.parent} and ingest again.",
                )
        except BaseException:
            connection.close()
            raise
        return cls(connection, path, readonly=readonly)

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """All or nothing; on any exception, Ctrl-C too, nothing. Raises IndexFailure where the disk is full."""
        if self.readonly:
            raise IndexFailure(f"the index {self.path} is open for reading only", "Open it without readonly=True.")
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
            self.connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One unchanging view of the index, whatever a writer commits meanwhile."""
        if self.connection.in_transaction:  # inside write(): its own view
            yield self.connection
            return
        self.connection.execute("BEGIN")
        try:
            yield self.connection
        finally:
            self.connection.execute("ROLLBACK")

    # ---------------------------------------------------------------------------------------------- meta and files

    def meta(self, key: str) -> Any:
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set_meta(self, key: str, value: Any) -> None:
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def add_document(self, document: Document, *, size: int, mtime_ns: int, sha256: bytes, suffix: str) -> int:
        """Returns the number that ``chunk.document`` refers to."""
        pieces = json.dumps([astuple(piece) for piece in document.pieces], ensure_ascii=False, separators=(",", ":"))
        cursor = self.connection.execute(
            "INSERT INTO document (uid, path, size, mtime_ns, checked_ns, sha256, title, media_type, suffix, metadata, "
            "text, pieces) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(document.id, document.path, size, mtime_ns, time.time_ns(), sha256, document.title),
                *(document.media_type, suffix, json.dumps(dict(document.metadata), ensure_ascii=False)),
                *(_deflate(document.text), _deflate(pieces)),
            ),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def documents(self, numbers: Iterable[int]) -> dict[int, Document]:
        found = {}
        for number in set(numbers):
            row = self.connection.execute(
                "SELECT uid, path, text, pieces, title, media_type, metadata FROM document WHERE id = ?", (number,)
            ).fetchone()
            if row is None:
                raise IndexFailure(f"the index {self.path} has lost document {number}", REBUILD)
            uid, path, text, pieces, title, media_type, metadata = row
            places = tuple(Piece(*values) for values in json.loads(_inflate(pieces)))
            found[number] = Document(uid, path, _inflate(text), places, title, media_type, json.loads(metadata))
        return found

    def chunks(self, ids: Sequence[int]) -> dict[int, tuple[int, Chunk]]:
        """id -> (document number, Chunk), the chunk's text left empty: the document has it."""
        found: dict[int, tuple[int, Chunk]] = {}
        for some in batched(ids, 500):
            marks = ",".join("?" * len(some))
            rows = self.connection.execute(
                "SELECT c.id, c.document, d.uid, c.ordinal, c.start, c.end, c.page, c.section, c.line FROM chunk c "
                f"JOIN document d ON d.id = c.document WHERE c.id IN ({marks})",
                some,
            )
            for id, number, uid, ordinal, start, end, page, section, line in rows:
                found[id] = (number, Chunk(f"{uid}:{ordinal}", uid, "", start, end, page, section, line))
        return found

    def matching(self, condition: str, parameters: Sequence[Any]) -> np.ndarray:
        """The numbers of the chunks that a filter (filters.py) lets through."""
        rows = self.connection.execute(
            f"SELECT c.id FROM chunk c JOIN document d ON d.id = c.document WHERE {condition}", parameters
        )
        return np.fromiter((id for (id,) in rows), np.int64)


REBUILD = "Delete the folder of the index and ingest again; the documents themselves are not touched."


def damaged(path: Path, error: Exception) -> IndexFailure:
    return IndexFailure(f"the index {path} is damaged ({error})", "Ingest again: it is then rebuilt. " + REBUILD)


def set_aside(path: Path) -> Path:
    """Move a damaged index out of the way (never delete: a person may want it); returns where it went."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        side = path.with_name(path.name + suffix)
        if side.exists():
            side.replace(aside.with_name(aside.name + suffix))
    return aside


def batched(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _tables(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return count


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA page_size = 8192")  # only a new file takes it
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = NORMAL")  # in WAL: a power cut may lose a commit, never consistency
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA cache_size = -65536")  # 64 MiB
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turn the journal to WAL. While another process does the same to a new file SQLite does not wait, it refuses."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _connect_readonly(path: Path) -> sqlite3.Connection:
    """A read-only folder cannot hold the shared-memory file of WAL: where no writer can be, say so to SQLite."""
    wal = path.with_name(path.name + "-wal")
    writable = os.access(path.parent, os.W_OK)
    unchanging = not writable and (not wal.exists() or wal.stat().st_size == 0)
    uri = path.resolve().as_uri() + ("?immutable=1" if unchanging else "?mode=ro")
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _deflate(text: str) -> bytes:
    return zlib.compress(text.encode("utf-8", "surrogatepass"), 6)


def _inflate(data: bytes) -> str:
    return zlib.decompress(data).decode("utf-8", "surrogatepass")
