"""The index of a person's documents: put files in, find passages.

    with Index.open("my-index") as index:
        index.ingest(["papers", "notes.md"])
        for hit in index.search("what limits the batch size?", k=5):
            print(hit.score, hit.document.path, hit.chunk.page, hit.chunk.text)

The embedding model is loaded only when something must be embedded: an ingest that finds nothing changed, and a search
with mode="sparse", need none. Reading never waits for writing. An Index may be used from several threads.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias, get_args

from filelock import FileLock, Timeout

from hornbook.errors import IndexFailure, IndexMismatch, UsageError
from hornbook.retrieve import analyze, segments
from hornbook.retrieve.filters import Where, to_sql
from hornbook.retrieve.ingest import Ingest, News
from hornbook.retrieve.rank import Ranking, rank
from hornbook.retrieve.store import FILE_NAME, REBUILD, Database, damaged, set_aside
from hornbook.retrieve.view import View
from hornbook.settings import Settings
from hornbook.types import Document, Embedder, Hit, IngestReport, Progress

Mode: TypeAlias = Literal["hybrid", "dense", "sparse"]
_CORRUPT = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_DAMAGE = (sqlite3.DatabaseError, zlib.error, UnicodeDecodeError)  # a damaged schema cannot even be quoted in a message
_CACHED_CHARACTERS = 16_000_000  # of document texts kept between searches


class Index:
    """An index in a folder; made by ``Index.open``. ``notices`` are sentences that a person should read, if any."""

    def __init__(self, folder: Path, embedder: str | Embedder | None, settings: Settings, readonly: bool) -> None:
        self.folder = folder
        self.readonly = readonly
        self.notices: list[str] = []
        self._settings = settings
        self._wanted = embedder
        self._embedder: Embedder | None = None if isinstance(embedder, str) else embedder
        self._lock = threading.RLock()
        self._documents: dict[int, Document] = {}
        self._database = self._open_database()
        self._view = View(self._database)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        embedder: str | Embedder | None = None,
        settings: Settings | None = None,
        readonly: bool = False,
    ) -> Index:
        """Open the index in ``folder``, making it where there is none.

        embedder: an Embedder, or what ``hornbook.load`` takes; default: the model that made the index, and for a new
            one the setting ``embedder``.
        readonly: never write, and raise IndexFailure where there is no index.

        Raises IndexMismatch for an index of another embedding model or format. A damaged index is set aside and
        begun anew, which ``notices`` says; the next ingest fills it.
        """
        path = Path(folder).expanduser().resolve()
        settings = settings or Settings.load()
        if embedder is None and "embedder" in settings.model_fields_set:
            embedder = settings.embedder
        index = cls(path, embedder, settings, readonly)
        try:
            index._check_embedder()
        except BaseException:
            index.close()
            raise
        return index

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> Index:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------------ writing

    def ingest(
        self,
        paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        *,
        progress: Progress | None = None,
        wait_seconds: float = 600.0,
        on_file: Callable[[News], None] | None = None,
        name_of: Callable[[Path], Path] | None = None,
    ) -> IngestReport:
        """Bring the index to the state of these files and folders; what is unchanged is not touched.

        Documents that were under these paths and are gone are removed; others are left alone. A file that cannot be
        read is in the report and is tried again when it changes. Another process that writes is waited for.
        ``on_file`` hears what becomes of each file; ``name_of`` gives the name whose suffix tells the format and which stands
        in for a title, where a file is not called so on disk. What either raises ends the ingest, of which the commits stay.
        Raises UsageError where a path is missing, IndexFailure where the index cannot be written.
        """
        named = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
        roots = [Path(path).expanduser().resolve() for path in named]
        max_bytes = int(self._settings.max_file_mb * 2**20)

        def once() -> IngestReport:
            with self._writing(progress, wait_seconds) as database:
                run = Ingest(
                    database,
                    lambda: self._model(database),
                    max_bytes=max_bytes,
                    progress=progress,
                    on_file=on_file,
                    name_of=name_of,
                )
                return run.run(roots, exclude=self.folder)

        try:
            return once()
        except _DAMAGE as error:
            if not _is_corrupt(error):
                raise self._failure(error) from error
            self._begin_anew(error)
        try:
            return once()
        except _DAMAGE as error:
            raise self._failure(error) from error

    def delete(self, document_ids: str | Iterable[str]) -> int:
        """Take documents out by ``document.id``; returns how many were there. The files are not touched."""
        ids = [document_ids] if isinstance(document_ids, str) else list(document_ids)
        with self._writing() as database, self._named_errors(), database.write() as connection:
            found = [connection.execute("SELECT id FROM document WHERE uid = ?", (id,)).fetchone() for id in set(ids)]
            numbers = [row[0] for row in found if row]
            segments.delete_documents(database, numbers)
        return len(numbers)

    def compact(self) -> None:
        """Merge the segments, leave behind what was deleted, and give its space back to the disk."""
        with self._writing() as database, self._named_errors():
            if (dimensions := database.meta("dimensions")) is not None:
                for group in segments.all_merges(database):
                    with database.write():
                        segments.merge(database, group, int(dimensions))
                segments.organise(database, int(dimensions))
            database.connection.execute("VACUUM")
            database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # ---------------------------------------------------------------------------------------------------- searching

    def search(self, query: str, k: int = 10, *, mode: Mode = "hybrid", where: Where | None = None) -> list[Hit]:
        """The best ``k`` passages, best first; fewer where fewer match.

        mode: "sparse" ranks by shared words (BM25), "dense" by meaning (cosine), "hybrid" by both.
        where: a filter, see filters.py: {"path": "papers/2024", "suffix": [".pdf", ".md"]}.

        hit.score is BM25, the cosine, or the fused score (fuse.py); hit.parts has what each retriever gave. Scores of
        different queries are comparable for "dense" only. Raises UsageError on an empty query or an unknown filter.
        """
        if not query.strip():
            raise UsageError("the query is empty", "Say what to look for.")
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}", "Ask for one passage or more.")
        if mode not in get_args(Mode):
            raise UsageError(f"there is no search mode {mode!r}", f"The modes are: {', '.join(get_args(Mode))}.")
        condition = to_sql(where) if where else None
        with self._lock:
            vector = None
            with self._named_errors():
                empty = self._is_empty()
            if empty:
                return []
            if mode != "sparse":
                vector = self._model(self._database).embed([query], kind="query")[0]
            with self._named_errors(), self._database.read():
                self._view.refresh()
                eligible = self._view.alive
                if condition:
                    eligible &= self._view.mask_of(self._database.matching(*condition))
                terms = analyze.terms(query) if mode != "dense" else None
                return self._hits(rank(self._view, eligible, terms, vector, k))

    def _hits(self, ranking: Ranking) -> list[Hit]:
        ids = self._view.chunk_ids(ranking.positions)
        found = self._database.chunks(ids)
        documents = self._texts({number for number, _ in found.values()})
        hits = []
        for at, id in enumerate(ids):
            number, place = found[id]
            document = documents[number]
            passage = replace(place, text=document.text[place.start : place.end])
            hits.append(Hit(float(ranking.scores[at]), passage, document, ranking.parts(at)))
        return hits

    def _texts(self, numbers: set[int]) -> dict[int, Document]:
        """Documents by number, kept between searches: a number is never used again, so that what is kept stays true."""
        missing = numbers - self._documents.keys()
        fresh = self._database.documents(missing)
        found = {number: self._documents[number] for number in numbers - missing} | fresh
        self._documents.update(fresh)
        if sum(len(document.text) for document in self._documents.values()) > _CACHED_CHARACTERS:
            self._documents = {}
        return found

    def document(self, id: str) -> tuple[Document, int] | None:
        """The document of that ``document.id`` and how many passages it has; None where it is not here."""
        with self._lock, self._named_errors(), self._database.read() as connection:
            row = connection.execute("SELECT id FROM document WHERE uid = ?", (id,)).fetchone()
            if row is None:
                return None
            chunks = connection.execute("SELECT count(*) FROM chunk WHERE document = ?", row).fetchone()[0]
            return self._texts({row[0]})[row[0]], chunks

    def frequencies(self, terms: Sequence[str]) -> tuple[int, dict[str, int]]:
        """How many passages there are, and how many of them hold each of these terms (of ``analyze.terms``)."""
        with self._lock, self._named_errors(), self._database.read():
            self._view.refresh()
            return self._view.frequencies(terms)

    @property
    def stats(self) -> dict[str, Any]:
        """Counts and sizes: documents, chunks, failed, segments, deleted, bytes, embedder, dimensions, exact."""
        with self._lock, self._named_errors(), self._database.read() as connection:

            def count(sql: str) -> int:
                return int(connection.execute(sql).fetchone()[0])

            return {
                "folder": str(self.folder),
                "documents": count("SELECT count(*) FROM document"),
                "chunks": count("SELECT count(*) FROM chunk"),
                "failed": count("SELECT count(*) FROM failure"),
                "segments": count("SELECT count(*) FROM segment"),
                "deleted": count("SELECT coalesce(sum(dead), 0) FROM segment"),
                "bytes": sum(file.stat().st_size for file in self.folder.glob(FILE_NAME + "*")),
                "embedder": self._database.meta("embedder"),
                "dimensions": self._database.meta("dimensions"),
                "exact": self._database.meta("cells") is None,
            }

    def _is_empty(self) -> bool:
        return self._database.connection.execute("SELECT 1 FROM chunk LIMIT 1").fetchone() is None

    # ------------------------------------------------------------------------------------------- the embedding model

    def _check_embedder(self) -> None:
        """Compare as early as it costs nothing: an Embedder that is here, or a name that is not the recorded one."""
        made_by = self._database.meta("fingerprint")
        if made_by is None or self._wanted is None:
            return
        if isinstance(self._wanted, str) and self._wanted == self._database.meta("source"):
            return
        self._model(self._database)

    def _model(self, database: Database) -> Embedder:
        """The Embedder, loaded now where it was not; raises IndexMismatch where another one made the index."""
        with self._lock:
            if self._embedder is None:
                from hornbook.llm import load

                source = str(self._wanted or database.meta("source") or self._settings.embedder)
                loaded = load(source, settings=self._settings)
                if not isinstance(loaded, Embedder):
                    raise UsageError(
                        f"{source} is not an embedding model", "Choose one that turns text into vectors: minilm."
                    )
                self._embedder = loaded
            embedder = self._embedder
        made_by = database.meta("fingerprint")
        if made_by is None:
            if not database.readonly and self._is_writing:
                with database.write():
                    database.set_meta("fingerprint", embedder.fingerprint)
                    database.set_meta("embedder", embedder.name)
                    database.set_meta("dimensions", embedder.dimensions)
                    if name := self._source():
                        database.set_meta("source", name)
        elif made_by != embedder.fingerprint:
            name = database.meta("embedder")
            raise IndexMismatch(
                f"the index {self.folder} was made with the embedding model {name}, not {embedder.name}",
                f"Use {name}, or another folder for {embedder.name}, or delete the folder and ingest again.",
            )
        return embedder

    def _source(self) -> str | None:
        """What ``load`` was given, so that the next process finds the same model; None for an Embedder object."""
        if isinstance(self._wanted, str):
            return self._wanted
        return self._settings.embedder if self._wanted is None else None

    # -------------------------------------------------------------------------------------------- opening and errors

    def _open_database(self) -> Database:
        path = self.folder / FILE_NAME
        if self.readonly:
            if not path.exists():
                raise IndexFailure(f"there is no index in {self.folder}", "Ingest some documents first.")
            try:
                return Database.open(path, readonly=True)
            except _DAMAGE as error:
                raise self._failure(error) from error
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if path.exists() and not os.access(self.folder, os.W_OK):
                self.readonly = True
                return self._open_database()
            if path.exists() and path.stat().st_size:
                try:
                    return Database.open(path, readonly=False)
                except _DAMAGE as error:
                    if not _is_corrupt(error):
                        raise
                    with self._file_lock():
                        self._put_aside(error)
            with self._file_lock():  # two processes may both find no index: the second opens what the first made
                return Database.open(path, readonly=False)
        except OSError as error:
            raise IndexFailure(
                f"the index cannot be kept in {self.folder}: {error.strerror or error}",
                "Choose another folder for the index, or free it.",
            ) from error
        except _DAMAGE as error:
            raise self._failure(error) from error

    def _put_aside(self, error: Exception) -> None:
        aside = set_aside(self.folder / FILE_NAME)
        self.notices.append(f"the index was damaged ({error}); it is begun anew, the old file is {aside}")

    def _begin_anew(self, error: Exception) -> None:
        with self._lock, self._file_lock():
            self._database.close()
            self._put_aside(error)
        self._database = self._open_database()
        self._view = View(self._database)
        self._documents = {}

    def _file_lock(self) -> FileLock:
        return FileLock(self.folder / "write.lock")

    @contextmanager
    def _writing(self, progress: Progress | None = None, wait_seconds: float = 600.0) -> Iterator[Database]:
        """A connection of its own for a writer, so that this Index can be searched meanwhile; one writer at a time."""
        if self.readonly:
            raise IndexFailure(
                f"the index {self.folder} is open for reading only", "Open it in a folder you may write."
            )
        lock = self._file_lock()
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if progress:
                progress("waiting for another process that writes this index", 0, 0)
            try:
                lock.acquire(timeout=wait_seconds)
            except Timeout:
                raise IndexFailure(
                    f"another process has been writing the index {self.folder} for {wait_seconds:g} s",
                    "Wait for it or end it, then try again.",
                ) from None
        try:
            database = Database.open(self.folder / FILE_NAME, readonly=False)
            self._is_writing = True
            try:
                yield database
            finally:
                self._is_writing = False
                database.close()
        finally:
            lock.release()

    _is_writing = False

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """What a damaged file makes of SQLite, of zlib and of NumPy's views becomes one named error."""
        try:
            yield
        except (sqlite3.DatabaseError, zlib.error, ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> IndexFailure:
        path = self.folder / FILE_NAME
        if _is_corrupt(error):
            return damaged(path, error)
        code = getattr(error, "sqlite_errorcode", None)
        if code is not None and code & 0xFF == sqlite3.SQLITE_FULL:
            return IndexFailure(f"the disk of the index {path} is full", "Free some space; nothing was lost.")
        return IndexFailure(f"the index {path} cannot be used: {error}", REBUILD)


def _is_corrupt(error: Exception) -> bool:
    """Is the file at fault? SQLite says so by its code, or could not decode what should be UTF-8."""
    if isinstance(error, sqlite3.DatabaseError):
        code = getattr(error, "sqlite_errorcode", None)
        return isinstance(error, sqlite3.OperationalError) if code is None else (code & 0xFF) in _CORRUPT
    return True
