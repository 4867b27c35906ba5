"""Reading documents in the background: one job at a time for each collection, each followed by whoever watches.

    upload, delete, reindex --> wanted --> job: queued -> running -> done | failed | stopped
                                             |  a daemon thread: Index.ingest of the collection's files
                                             +--> event loop: the job's form and each document's, to every watcher

A job brings the index to the state of the folder, whatever happened meanwhile: it is therefore never lost, only begun again.
A stop, a kill and the server's end cost the batch in hand (retrieve/ingest.py); what is left waits for the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hornbook.errors import HornbookError
from hornbook.retrieve.ingest import News
from hornbook.serve.errors import NotThere
from hornbook.serve.kb.collections import Collection, id_of
from hornbook.types import Document, Embedder, IngestReport

Kind = Literal["ingest", "reindex"]
State = Literal["queued", "running", "done", "failed", "stopped"]
OpenEmbedder = Callable[[str], AbstractAsyncContextManager[Embedder]]

KEPT = 20  # jobs of a collection that are remembered
PAUSE = 0.1  # seconds between two tellings of how far a job is
_AT_ONCE = 2  # jobs of different collections
log = logging.getLogger("hornbook.serve")


@dataclass
class Job:
    """One run over a collection. Only the event loop changes it."""

    id: str
    collection: str
    kind: Kind
    state: State = "queued"
    stage: str = ""
    done: int = 0
    total: int = 0
    file: str | None = None
    queued: float = field(default_factory=time.time)
    began: float | None = None
    ended: float | None = None
    error: dict[str, str] | None = None
    report: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class _Stopped(Exception):
    """Nobody wants the job any more."""


class _Line:
    """The jobs of one collection, and who watches them."""

    def __init__(self) -> None:
        self.jobs: deque[Job] = deque(maxlen=KEPT)
        self.stop = threading.Event()
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
        if line.worker is not None:
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

    async def _work(self, collection: Collection, line: _Line) -> None:
        try:
            while (job := line.queued) is not None and not self._is_draining():
                line.stop.clear()
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
            async with self._open_embedder(await _in_thread(lambda: collection.embedder)) as embedder:
                run = _Run(job, collection, line, embedder, lambda: line.stop.is_set() or self._is_draining())
                report = await _in_thread(run)
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
        except _Stopped:
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


class _Run:
    """One job, in its thread; what it has to say goes to the event loop that made it."""

    def __init__(
        self, job: Job, collection: Collection, line: _Line, embedder: Embedder, is_over: Callable[[], bool]
    ) -> None:
        self._is_over = is_over
        self._job, self._collection, self._line, self._embedder = job, collection, line, embedder
        self._loop = asyncio.get_running_loop()
        self._told = 0.0

    def __call__(self) -> IngestReport:
        own = self._collection
        if self._job.kind == "reindex":
            own.begin_rebuilding()
        rebuilt = own.rebuilding
        index = own.open_index(rebuilt or own.index_folder, self._embedder)
        try:
            self._names = {document.stored: document.name for document in own.catalogue.documents()}
            report = index.ingest([own.files], progress=self._progress, on_file=self._news, name_of=self._name)
            self._settle(index.document)
        finally:
            index.close()
            own.forget_index()
        if rebuilt:
            own.finish_rebuilding()
        return report

    def _name(self, path: Path) -> Path:
        """What the parser takes for the file's name: the one to show, with the suffix that the stored file has."""
        name = self._names.get(path.name, "document")
        return Path(name if name.lower().endswith(path.suffix) else name + path.suffix)

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self._is_over():
            raise _Stopped
        stage = stage if stage in ("looking", "reading", "embedding") else "waiting"
        now = time.monotonic()
        last = done == total and stage == "reading"
        if now - self._told >= PAUSE or stage != self._job.stage or last:
            self._told = now
            self._later(self._tell_progress, stage, done, total)

    def _tell_progress(self, stage: str, done: int, total: int) -> None:
        self._job.stage, self._job.done, self._job.total = stage, done, total
        self._line.tell("job", self._job.to_json())

    def _news(self, news: News) -> None:
        if self._is_over():
            raise _Stopped
        id = id_of(str(news.path))
        if news.state == "reading":
            self._later(self._tell_file, self._names.get(news.path.name))
            known = self._collection.catalogue.get(id)
            if known is None or known.state != "waiting":
                return
            self._change(id, state="reading")
        elif news.state == "failed":
            self._change(
                id, state="failed", error=news.reason, passages=0, characters=0, pages=None, indexed=time.time()
            )
        elif news.state == "ready" and news.document is not None:
            self._change(id, **_outcome(news.document, news.chunks))
        else:  # unchanged: the row knows, unless a kill came between the index's commit and the row's
            known = self._collection.catalogue.get(id)
            if known is not None and known.state == "reading":
                self._change(id, state="waiting")

    def _tell_file(self, name: str | None) -> None:
        self._job.file = name

    def _settle(self, document: Callable[[str], tuple[Document, int] | None]) -> None:
        """Rows that still wait though their files were seen: what the index has of them is what they are."""
        from hornbook.retrieve.ingest import document_id

        own = self._collection
        for listed in own.catalogue.documents(state="waiting"):
            if listed.stored in self._names and (found := document(document_id(str(own.files / listed.stored)))):
                self._change(listed.id, **_outcome(*found))

    def _change(self, id: str, **values: Any) -> None:
        changed = self._collection.catalogue.change(id, **values)
        if changed is not None:
            self._later(self._line.tell, "document", changed.to_json())

    def _later(self, function: Callable[..., None], *given: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(function, *given)


def _outcome(document: Document, passages: int) -> dict[str, Any]:
    pages = max((piece.page for piece in document.pieces if piece.page is not None), default=None)
    return {
        "state": "ready",
        "error": None,
        "title": document.title,
        "media_type": document.media_type,
        "pages": pages,
        "passages": passages,
        "characters": len(document.text),
        "indexed": time.time(),
    }


def _end(job: Job, state: State) -> None:
    job.state, job.ended, job.file = state, time.time(), None


async def _in_thread(work: Callable[[], Any]) -> Any:
    """The work's result, done in a daemon thread of its own: a server that ends does not wait for a large file."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)

    def run() -> None:
        try:
            result, error = work(), None
        except BaseException as raised:
            result, error = None, raised
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="hornbook ingest", daemon=True).start()
    return await done
