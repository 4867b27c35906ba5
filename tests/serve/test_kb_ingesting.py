"""Jobs: one at a time for a collection, never lost, stopped soon, told to whoever watches; without a model."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from hornbook.errors import ModelNotFound
from hornbook.retrieve import analyze
from hornbook.serve.errors import NotThere
from hornbook.serve.kb import reading
from hornbook.serve.kb.collections import Collection, Collections
from hornbook.serve.kb.ingesting import Ingesting
from hornbook.serve.kb.taking import take
from hornbook.serve.kb.upload import Received
from hornbook.settings import Settings


class Gate:
    """An Embedder that lets texts through while it is open. ``asked``: set when somebody waits."""

    name = fingerprint = "gate"
    dimensions = 32
    max_tokens = 256

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()
        self.busy = self.most = 0

    def embed(self, texts: Sequence[str], *, kind: Literal["passage", "query"] = "passage") -> np.ndarray[Any, Any]:
        self.busy += 1
        self.most = max(self.most, self.busy)
        self.asked.set()
        self.open.wait(20)
        vectors = np.full((len(texts), self.dimensions), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for term in analyze.terms(text):
                vectors[row, zlib.crc32(term.encode()) % self.dimensions] += 1
        self.busy -= 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def count_tokens(self, text: str) -> int:
        return len(text.split())


class Stage:
    """A home with one collection, its jobs, and the gate that they must pass."""

    def __init__(self, home: Path) -> None:
        self.collections = Collections(home / "collections", Settings.load())
        self.papers = self.collections.create("papers")
        self.gate = Gate()
        self.missing = False
        self.draining = False
        self.jobs = Ingesting(self._embedder, lambda: self.draining)

    @asynccontextmanager
    async def _embedder(self, name: str) -> AsyncIterator[Gate]:
        if self.missing:
            raise ModelNotFound(f"no model is named {name}", "Pull it.")
        yield self.gate

    def put(self, *texts: str) -> list[str]:
        return [put(self.papers, text) for text in texts]

    async def settled(self) -> list[tuple[str, dict[str, Any]]]:
        return [event async for event in self.jobs.watch("papers")]

    async def until_asked(self) -> None:
        await asyncio.to_thread(self.gate.asked.wait, 10)


def put(collection: Collection, text: str) -> str:
    data = text.encode()
    digest = hashlib.sha256(data).hexdigest()
    path = collection.incoming / digest
    path.write_bytes(data)
    taken = take(
        collection, [Received(f"{text[:8]}.txt", path, len(data), digest)], max_bytes=1 << 20, max_file_bytes=1 << 20
    )
    return str(taken.documents[0]["id"])


@pytest.fixture
def play(home: Path) -> Callable[[Callable[[Stage], Any]], None]:
    def run(scene: Callable[[Stage], Any]) -> None:
        async def whole() -> None:
            stage = Stage(home)
            try:
                await asyncio.wait_for(scene(stage), 30)
            finally:
                stage.gate.open.set()
                await stage.jobs.close()
                stage.collections.close()

        asyncio.run(whole())

    return run


Play = Callable[[Callable[[Stage], Any]], None]


def test_what_comes_while_a_job_runs_is_read_by_the_one_after_it(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.gate.open.clear()
        (first,) = stage.put("The kiwi lays one egg.")
        job = stage.jobs.want(stage.papers)
        await stage.until_asked()
        (second,) = stage.put("The owl hunts at night.")
        later = stage.jobs.want(stage.papers)
        assert later is not job and stage.jobs.want(stage.papers) is later  # however many ask
        assert (job.state, later.state) == ("running", "queued")
        assert stage.papers.document(first).state == "reading"
        stage.gate.open.set()
        told = await stage.settled()
        assert (job.state, later.state) == ("done", "done") and stage.gate.most == 1
        assert {one.state for one in stage.papers.catalogue.documents()} == {"ready"}
        assert told[-1] == ("idle", {}) and ("document", second) in [(kind, form.get("id")) for kind, form in told]
        assert later.report is not None and later.report["added"] == 1 and later.report["unchanged"] == 1

    play(scene)


def test_a_job_that_is_stopped_ends_and_the_next_one_goes_on(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.gate.open.clear()
        stage.put(*(f"Number {n} of the kiwis lays one egg." for n in range(40)))
        job = stage.jobs.want(stage.papers)
        await stage.until_asked()
        assert stage.jobs.stop("papers", job.id) is job
        stage.gate.open.set()
        await stage.settled()
        assert job.state == "stopped" and stage.papers.catalogue.counts()["ready"] == 0
        with pytest.raises(NotThere):
            stage.jobs.stop("papers", "none")
        again = stage.jobs.resume(stage.papers)
        await stage.settled()
        assert again is not None and again.state == "done" and stage.papers.catalogue.counts()["ready"] == 40
        assert stage.jobs.resume(stage.papers) is None

    play(scene)


def test_a_thread_that_hangs_keeps_neither_a_stop_nor_a_deletion_waiting(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 0.2)

    async def scene(stage: Stage) -> None:
        stage.gate.open.clear()
        stage.put("The kiwi lays one egg.")
        job = stage.jobs.want(stage.papers)
        await stage.until_asked()
        await asyncio.wait_for(stage.jobs.forget("papers"), 5)
        assert job.state == "stopped"
        await asyncio.to_thread(stage.collections.delete, "papers")
        assert stage.collections.names() == []
        fresh = stage.collections.create("papers")
        stage.gate.open.set()
        await asyncio.sleep(0.3)  # the thread of the deleted one wakes, and finds that it is over
        assert fresh.catalogue.documents() == [] and not list(fresh.files.iterdir())
        stage.papers = fresh
        stage.put("The owl hunts at night.")
        stage.jobs.want(fresh)
        await stage.settled()
        assert fresh.catalogue.counts()["ready"] == 1

    play(scene)


def test_without_its_embedding_model_a_job_fails_by_name_and_the_documents_wait(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.missing = True
        (id,) = stage.put("The kiwi lays one egg.")
        job = stage.jobs.want(stage.papers)
        await stage.settled()
        assert job.state == "failed" and job.error == {"what": "no model is named minilm", "remedy": "Pull it."}
        assert stage.papers.document(id).state == "waiting"
        stage.missing = False
        assert stage.jobs.resume(stage.papers) is not None
        await stage.settled()
        assert stage.papers.document(id).state == "ready"

    play(scene)


def test_a_document_deleted_while_it_is_read_is_gone_and_stays_gone(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.gate.open.clear()
        gone, kept = stage.put("The kiwi lays one egg.", "The owl hunts at night.")
        stage.jobs.want(stage.papers)
        await stage.until_asked()
        stage.papers.remove(gone)
        stage.jobs.want(stage.papers)
        stage.gate.open.set()
        await stage.settled()
        assert [one.id for one in stage.papers.catalogue.documents()] == [kept]
        assert {Path(hit.document.path).stem for hit in stage.papers.shelf(stage.gate).search("kiwi owl", 5)} == {kept}

    play(scene)


def test_a_rebuilding_that_was_stopped_is_taken_up_and_the_old_index_answers_meanwhile(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.put("The kiwi lays one egg.")
        stage.jobs.want(stage.papers)
        await stage.settled()
        old = stage.papers.index_folder
        stage.gate.open.clear()
        stage.gate.asked.clear()
        job = stage.jobs.want(stage.papers, "reindex")
        await stage.until_asked()
        stage.jobs.stop("papers", job.id)
        stage.gate.open.set()
        await stage.settled()
        assert job.state == "stopped" and stage.papers.index_folder == old
        assert stage.papers.shelf(stage.gate).search("kiwi", 1)
        again = stage.jobs.resume(stage.papers)
        await stage.settled()
        assert again is not None and again.kind == "reindex" and again.state == "done"
        assert (
            stage.papers.index_folder != old and not old.exists() and stage.papers.shelf(stage.gate).search("kiwi", 1)
        )

    play(scene)


def test_a_server_that_ends_begins_no_job_and_ends_those_that_run(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stage.gate.open.clear()
        stage.put("The kiwi lays one egg.")
        job = stage.jobs.want(stage.papers)
        await stage.until_asked()
        stage.draining = True
        stage.gate.open.set()
        await stage.settled()
        assert job.state in ("stopped", "done") and stage.jobs.want(stage.papers).state == "queued"
        assert not stage.jobs.busy("papers")

    play(scene)
