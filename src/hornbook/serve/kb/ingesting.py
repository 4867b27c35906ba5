"""Reading documents in the background: one job at a time for each collection, each followed by whoever watches.

    upload, delete, reindex --> wanted --> job: queued -> running -> done | failed | stopped
                                             |  a daemon thread: Index.ingest of the collection's files
                                             +--> event loop: the job's form and each document's, to every watcher

A job brings the index to the state of the folder, whatever happened meanwhile: it is therefore never lost, only begun again.
A stop, a kill and the server's end cost the batch in hand (retrieve/ingest.py); what is left waits for the next start.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from hornbook.errors import HornbookError
from hornbook.serve.errors import NotThere
from hornbook.serve.kb.collections import Collection
from hornbook.serve.kb.reading import Job, Kind, Reading, State, Stopped, in_thread
from hornbook.types import Embedder

OpenEmbedder = Callable[[str], AbstractAsyncContextManager[Embedder]]

KEPT = 20  # jobs of a collection that are remembered
_AT_ONCE = 2  # jobs of different collections
log = logging.getLogger("hornbook.serve")


class _Line:
    """The jobs of one collection, and who watches them."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque(maxlen=KEPT)
        self.stop = threading.Event()  # of the job that runs
        self.worker: asyncio.Task[None] | None = None
        self.watchers: set[asyncio.Queue[tuple[str, dict[str, Any]]]] = set()

    @property
    def queued(self) -> Job | None:
        return next((job for job in self.jobs if job.state == "queued"), None)

    @property
    def running(self) -> Job | None:
        return next((job for job in self.jobs if job.state == "running"), None)

    def tell(self, event: str, form: dict[str, Any]) -> None:
        for watcher in self.watchers:
            if watcher.qsize() < 10_000:  # one that does not read gets no more: it asks again when it comes back
                watcher.put_nowait((event, form))


class Ingesting:
    """The jobs of a server. Its methods are for the event loop."""

    def __init__(self, open_embedder: OpenEmbedder, is_draining: Callable[[], bool]) -> None:
        self._open_embedder = open_embedder
        self._is_draining = is_draining
        self._lines: dict[str, _Line] = {}
        self._numbers = itertools.count(1)
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def want(self, collection: Collection, kind: Kind = "ingest") -> Job:
        """A job that will see the collection as it is now; one that waits already is that job."""
        line = self._lines.setdefault(collection.name, _Line())
        job = line.queued
        if job is None:
            job = Job(f"{next(self._numbers):x}-{int(time.time()):x}", collection.name, kind)
            line.jobs.append(job)
        elif kind == "reindex":
            job.kind = kind
        line.tell("job", job.to_json())
        if line.worker is None and not self._is_draining():
            line.worker = asyncio.create_task(self._work(collection, line))
        return job

    def resume(self, collection: Collection) -> Job | None:
        """Take up what an earlier server left undone, if anything."""
        counts = collection.catalogue.counts()
        if not (counts["waiting"] or counts["reading"] or collection.rebuilding) or self.busy(collection.name):
            return None
        return self.want(collection, "reindex" if collection.rebuilding else "ingest")

    def busy(self, name: str) -> bool:
        line = self._lines.get(name)
        return line is not None and line.worker is not None

    def jobs(self, name: str) -> list[Job]:
        """Newest first."""
        line = self._lines.get(name)
        return list(reversed(line.jobs)) if line else []

    def stop(self, name: str, id: str) -> Job:
        """End a job; what is read stays read. Raises NotThere."""
        line = self._lines.get(name)
        job = next((job for job in line.jobs if job.id == id), None) if line else None
        if line is None or job is None:
            raise NotThere(f"there is no job {id[:40]!r} of {name}", f"GET /kb/{name}/jobs lists them.")
        if job.state == "running":
            line.stop.set()
        elif job.state == "queued":
            _end(job, "stopped")
            line.tell("job", job.to_json())
        return job

    async def forget(self, name: str) -> None:
        """End every job of a collection that will be deleted, and wait for that."""
        line = self._lines.pop(name, None)
        if line is None:
            return
        for job in line.jobs:
            if job.state == "queued":
                _end(job, "stopped")
        line.stop.set()
        if line.worker is not None and line.running is not None:  # one that waits for its turn finds nothing to do then
            await asyncio.wait([line.worker])

    async def close(self, seconds: float = 5.0) -> None:
        """The server ends: stop what runs. A file that takes longer is left to its thread, and read again next time."""
        workers = []
        for line in self._lines.values():
            line.stop.set()
            if line.worker is not None:
                workers.append(line.worker)
        if workers:
            _, left = await asyncio.wait(workers, timeout=seconds)
            for worker in left:
                worker.cancel()

    async def watch(self, name: str) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
        """("job" | "document", form), from the latest job on, until nothing is left to do: then ("idle", {})."""
        line = self._lines.setdefault(name, _Line())
        inbox: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        line.watchers.add(inbox)
        try:
            latest = line.running or line.queued or (line.jobs[-1] if line.jobs else None)
            if latest is not None:
                yield "job", latest.to_json()
            while line.worker is not None or not inbox.empty():
                event = await inbox.get()
                if event[0] != "idle":
                    yield event
            yield "idle", {}
        finally:
            line.watchers.discard(inbox)

    # ------------------------------------------------------------------------------------------------------- the work

    def _is_over(self, stop: threading.Event) -> bool:
        return stop.is_set() or self._is_draining()

    async def _work(self, collection: Collection, line: _Line) -> None:
        try:
            while (job := line.queued) is not None and not self._is_draining():
                line.stop = threading.Event()
                async with self._turns:
                    if job.state == "queued":  # it was not stopped while it waited for its turn
                        await self._one(job, collection, line)
        finally:
            line.worker = None
            line.tell("idle", {})

    async def _one(self, job: Job, collection: Collection, line: _Line) -> None:
        job.state, job.began = "running", time.time()
        line.tell("job", job.to_json())
        try:
            async with self._open_embedder(await in_thread(lambda: collection.embedder)) as embedder:
                run = Reading(job, collection, embedder, functools.partial(self._is_over, line.stop), line.tell)
                report = await run.done()
            job.report = {
                "added": report.added,
                "updated": report.updated,
                "removed": report.removed,
                "unchanged": report.unchanged,
                "failed": len(report.failed),
                "passages": report.chunks,
                "seconds": round(report.seconds, 3),
            }
            _end(job, "done")
        except Stopped:
            _end(job, "stopped")
        except HornbookError as error:
            job.error = {"what": error.what, "remedy": error.remedy}
            _end(job, "failed")
        except asyncio.CancelledError:
            line.stop.set()
            _end(job, "stopped")
            raise
        except Exception as error:
            log.exception("reading the documents of a collection failed")
            job.error = {"what": f"the server failed: {type(error).__name__}", "remedy": "See its log, then re-index."}
            _end(job, "failed")
        finally:
            line.tell("job", job.to_json())


def _end(job: Job, state: State) -> None:
    job.state, job.ended, job.file = state, time.time(), None
