"""What the page's shelves ask of the server: names only, jobs that are followed and stopped, models made and removed."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from serving import MODEL, Server

from hornbook.checkpoint.modelfile import parse
from hornbook.errors import DownloadError
from hornbook.serve.jobs import KEPT, Cancelled, Job, Jobs
from hornbook.serve.needs import needs
from hornbook.settings import Settings

# ------------------------------------------------------------------------------------------------------------- jobs


def followed(work: Any, during: Any = None) -> list[dict[str, Any]]:
    """All states that a follower is told of a job."""

    async def run() -> list[dict[str, Any]]:
        job = Jobs().begin("pull", "a", work)
        states = []
        async for state in job.follow():
            assert state is not None
            states.append(state)
            if during is not None:
                during(job)
        return states

    return asyncio.run(asyncio.wait_for(run(), 10))


def test_a_follower_is_told_the_end_and_what_was_found_on_the_way() -> None:
    def work(job: Job) -> None:
        for done in range(200):
            job.tell("reading", done, 200)
        job.found({"figure": 7})

    states = followed(work)
    assert states[-1]["state"] == "done" and states[-1]["done"] == 199 and states[-1]["rows"] == [{"figure": 7}]
    assert len(states) < 10  # the latest, not each of two hundred


def test_a_job_that_is_stopped_ends_at_the_next_thing_it_tells() -> None:
    told = threading.Event()
    reached: list[str] = []

    def work(job: Job) -> None:
        job.tell("reading", 1, 2)
        told.wait(5)
        try:
            job.tell("reading", 2, 2)
        except Cancelled:
            reached.append("cancelled")
            raise
        reached.append("went on")

    def stop(job: Job) -> None:
        job.cancel()
        job.cancel()  # twice is once
        told.set()

    states = followed(work, stop)
    assert states[-1]["state"] == "cancelled" and reached == ["cancelled"]


@pytest.mark.parametrize(
    ("error", "what"), [(DownloadError("no network", "try later"), "no network"), (KeyError("x"), "KeyError")]
)
def test_a_job_that_fails_says_why(error: Exception, what: str) -> None:
    def work(job: Job) -> None:
        raise error

    last = followed(work)[-1]
    assert last["state"] == "failed" and what in last["error"]["what"] and last["error"]["remedy"]


def test_jobs_that_ended_long_ago_are_forgotten_and_running_ones_are_not() -> None:
    async def run() -> None:
        jobs, hold = Jobs(), threading.Event()
        first = jobs.begin("bench", "slow", lambda job: hold.wait(5) and None)
        for number in range(KEPT + 10):
            job = jobs.begin("pull", str(number), lambda job: None)
            async for _ in job.follow():
                pass
        assert jobs.get(first.id) is first and jobs.running("bench") is first
        assert len(jobs.all()) <= KEPT + 2
        hold.set()

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------------ routes


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "./model.gguf", "../minilm", "nothing-of-that-name", "pypi:-x", "hf:a/../b"]
)
def test_only_names_are_pulled(server: Server, name: str) -> None:
    answer = server.post("/api/hornbook/jobs/pull", {"source": name})
    assert answer.status_code in (400, 404) and answer.json()["error"]["what"]
    assert all(job["name"] != name for job in server.get("/api/hornbook/jobs").json()["jobs"])


def test_a_pull_of_what_is_here_is_done_at_once(server: Server) -> None:
    job = server.post("/api/hornbook/jobs/pull", {"source": MODEL}).json()
    lines = server.get(f"/api/hornbook/jobs/{job['id']}/events").text.splitlines()
    assert json.loads([line for line in lines if line.startswith("data: ")][-1][6:])["state"] == "done"


@pytest.mark.parametrize("path", ["/etc/hostname", "../../etc/passwd", "smollm2:999b", "./x.gguf"])
def test_needs_are_told_of_known_models_only(server: Server, path: str) -> None:
    assert server.get("/api/hornbook/models/needs", params={"name": path}).status_code == 404


def test_a_model_is_made_shown_and_removed_and_its_base_waits_for_it(server: Server) -> None:
    made = server.post("/api/hornbook/models/create", {"name": "terse", "modelfile": f"FROM {MODEL}\nSYSTEM Short."})
    assert made.status_code == 201, made.text
    rows = {row["name"]: row for row in server.get("/api/hornbook/models").json()["models"]}
    assert rows["terse"]["made_from"] == MODEL and rows["terse"]["weights"] == MODEL
    written = server.get("/api/hornbook/models/modelfile", params={"name": "terse"}).json()["modelfile"]
    assert parse(written).system == "Short." and parse(written).base == MODEL
    with server.client() as client:
        refused = client.delete("/api/hornbook/models", params={"name": MODEL})
        assert refused.status_code == 400 and "terse is made from" in refused.json()["error"]["what"]
        assert client.delete("/api/hornbook/models", params={"name": "terse"}).status_code == 200
        assert client.delete("/api/hornbook/models", params={"name": "terse"}).status_code == 404


def test_a_modelfile_may_not_name_files_of_the_server(server: Server) -> None:
    for text in ("FROM /etc/passwd", f"FROM {MODEL}\nADAPTER /etc"):
        answer = server.post("/api/hornbook/models/create", {"name": "thief", "modelfile": text})
        assert answer.status_code in (400, 404), answer.text
    assert all(row["name"] != "thief" for row in server.get("/api/hornbook/models").json()["models"])


def test_a_fault_in_a_modelfile_is_told_with_its_line(server: Server) -> None:
    def problem(text: str) -> Any:
        return server.post("/api/hornbook/models/check", {"modelfile": text}).json()["problem"]

    assert problem(f"FROM {MODEL}\n") is None
    assert problem(f"FROM {MODEL}\n\nPARAMETR top_k 3")["line"] == 3
    assert problem("SYSTEM hello")["line"] is None


def test_what_does_not_exist_is_not_found_and_unknown_keys_are_refused(server: Server) -> None:
    assert server.get("/api/hornbook/jobs/none/events").status_code == 404
    assert server.post("/api/hornbook/jobs/bench", {"name": MODEL, "measures": ["speed"]}).status_code == 400
    assert server.post("/api/hornbook/jobs/bench", {"name": "nobody"}).status_code == 404
    assert server.post("/api/hornbook/models/load", {"name": MODEL, "gpu": 1}).status_code == 400


def test_needs_of_both_kinds_of_model_fit_here_and_say_their_parts(smollm2_path: Any, minilm_path: Any) -> None:
    settings = Settings.load()
    llm, encoder = needs(smollm2_path, settings), needs(minilm_path, settings)
    assert llm["context"] == 4096 and llm["peak"] == sum(llm["parts"].values()) and llm["parts"]["cache"] > 0
    assert encoder["longest"] is None and "cache" not in encoder["parts"]
    assert llm["fits"] and llm["peak"] <= llm["free"] and 1 <= llm["longest"] <= llm["context_length"]


def test_a_model_that_cannot_be_read_has_a_problem_and_no_figures(tmp_path: Any) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and then nothing")
    told = needs(tmp_path / "broken.gguf", Settings.load())
    assert set(told) == {"problem", "remedy"} and told["problem"]
