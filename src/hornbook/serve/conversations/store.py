"""Conversations and their messages. A conversation is a tree: a question asked anew, or a reply written anew, is a sibling.

    question --- reply                      path(leaf): from the first question to the leaf, what the model is shown
        \\------- reply (regenerated) ---- question --- reply  <- leaf
    question (edited) --- reply

Blocking, and safe from any thread: one connection, one caller at a time. Offsets and limits count characters.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hornbook.errors import UsageError
from hornbook.serve.conversations.schema import connect
from hornbook.serve.errors import NotThere

State: TypeAlias = Literal["done", "writing", "stopped", "failed", "interrupted"]

TITLE = 80  # characters
_AROUND = 40  # characters beside what a search found


@dataclass(frozen=True, slots=True)
class Conversation:
    """``settings``: {"model", "collection", "system", "sampling"}, what the next reply is asked with; each may be missing."""

    id: str
    title: str
    created: float
    updated: float
    leaf: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Turn:
    """A message of a conversation. ``parent`` None: the first. ``facts``: how a reply came about; see writers.py."""

    id: str
    conversation: str
    parent: str | None
    role: Literal["user", "assistant"]
    content: str
    state: State = "done"
    created: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation in the list. ``snippet``: where a search found it, every second part being what was searched."""

    id: str
    title: str
    updated: float
    writing: bool = False
    snippet: tuple[str, ...] = ()


