"""The tables of HOME/server/conversations.sqlite, and how a file is opened that may have been left in the middle of a write.

Write-ahead log, and every change in one transaction: a killed server leaves the last whole change. The search is FTS5 with
trigrams, which find a part of a word in any script; what is shorter than three characters, as most words of Chinese are,
is found by reading the texts.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hornbook.errors import StoreError

VERSION = 1

_TABLES = """
CREATE TABLE conversations (
    id          TEXT PRIMARY KEY,
    title       TEXT NOT NULL,
    created     REAL NOT NULL,            -- seconds since 1970
    updated     REAL NOT NULL,
    leaf        TEXT,                     -- the message that the shown branch ends with
    settings    TEXT NOT NULL             -- JSON: model, collection, system, sampling
);
CREATE INDEX by_age ON conversations (updated DESC, id DESC);

CREATE TABLE messages (
    number       INTEGER PRIMARY KEY,     -- in the order they were made; the search knows them by it
    id           TEXT NOT NULL UNIQUE,
    conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    parent       TEXT REFERENCES messages (id) ON DELETE CASCADE,
    role         TEXT NOT NULL CHECK (role IN ('user', 'assistant')),
    content      TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('done', 'writing', 'stopped', 'failed', 'interrupted')),
    created      REAL NOT NULL,
    facts        TEXT NOT NULL            -- JSON: model, error, usage, seconds, answer, dropped
);
CREATE INDEX of_conversation ON messages (conversation, number);

CREATE VIRTUAL TABLE found USING fts5 (content, content='messages', content_rowid='number', tokenize='trigram');
CREATE TRIGGER message_in AFTER INSERT ON messages BEGIN
    INSERT INTO found (rowid, content) VALUES (new.number, new.content);
END;
CREATE TRIGGER message_out AFTER DELETE ON messages BEGIN
    INSERT INTO found (found, rowid, content) VALUES ('delete', old.number, old.content);
END;
CREATE TRIGGER message_changed AFTER UPDATE OF content ON messages BEGIN
    INSERT INTO found (found, rowid, content) VALUES ('delete', old.number, old.content);
    INSERT INTO found (rowid, content) VALUES (new.number, new.content);
END;
"""


def connect(path: Path) -> sqlite3.Connection:
    """The open file, made where it is not there. Raises StoreError where it cannot be, or a newer Hornbook made it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        base = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        base.row_factory = sqlite3.Row
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = NORMAL")
        base.execute("PRAGMA foreign_keys = ON")
        version = base.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            base.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
        path.chmod(0o600)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(
            f"{path} cannot be used: {error}", "Move it away to begin anew; its conversations are in it."
        ) from error
    if version > VERSION:
        base.close()
        raise StoreError(
            f"{path} has format {version}, this Hornbook knows {VERSION}", "Start the newer Hornbook that made it."
        )
    return base
