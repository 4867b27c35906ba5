"""Work that outlives the request which began it: a pull, a measurement. A thread does it, whoever wants follows it.

    begin(kind, name, work) --> Job: running --> done | failed | cancelled
          work(job): job.tell(done=7, total=9) ...         follow(job): {"state": "running", "done": 7, "total": 9, ...}

A follower sees the latest state and never a backlog, so that a page which was asleep is right at once. The threads are
daemons: a server that ends does not wait for a download, and what has come of it is kept by the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from hornbook.errors import HornbookError

KEPT = 20  # jobs that have ended and can still be looked at
PAUSE = 0.1  # seconds between two states that one follower is told
SIGN_OF_LIFE = 10.0  # seconds
_logger = logging.getLogger(__name__)


class Cancelled(HornbookError):
    """The person who began a job does not want it any more."""


@dataclass(eq=False)
class Job:
    """One piece of work. ``done`` of ``total``: bytes or steps, total 0 while unknown; ``rows``: what it found so far."""

    id: str
    kind: str
    name: str
    state: Literal["running", "done", "failed", "cancelled"] = "running"
    said: str = ""
    done: int = 0
    total: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, str] | None = None
    began: float = field(default_factory=time.time)
    on_cancel: Callable[[], None] | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _followers: set[asyncio.Event] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "state": "stopping" if self.state == "running" and self._stopping.is_set() else self.state,
            "said": self.said,
            "done": self.done,
            "total": self.total,
            "rows": list(self.rows),
            "error": self.error,
            "began": self.began,
        }

    # ------------------------------------------------------------------------------------------- in the job's thread

    def tell(self, said: str, done: int, total: int) -> None:
        """How far the work is. Raises Cancelled where nobody wants it any more: it is a ``types.Progress``."""
        self.check()
        self.said, self.done, self.total = said, done, total
        self._changed()

    def found(self, row: dict[str, Any]) -> None:
        """Add a result."""
        self.rows.append(row)
        self._changed()

    def check(self) -> None:
        """Raises Cancelled where nobody wants the work any more."""
        if self._stopping.is_set():
            raise Cancelled(f"the {self.kind} of {self.name} was stopped")

    def _changed(self) -> None:
        if self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            self._loop.call_soon_threadsafe(self._wake)

    # ------------------------------------------------------------------------------------------------ in the event loop

    def _wake(self) -> None:
        for follower in self._followers:
            follower.set()

    def cancel(self) -> None:
        """Ask the work to stop; it does at the next thing it tells."""
        if self.state == "running" and not self._stopping.is_set():
            self._stopping.set()
            if self.on_cancel is not None:  # it may wait for a process to end
                threading.Thread(target=self.on_cancel, daemon=True).start()
            self._wake()

    async def follow(self) -> AsyncIterator[dict[str, Any] | None]:
        """The state now, and whenever it has changed, at most ten times a second, until the work has ended.

        None where nothing has changed for a while, so that a line which is still open can be told from a dead one.
        """
        changed = asyncio.Event()
        self._followers.add(changed)
        try:
            while True:
                changed.clear()
                ended = self.state != "running"  # before the state is told, so that the last one is never missed
                yield self.to_json()
                if ended:
                    return
                while not changed.is_set():
                    try:
                        await asyncio.wait_for(changed.wait(), SIGN_OF_LIFE)
                    except TimeoutError:
                        yield None
                await asyncio.sleep(PAUSE)
        finally:
            self._followers.discard(changed)


class Jobs:
    """The jobs of one server, newest last."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._numbers = itertools.count(1)

    def all(self) -> list[Job]:
        return list(self._jobs.values())

    def get(self, id: str) -> Job | None:
        return self._jobs.get(id)

    def running(self, kind: str, name: str | None = None) -> Job | None:
        """A job of that kind (and name) that has not ended."""
        found = (job for job in self._jobs.values() if job.state == "running" and job.kind == kind)
        return next((job for job in found if name is None or job.name == name), None)

    def begin(self, kind: str, name: str, work: Callable[[Job], None]) -> Job:
        """Start ``work`` in a thread of its own; from the event loop only."""
        job = Job(f"{kind}-{next(self._numbers)}", kind, name)
        job._loop = asyncio.get_running_loop()
        self._jobs[job.id] = job
        ended = [old.id for old in self._jobs.values() if old.state != "running"]
        for id in ended[: max(0, len(ended) - KEPT)]:
            del self._jobs[id]
        threading.Thread(target=_run, args=(job, work), name=f"hornbook {job.id}", daemon=True).start()
        return job

    def cancel_all(self) -> None:
        for job in self._jobs.values():
            job.cancel()


def _run(job: Job, work: Callable[[Job], None]) -> None:
    try:
        work(job)
        job.state = "done"
    except Cancelled:
        job.state = "cancelled"
    except HornbookError as error:
        if job._stopping.is_set():  # what was stopped complains in its own words
            job.state = "cancelled"
        else:
            job.error = {"what": error.what, "remedy": error.remedy}
            job.state = "failed"
    except Exception as error:
        _logger.exception("the %s of %s failed", job.kind, job.name)
        job.error = {"what": f"{type(error).__name__}: {error}"[:500], "remedy": "The server's log has more."}
        job.state = "failed"
    finally:
        job._changed()