class Conversations:
    """The conversations of one home. Raises StoreError where their file cannot be used."""

    def __init__(self, path: Path) -> None:
        self._base = connect(path)
        self._lock = threading.Lock()
        with self._change() as base:  # a server that was killed left these in the middle
            base.execute("UPDATE messages SET state = 'interrupted' WHERE state = 'writing'")

    def close(self) -> None:
        with self._lock:
            self._base.close()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """All or nothing."""
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._base.execute(query, values).fetchall()

    # ------------------------------------------------------------------------------------------------- conversations

    def create(self, title: str = "", settings: Mapping[str, Any] | None = None) -> Conversation:
        now = time.time()
        made = Conversation(_new_id(), _one_line(title), now, now, None, dict(settings or {}))
        with self._change() as base:
            base.execute(
                "INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?)",
                (made.id, made.title, now, now, None, json.dumps(made.settings)),
            )
        return made

    def get(self, id: str) -> Conversation:
        """Raises NotThere."""
        rows = self._rows("SELECT * FROM conversations WHERE id = ?", id)
        if not rows:
            raise NotThere(f"there is no conversation {id!r}", "It may have been deleted.")
        row = dict(rows[0])
        return Conversation(**{**row, "settings": json.loads(row["settings"])})

    def change(
        self,
        id: str,
        *,
        title: str | None = None,
        leaf: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Conversation:
        """What is given is changed. ``leaf`` must be a message of the conversation. Raises NotThere, UsageError."""
        self.get(id)
        if leaf is not None and self.message(leaf).conversation != id:
            raise UsageError("the branch is of another conversation", "Give the id of a message of this one.")
        with self._change() as base:
            if title is not None:
                base.execute("UPDATE conversations SET title = ? WHERE id = ?", (_one_line(title), id))
            if leaf is not None:
                base.execute("UPDATE conversations SET leaf = ? WHERE id = ?", (leaf, id))
            if settings is not None:
                base.execute("UPDATE conversations SET settings = ? WHERE id = ?", (json.dumps(settings), id))
        return self.get(id)

    def delete(self, id: str) -> None:
        """Raises NotThere."""
        self.get(id)
        with self._change() as base:
            base.execute("DELETE FROM messages WHERE conversation = ?", (id,))
            base.execute("DELETE FROM conversations WHERE id = ?", (id,))

    def listed(self, *, limit: int = 50, before: tuple[float, str] | None = None, search: str = "") -> list[Row]:
        """Newest first. ``before``: (updated, id) of the last one that is known. ``search``: in titles and messages."""
        wheres, values = ["1"], []
        if before is not None:
            wheres.append("(c.updated, c.id) < (?, ?)")
            values += list(before)
        search = search.strip()
        if search:
            found, what = _search(search)
            wheres.append(f"(c.title LIKE ? ESCAPE '\\' OR c.id IN ({found}))")
            values += [f"%{_escaped(search)}%", what]
        rows = self._rows(
            "SELECT c.id, c.title, c.updated, EXISTS (SELECT 1 FROM messages m WHERE m.conversation = c.id"
            f" AND m.state = 'writing') AS writing FROM conversations c WHERE {' AND '.join(wheres)}"
            " ORDER BY c.updated DESC, c.id DESC LIMIT ?",
            *values,
            limit,
        )
        return [
            Row(row["id"], row["title"], row["updated"], bool(row["writing"]), self._snippet(row["id"], search))
            for row in rows
        ]

    def _snippet(self, conversation: str, search: str) -> tuple[str, ...]:
        if not search:
            return ()
        rows = self._rows(
            "SELECT content FROM messages WHERE conversation = ? AND content LIKE ? ESCAPE '\\' ORDER BY number LIMIT 1",
            conversation,
            f"%{_escaped(search)}%",
        )
        if not rows:
            return ()
        text = " ".join(rows[0]["content"].split())
        at = text.casefold().find(" ".join(search.split()).casefold())
        if at < 0:
            return ()
        end = at + len(" ".join(search.split()))
        before = ("…" if at > _AROUND else "") + text[max(0, at - _AROUND) : at]
        after = text[end : end + _AROUND] + ("…" if end + _AROUND < len(text) else "")
        return before, text[at:end], after

    # ------------------------------------------------------------------------------------------------------ messages

    def messages(self, conversation: str) -> list[Turn]:
        """All of them, in the order they were made. Raises NotThere."""
        self.get(conversation)
        return [
            _turn(row)
            for row in self._rows("SELECT * FROM messages WHERE conversation = ? ORDER BY number", conversation)
        ]

    def message(self, id: str) -> Turn:
        """Raises NotThere."""
        rows = self._rows("SELECT * FROM messages WHERE id = ?", id)
        if not rows:
            raise NotThere(f"there is no message {id!r}", "Its conversation may have been deleted.")
        return _turn(rows[0])

    def path(self, leaf: str) -> list[Turn]:
        """The branch that ends with this message, first question first. Raises NotThere."""
        end = self.message(leaf)
        known = {turn.id: turn for turn in self.messages(end.conversation)}
        branch = [end]
        while branch[-1].parent is not None:
            branch.append(known[branch[-1].parent])
        return branch[::-1]

    def begin(
        self, conversation: str, parent: str | None, question: str | None, facts: Mapping[str, Any]
    ) -> tuple[Turn | None, Turn]:
        """The question, where one is asked, and the reply that will be written to it, both at once; the reply is the leaf.

        ``question`` None: ``parent`` is a question already, which gets another reply. Raises NotThere, UsageError.
        """
        known = self.get(conversation)
        if parent is not None and (above := self.message(parent)).conversation != conversation:
            raise UsageError("the message that is answered is of another conversation", "Reload the page.")
        if parent is not None and above.state == "writing":
            raise UsageError(
                "the reply that is gone on from is still being written", "Stop it first, or wait for its end."
            )
        role = above.role if parent is not None else "assistant"
        if (question is None) != (role == "user"):
            raise UsageError("a question follows a reply, and a reply a question", "Reload the page.")
        now = time.time()
        asked = None
        if question is not None:
            asked = Turn(_new_id(), conversation, parent, "user", question, "done", now)
        reply = Turn(
            _new_id(), conversation, asked.id if asked else parent, "assistant", "", "writing", now, dict(facts)
        )
        with self._change() as base:
            for turn in (asked, reply):
                if turn is not None:
                    base.execute(
                        "INSERT INTO messages (id, conversation, parent, role, content, state, created, facts)"
                        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                        (*(getattr(turn, name) for name in ("id", "conversation", "parent", "role", "content", "state", "created")),
                         json.dumps(turn.facts)),
                    )  # fmt: skip
            title = known.title or _one_line(question or "")
            base.execute(
                "UPDATE conversations SET leaf = ?, updated = ?, title = ? WHERE id = ?",
                (reply.id, now, title, conversation),
            )
        return asked, reply

    def write(self, id: str, content: str, *, state: State = "writing", facts: Mapping[str, Any] | None = None) -> None:
        """What a reply says so far, or in the end. A message that was deleted meanwhile is nobody's loss."""
        with self._change() as base:
            if facts is None:
                base.execute("UPDATE messages SET content = ?, state = ? WHERE id = ?", (content, state, id))
            else:
                base.execute(
                    "UPDATE messages SET content = ?, state = ?, facts = ? WHERE id = ?",
                    (content, state, json.dumps(facts), id),
                )


def _turn(row: sqlite3.Row) -> Turn:
    values = dict(row)
    del values["number"]
    return Turn(**{**values, "facts": json.loads(values["facts"])})


def _search(text: str) -> tuple[str, str]:
    """(a query for the ids of conversations whose messages hold the text, its value)."""
    if len(text) < 3:  # fewer characters than a trigram has
        return "SELECT conversation FROM messages WHERE content LIKE ? ESCAPE '\\'", f"%{_escaped(text)}%"
    phrase = '"' + text.replace('"', '""') + '"'
    return "SELECT m.conversation FROM found JOIN messages m ON m.number = found.rowid WHERE found MATCH ?", phrase


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _one_line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= TITLE else line[: TITLE - 1].rstrip() + "…"


def _new_id() -> str:
    """In the order of time, and not to be guessed."""
    return f"{int(time.time() * 1000):011x}{secrets.token_hex(6)}"
