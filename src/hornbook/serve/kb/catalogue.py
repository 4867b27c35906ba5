"""What a collection knows of its documents: one SQLite file, which a kill at any moment leaves whole.

    document   a file by the SHA-256 of what it holds: its names to show, and how far it is on its way into the index
    meta       the collection's title, description, models and time of making

A document's row is written after its file lies in its place, and goes before its file does: what a kill leaves behind is
a file without a row, which the next opening sweeps away. A row that is "waiting" or "reading" is work to be taken up again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from hornbook.errors import IndexFailure

State = Literal["waiting", "reading", "ready", "failed"]
STATES: tuple[State, ...] = ("waiting", "reading", "ready", "failed")
FILE_NAME = "collection.sqlite"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Listed:
    """A document of a collection. ``id`` is the beginning of ``sha256``, and ``stored`` its file's name on disk."""

    id: str
    name: str
    folder: str
    url: str | None
    size: int
    sha256: str
    stored: str
    media_type: str
    added: float
    state: State = "waiting"
    error: str | None = None
    title: str = ""
    pages: int | None = None
    passages: int = 0
    characters: int = 0
    indexed: float | None = None

    def to_json(self) -> dict[str, Any]:
        form = asdict(self)
        del form["stored"]
        return form

    @property
    def brief(self) -> dict[str, str]:
        """What a hit and a citation say of the document."""
        return {"id": self.id, "name": self.name, "folder": self.folder, "title": self.title or self.name}


_COLUMNS = [field.name for field in fields(Listed)]
_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE document ({", ".join(name + (" TEXT PRIMARY KEY" if name == "id" else "") for name in _COLUMNS)});
CREATE INDEX document_by_state ON document (state);
CREATE INDEX document_by_time ON document (added, id);
"""


class Catalogue:
    """The file, open. Safe to use from several threads; every change is on disk when the call returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                with self._writing() as connection:
                    for statement in f"{_SCHEMA} PRAGMA user_version = {_FORMAT};".split(";"):
                        connection.execute(statement)
            elif version != _FORMAT:
                raise IndexFailure(
                    f"the collection {path.parent.name} has format {version}, this Hornbook writes format {_FORMAT}",
                    "Use the Hornbook that made it.",
                )
        except sqlite3.DatabaseError as error:
            raise self._failure(error) from error

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # ------------------------------------------------------------------------------------------------ the collection

    def meta(self) -> dict[str, Any]:
        return dict(self._rows("SELECT key, value FROM meta"))

    def set_meta(self, values: Mapping[str, Any]) -> None:
        with self._writing() as connection:
            connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    def counts(self) -> dict[str, int]:
        """Documents by state, and what they come to: {"waiting", "reading", "ready", "failed", "passages", "bytes"}."""
        row = self._rows("SELECT coalesce(sum(passages), 0), coalesce(sum(size), 0) FROM document")[0]
        states = dict(self._rows("SELECT state, count(*) FROM document GROUP BY state"))
        return {state: states.get(state, 0) for state in STATES} | {"passages": row[0], "bytes": row[1]}

    # -------------------------------------------------------------------------------------------------- its documents

    def add(self, document: Listed) -> bool:
        """Whether it is new; a document that is here stays as it is."""
        marks = ", ".join("?" * len(_COLUMNS))
        with self._writing() as connection:
            done = connection.execute(f"INSERT OR IGNORE INTO document VALUES ({marks})", astuple(document))
            return done.rowcount == 1

    def get(self, id: str) -> Listed | None:
        rows = self._rows(f"SELECT {', '.join(_COLUMNS)} FROM document WHERE id = ?", (id,))
        return Listed(*rows[0]) if rows else None

    def some(self, ids: Iterable[str]) -> dict[str, Listed]:
        return {id: found for id in set(ids) if (found := self.get(id)) is not None}

    def documents(self, *, state: str | None = None, offset: int = 0, limit: int = -1) -> list[Listed]:
        """In the order in which they were added."""
        where, given = ("WHERE state = ?", [state]) if state else ("", [])
        sql = f"SELECT {', '.join(_COLUMNS)} FROM document {where} ORDER BY added, id LIMIT ? OFFSET ?"
        return [Listed(*row) for row in self._rows(sql, (*given, limit, offset))]

    def change(self, id: str, **values: Any) -> Listed | None:
        """The document as it is then; None where it is gone."""
        with self._writing() as connection:
            assert set(values) <= set(_COLUMNS)
            changes = ", ".join(f"{name} = ?" for name in values)
            connection.execute(f"UPDATE document SET {changes} WHERE id = ?", (*values.values(), id))
            return self.get(id)

    def begin_again(self, states: Sequence[State] = STATES) -> int:
        """Let the documents of these states wait for their turn; returns how many."""
        marks = ", ".join("?" * len(states))
        with self._writing() as connection:
            sql = f"UPDATE document SET state = 'waiting', error = NULL WHERE state IN ({marks})"
            return connection.execute(sql, states).rowcount

    def remove(self, id: str) -> Listed | None:
        with self._writing() as connection:
            found = self.get(id)
            connection.execute("DELETE FROM document WHERE id = ?", (id,))
            return found

    # --------------------------------------------------------------------------------------------------------- pieces

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                    self._connection.execute("COMMIT")
                except BaseException:
                    if self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                    raise
            except sqlite3.DatabaseError as error:
                raise self._failure(error) from error

    def _rows(self, sql: str, given: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            try:
                return self._connection.execute(sql, given).fetchall()
            except sqlite3.DatabaseError as error:
                raise self._failure(error) from error

    def _failure(self, error: Exception) -> IndexFailure:
        return IndexFailure(
            f"the collection {self.path.parent.name} cannot be read or written ({error})",
            f"Free some space if the disk is full; if {self.path} is damaged, make the collection again.",
        )


def as_new(document: Listed) -> Listed:
    """The document as it stood before it was read."""
    return replace(document, state="waiting", error=None, passages=0, characters=0, pages=None, indexed=None)
