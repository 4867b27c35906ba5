"""One job of a collection: its documents read in a thread, and everybody told as it goes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hornbook.retrieve.ingest import News, document_id
from hornbook.serve.kb.collections import Collection, id_of
from hornbook.types import Document, Embedder, IngestReport

Kind = Literal["ingest", "reindex"]
State = Literal["queued", "running", "done", "failed", "stopped"]
Tell = Callable[[str, dict[str, Any]], None]  # in the event loop: ("job" | "document", its form)

PAUSE = 0.1  # seconds between two tellings of how far a job is
PATIENCE = 3.0  # seconds that a job's thread is waited for when the job is over
_EMBEDDED_AT_ONCE = 16  # passages: a second's work for a slow processor


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


class Stopped(Exception):
    """Nobody wants the job any more."""


class Watched:
    """An embedding model that is asked little by little, so that a job that is over ends soon."""

    def __init__(self, embedder: Embedder, check: Callable[[], None]) -> None:
        self.name, self.fingerprint = embedder.name, embedder.fingerprint
        self.dimensions, self.max_tokens = embedder.dimensions, embedder.max_tokens
        self.count_tokens = embedder.count_tokens
        self._embedder, self._check = embedder, check

    def embed(
        self, texts: Sequence[str], *, kind: Literal["passage", "query"] = "passage"
    ) -> np.ndarray[Any, np.dtype[np.float32]]:
        rows = []
        for start in range(0, len(texts), _EMBEDDED_AT_ONCE):
            self._check()
            rows.append(self._embedder.embed(texts[start : start + _EMBEDDED_AT_ONCE], kind=kind))
        return np.concatenate(rows) if rows else self._embedder.embed(texts, kind=kind)


class Reading:
    """One job, in its thread; what it has to say goes to the event loop that made it."""

    def __init__(
        self, job: Job, collection: Collection, embedder: Embedder, is_over: Callable[[], bool], tell: Tell
    ) -> None:
        self._is_over = is_over
        embedder = Watched(embedder, self._check)
        self._job, self._collection, self._tell, self._embedder = job, collection, tell, embedder
        self._loop = asyncio.get_running_loop()
        self._told = 0.0

    async def done(self) -> IngestReport:
        """Raises Stopped soon after the job is over, also where its thread still has a large file in hand: that one ends
        by itself, at its next word."""
        thread = asyncio.ensure_future(in_thread(self._work))
        thread.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        over = 0.0
        while not thread.done():
            await asyncio.wait([thread], timeout=0.25)
            over += 0.25 if self._is_over() else 0.0
            if over > PATIENCE:
                raise Stopped
        report: IngestReport = thread.result()
        return report

    def _check(self) -> None:
        if self._is_over():
            raise Stopped

    def _work(self) -> IngestReport:
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
        self._check()
        stage = stage if stage in ("looking", "reading", "embedding") else "waiting"
        now = time.monotonic()
        last = done == total and stage == "reading"
        if now - self._told >= PAUSE or stage != self._job.stage or last:
            self._told = now
            self._later(self._tell_progress, stage, done, total)

    def _tell_progress(self, stage: str, done: int, total: int) -> None:
        self._job.stage, self._job.done, self._job.total = stage, done, total
        self._tell("job", self._job.to_json())

    def _news(self, news: News) -> None:
        self._check()
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
        own = self._collection
        for listed in own.catalogue.documents(state="waiting"):
            if listed.stored in self._names and (found := document(document_id(str(own.files / listed.stored)))):
                self._change(listed.id, **_outcome(*found))

    def _change(self, id: str, **values: Any) -> None:
        changed = self._collection.catalogue.change(id, **values)
        if changed is not None:
            self._later(self._tell, "document", changed.to_json())

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


async def in_thread(work: Callable[[], Any]) -> Any:
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
