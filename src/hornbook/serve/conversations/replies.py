"""Replies that are being written: tasks of the server's own, which go on whether anybody watches or not.

A reply keeps its events while it lasts; a reader begins with the state (or, after a break, behind the last event that it has)
and follows. What is written is put in the store every second, and at the end, whatever the end was.

    event: state    {"message": Turn, "phase": {"name", ...}}     where a reader begins
    event: phase    {"name": "loading" | "searching" | "found" | "reading" | "writing", ...}
    event: thought  {"text"}
    event: draft    {"text"}                                      of a collection's model, not checked yet
    event: text     {"text"}
    event: done     {"message": Turn, "title"}                     the last; its state says how it ended
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, NamedTuple

import anyio.to_thread

from hornbook.errors import HornbookError, UsageError
from hornbook.serve.conversations.store import Conversations, State, Turn

log = logging.getLogger("hornbook.serve")

SAVED_EVERY = 1.0  # seconds
SIGN_OF_LIFE = 10.0  # seconds without an event, after which a reader is told that there is none


class Event(NamedTuple):
    id: str
    name: str
    data: dict[str, Any]


class Reply:
    """One that is being written. It is the Page of writers.py."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.facts: dict[str, Any] = dict(turn.facts)
        self.events: list[Event] = []
        self.stopped = False  # by the person
        self.over = False
        self.task: asyncio.Task[None] | None = None
        self._pieces: list[str] = []
        self._thoughts: list[str] = []
        self._phase: dict[str, Any] = {"name": "waiting"}
        self._news = asyncio.Event()
        self.began = time.monotonic()

    def phase(self, name: str, **more: Any) -> None:
        self._phase = {"name": name, **more}
        self.tell("phase", self._phase)

    def text(self, piece: str) -> None:
        self._pieces.append(piece)
        self.tell("text", {"text": piece})

    def thought(self, piece: str) -> None:
        self._thoughts.append(piece)
        self.facts["thought"] = "".join(self._thoughts)
        self.tell("thought", {"text": piece})

    def tell(self, name: str, data: dict[str, Any]) -> None:
        self.events.append(Event(f"{self.turn.id}.{len(self.events)}", name, data))
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    @property
    def now(self) -> Turn:
        """The message as it stands."""
        return replace(self.turn, content="".join(self._pieces), facts=dict(self.facts))

    def end(self, turn: Turn, title: str) -> None:
        self.turn, self.over = turn, True
        self.tell("done", {"message": turn.to_json(), "title": title})

    async def follow(self, last: str | None) -> AsyncIterator[Event | None]:
        """The events behind ``last``, or the state and what comes after it; None now and then where nothing happens."""
        message, _, number = (last or "").rpartition(".")
        if message == self.turn.id and number.isdecimal() and int(number) < len(self.events):
            at = int(number) + 1
        else:
            at = len(self.events)
            yield Event(f"{self.turn.id}.{at - 1}", "state", {"message": self.now.to_json(), "phase": self._phase})
            if self.over:
                yield self.events[-1]
                return
        while True:
            while at < len(self.events):
                at += 1
                yield self.events[at - 1]
            if self.over:
                return
            try:
                await asyncio.wait_for(self._news.wait(), SIGN_OF_LIFE)
            except TimeoutError:
                yield None


class Replies:
    """Those of one server. For its event loop."""

    def __init__(self, store: Conversations) -> None:
        self.store = store
        self._writing: dict[str, Reply] = {}  # by conversation
        self._beginning: set[str] = set()

    def of(self, conversation: str) -> Reply | None:
        return self._writing.get(conversation)

    async def begin(
        self, conversation: str, make: Callable[[], Turn], write: Callable[[Reply], Awaitable[None]]
    ) -> Reply:
        """Write a reply. ``make`` puts its message into the store, in a thread; ``write`` says what is in it.

        Raises UsageError where one is being written in this conversation already, and what ``make`` raises.
        """
        if conversation in self._writing or conversation in self._beginning:
            raise UsageError("a reply is being written in this conversation", "Stop it, or wait for its end.")
        self._beginning.add(conversation)
        try:
            reply = Reply(await anyio.to_thread.run_sync(make))
        finally:
            self._beginning.discard(conversation)
        self._writing[conversation] = reply
        reply.task = asyncio.create_task(self._run(reply, write))
        await asyncio.sleep(0)  # a task that is cancelled before its first step never comes to its end
        return reply

    async def _run(self, reply: Reply, write: Callable[[Reply], Awaitable[None]]) -> None:
        saving = asyncio.create_task(self._save_as_it_grows(reply))
        state: State = "done"
        try:
            await write(reply)
        except asyncio.CancelledError:  # nobody else cancels this task: the person did, or the server ends
            state = "stopped" if reply.stopped else "interrupted"
        except HornbookError as error:
            state = "failed"
            reply.facts["error"] = {"what": error.what, "remedy": error.remedy}
        except Exception:
            log.exception("a reply failed", extra={"conversation": reply.turn.conversation})
            state = "failed"
            reply.facts["error"] = {
                "what": "the server failed while it wrote",
                "remedy": "Its log says why. Try again.",
            }
        finally:
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)
        turn = replace(reply.now, state=state)
        title = ""
        try:
            await asyncio.shield(anyio.to_thread.run_sync(self._put, turn))
            title = (await anyio.to_thread.run_sync(self.store.get, turn.conversation)).title
        except Exception:  # a full disk, or the conversation was deleted: its readers are told the end all the same
            log.exception("a reply could not be kept", extra={"conversation": turn.conversation})
        finally:
            self._writing.pop(turn.conversation, None)
            reply.end(turn, title)

    async def _save_as_it_grows(self, reply: Reply) -> None:
        saved = 0
        while True:
            await asyncio.sleep(SAVED_EVERY)
            if len(reply.events) != saved:
                saved = len(reply.events)
                await anyio.to_thread.run_sync(self._put, reply.now)

    def _put(self, turn: Turn) -> None:
        self.store.write(turn.id, turn.content, state=turn.state, facts=turn.facts)

    async def stop(self, conversation: str) -> None:
        """End the reply where it is, and return when what was written is kept. Nothing where none is written."""
        reply = self._writing.get(conversation)
        if reply is not None and reply.task is not None:
            reply.stopped = True
            reply.task.cancel()
            await asyncio.wait([reply.task])

    async def close(self) -> None:
        """The server ends: what is written so far is kept, and marked as interrupted."""
        tasks = [reply.task for reply in self._writing.values() if reply.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
