"""Bring an index to the state of some files: read what is new or changed, drop what is gone, touch nothing else.

    walk -> unchanged? (size and time, else SHA-256) -> parse -> chunk -> embed by length -> one commit a batch

Every commit leaves the index complete for the files it names, so that a kill at any moment costs at most the batch in
hand: the next ingest finds the committed files unchanged and goes on. The vectors of a file that is larger than a batch
are kept aside as they are made ("pending") and are not made twice. A passage whose words, title and section were
embedded before, anywhere in the index, takes that vector.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

import hornbook
from hornbook.errors import ParseError
from hornbook.retrieve import analyze, chunk, dense, segments
from hornbook.retrieve.parse.worker import Worker
from hornbook.retrieve.segments import NewChunk
from hornbook.retrieve.sparse import SEGMENT_ROWS
from hornbook.retrieve.store import Database, batched
from hornbook.retrieve.walk import Found, walk
from hornbook.types import Chunk, Document, Embedder, IngestReport, Progress

BATCH_CHUNKS = 256
_EMBED_CHUNKS = 1024  # of one large file, between two commits of its pending vectors
_RACY_NS = 2_000_000_000  # a file may change twice within its file system's clock tick; two seconds is FAT's


class News(NamedTuple):
    """What became of one file. "ready" comes with its commit, "unchanged" with nothing more, "failed" with the reason."""

    path: Path
    state: Literal["reading", "ready", "unchanged", "failed"]
    reason: str = ""
    document: Document | None = None
    chunks: int = 0


class _Known(NamedTuple):
    """What the index remembers of a file: a document, or a failure where ``number`` is None."""

    number: int | None
    size: int
    mtime_ns: int
    checked_ns: int
    sha256: bytes
    reason: str = ""


class _Read(NamedTuple):
    """A file that was parsed and cut, waiting for its commit."""

    document: Document
    replaces: int | None
    found: Found
    sha256: bytes
    chunks: list[Chunk]


@dataclass
class _Tally:
    added: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


class Ingest:
    """One run. The caller holds the lock for writers."""

    def __init__(
        self,
        database: Database,
        embedder: Callable[[], Embedder],
        *,
        max_bytes: int,
        progress: Progress | None = None,
        on_file: Callable[[News], None] | None = None,
        name_of: Callable[[Path], Path] | None = None,
    ) -> None:
        """``on_file`` hears of every file as it comes to it; ``name_of``: what a file is called where that is not its path's end."""
        self._database = database
        self._load_embedder = embedder
        self._max_bytes = max_bytes
        self._progress: Progress = progress or (lambda what, done, total: None)
        self._on_file: Callable[[News], None] = on_file or (lambda news: None)
        self._name_of: Callable[[Path], Path] = name_of or (lambda path: path)
        self._tally = _Tally()
        self._waiting: list[_Read] = []
        self._worker = Worker()

    def run(self, paths: Sequence[Path], *, exclude: Path) -> IngestReport:
        """``paths`` are absolute; nothing under ``exclude`` (the index's own folder) is read."""
        began = time.monotonic()
        known = self._known(paths)
        found, present, unreadable = self._walk(paths, exclude)
        try:
            for done, file in enumerate(found):
                self._progress("reading", done, len(found))
                self._file(file, known.get(str(file.path)))
        finally:
            self._worker.close()
        self._commit()
        self._progress("reading", len(found), len(found))
        self._remove(known, present, unreadable)
        self._tidy()
        return IngestReport(
            added=self._tally.added,
            updated=self._tally.updated,
            removed=self._tally.removed,
            unchanged=self._tally.unchanged,
            chunks=self._database.connection.execute("SELECT count(*) FROM chunk").fetchone()[0],
            failed=tuple(self._tally.failed),
            seconds=time.monotonic() - began,
        )

    def _known(self, paths: Iterable[Path]) -> dict[str, _Known]:
        """What the index holds of these paths and below."""
        known: dict[str, _Known] = {}
        for path in paths:
            top = str(path)
            below = top.rstrip(os.sep)
            span = (top, below + os.sep, below + chr(ord(os.sep) + 1))  # 'x/' <= path < 'x0': below the folder x
            where = "WHERE path = ? OR (path >= ? AND path < ?)"
            columns = "size, mtime_ns, checked_ns, sha256"
            for row in self._database.connection.execute(f"SELECT path, id, {columns} FROM document {where}", span):
                known[row[0]] = _Known(*row[1:])
            for row in self._database.connection.execute(
                f"SELECT path, NULL, {columns}, reason FROM failure {where} AND version = ?",
                (*span, hornbook.__version__),
            ):
                known[row[0]] = _Known(*row[1:])
        return known

    def _walk(self, paths: Sequence[Path], exclude: Path) -> tuple[list[Found], set[str], list[str]]:
        """(files to read, their paths, folders that could not be listed)."""
        found: list[Found] = []
        unreadable: list[str] = []
        for item in walk(paths, max_bytes=self._max_bytes):
            if item.path == exclude or exclude in item.path.parents:
                continue
            if isinstance(item, Found):
                found.append(item)
                self._progress("looking", len(found), 0)
            else:
                self._on_file(News(item.path, "failed", item.reason))
                if item.ordinary:
                    continue
                self._tally.failed.append((str(item.path), item.reason))
                if item.path.is_dir():
                    unreadable.append(str(item.path).rstrip(os.sep) + os.sep)
        return found, {str(item.path) for item in found}, unreadable

    def _file(self, found: Found, known: _Known | None) -> None:
        path = str(found.path)
        self._on_file(News(found.path, "reading"))
        if (
            known
            and (known.size, known.mtime_ns) == (found.size, found.modified_ns)
            and found.modified_ns < known.checked_ns - _RACY_NS
        ):
            self._unchanged(path, known)
            return
        sha256 = b""
        try:
            data = _read(found.path, self._max_bytes)
            sha256 = hashlib.sha256(data).digest()
            if known and known.sha256 == sha256:
                self._touch(found, known)
                self._unchanged(path, known)
                return
            document = replace(self._worker.parse(data, self._name_of(found.path)), id=document_id(path), path=path)
        except ParseError as error:
            self._fail(found, sha256, error.what, known)
            return
        chunks = list(chunk.chunks(document, self._load_embedder().count_tokens))
        replaces = known.number if known else None
        self._waiting.append(_Read(document, replaces, found, sha256, chunks))
        if sum(len(read.chunks) for read in self._waiting) >= BATCH_CHUNKS:
            self._commit()

    def _unchanged(self, path: str, known: _Known) -> None:
        if known.number is None:
            self._tally.failed.append((path, known.reason))
            self._on_file(News(Path(path), "failed", known.reason))
        else:
            self._tally.unchanged += 1
            self._on_file(News(Path(path), "unchanged"))

    def _touch(self, found: Found, known: _Known) -> None:
        """Same content, another time stamp: remember the stamp, so that the next run need not read the file."""
        table = "failure" if known.number is None else "document"
        with self._database.write() as connection:
            connection.execute(
                f"UPDATE {table} SET size = ?, mtime_ns = ?, checked_ns = ? WHERE path = ?",
                (found.size, found.modified_ns, time.time_ns(), str(found.path)),
            )

    def _fail(self, found: Found, sha256: bytes, reason: str, known: _Known | None) -> None:
        """Remember why, until the file changes or another Hornbook, which may read it, comes; what it held before goes."""
        path = str(found.path)
        self._tally.failed.append((path, reason))
        with self._database.write() as connection:
            if known and known.number is not None:
                segments.delete_documents(self._database, [known.number])
            connection.execute(
                "INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?, ?, ?, ?)",
                (path, found.size, found.modified_ns, time.time_ns(), sha256, hornbook.__version__, reason),
            )
        self._on_file(News(found.path, "failed", reason))

    # ------------------------------------------------------------------------------------------------------ commit

    def _commit(self) -> None:
        """Embed what waits and write it: documents, chunks, postings, vectors, and the removal of what they replace."""
        reads, self._waiting = self._waiting, []
        if not reads:
            return
        embedder = self._load_embedder()
        texts = [_embedding_text(read.document, piece) for read in reads for piece in read.chunks]
        digests = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
        vectors = self._vectors(embedder, texts, digests)
        with self._database.write() as connection:
            rows: list[NewChunk] = []
            for read in reads:
                if read.replaces is not None:
                    segments.delete_documents(self._database, [read.replaces])
                connection.execute("DELETE FROM failure WHERE path = ?", (read.document.path,))
                number = self._database.add_document(
                    read.document,
                    size=read.found.size,
                    mtime_ns=read.found.modified_ns,
                    sha256=read.sha256,
                    suffix=read.found.path.suffix.lower(),
                )
                for ordinal, piece in enumerate(read.chunks):
                    digest = digests[len(rows)]
                    terms = analyze.terms(chunk.context(read.document, piece.section)) + analyze.terms(piece.text)
                    rows.append(
                        NewChunk(number, ordinal, piece.start, piece.end, piece.page, piece.section, piece.line,
                                 digest, terms, vectors[digest])
                    )  # fmt: skip
            for some in batched(rows, SEGMENT_ROWS):
                segments.write_segment(self._database, some)
            connection.executemany("DELETE FROM pending WHERE digest = ?", ((digest,) for digest in vectors))
        for read in reads:
            self._on_file(News(read.found.path, "ready", "", read.document, len(read.chunks)))
            if read.replaces is None:
                self._tally.added += 1
            else:
                self._tally.updated += 1
        self._merge(segments.due_merges(self._database))

    def _vectors(self, embedder: Embedder, texts: Sequence[str], digests: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """digest -> [d] int16; embeds only what the index has never seen, shortest first so that batches are even."""
        wanted = dict(zip(digests, texts, strict=True))
        vectors = segments.known_vectors(self._database, list(wanted), embedder.dimensions)
        missing = sorted((d for d in wanted if d not in vectors), key=lambda d: len(wanted[d]))
        for some in batched(missing, _EMBED_CHUNKS):
            for part in batched(some, 64):
                self._progress("embedding", len(vectors), len(wanted))
                packed = dense.pack(np.asarray(embedder.embed([wanted[d] for d in part], kind="passage")))
                vectors.update(zip(part, packed, strict=True))
            if len(missing) > _EMBED_CHUNKS:
                with self._database.write() as connection:
                    connection.executemany(
                        "INSERT OR REPLACE INTO pending VALUES (?, ?)", ((d, vectors[d].tobytes()) for d in some)
                    )
        return vectors

    def _remove(self, known: dict[str, _Known], present: set[str], unreadable: Sequence[str]) -> None:
        """Forget files that are gone. What lies in a folder that could not be listed may still be there: it stays."""
        gone = {
            path: item for path, item in known.items() if path not in present and not path.startswith(tuple(unreadable))
        }
        if not gone:
            return
        numbers = [item.number for item in gone.values() if item.number is not None]
        with self._database.write() as connection:
            segments.delete_documents(self._database, numbers)
            connection.executemany("DELETE FROM failure WHERE path = ?", [(path,) for path in gone])
        self._tally.removed += len(numbers)

    def _merge(self, groups: Sequence[Sequence[int]]) -> None:
        for group in groups:
            with self._database.write():
                segments.merge(self._database, group, int(self._database.meta("dimensions")))

    def _tidy(self) -> None:
        if self._database.connection.execute("SELECT 1 FROM pending LIMIT 1").fetchone():
            with self._database.write() as connection:  # of a file that changed after its ingest was interrupted
                connection.execute("DELETE FROM pending")
        if (dimensions := self._database.meta("dimensions")) is not None:
            self._merge(segments.due_merges(self._database))
            segments.organise(self._database, int(dimensions))


def document_id(path: str) -> str:
    """A document is known by its path: an edited file stays the same document."""
    return hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _embedding_text(document: Document, piece: Chunk) -> str:
    heading = chunk.context(document, piece.section)
    return f"{heading}\n{piece.text}" if heading else piece.text


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ParseError(f"cannot be read: {error.strerror or error}") from error
    if len(data) > max_bytes:
        raise ParseError(f"larger than {max_bytes / 2**20:g} MB")
    return data
