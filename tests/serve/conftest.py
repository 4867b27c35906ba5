"""A real server in a process of its own, with a home of its own that has the person's models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

MODEL = "smollm2:135m"


@dataclass
class Server:
    """A running server. ``log``: the lines on its stderr so far."""

    url: str
    home: Path
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.get(path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> httpx.Response:
        with self.client() as client:
            return client.post(path, json=json, **options)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric now; 0 where it is not there yet."""
        from prometheus_client.parser import text_string_to_metric_families

        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return 0.0

    def stop(self, timeout: float = 20) -> int:
        """End it as a service manager does; -> its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return int(self.process.returncode)


def make_home(folder: Path, *models: Path) -> Path:
    """A HORNBOOK_HOME with a store that links to the models of the person's own: pulls and removals stay here."""
    (folder / "models").mkdir(parents=True)
    for path in models:
        own = next(parent for parent in (path, *path.parents) if (parent / "hornbook.json").is_file())
        (folder / "models" / own.name).symlink_to(own, target_is_directory=True)
    return folder


def start(home: Path, *arguments: str, environment: dict[str, str] | None = None) -> Server:
    """Start a server and wait until it listens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hornbook", "serve", "--port", "0", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
        env={**os.environ, "HORNBOOK_HOME": str(home), "HORNBOOK_OFFLINE": "1", **(environment or {})},
    )
    assert process.stdout is not None and process.stderr is not None
    log: list[str] = []
    errors = process.stderr

    def read() -> None:
        for line in errors:
            log.append(line.rstrip("\n"))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    line = process.stdout.readline()
    if not line:
        process.wait(20)
        reader.join(5)
        pytest.fail(f"the server did not start (exit code {process.returncode}):\n" + "\n".join(log))
    return Server(json.loads(line)["address"], home, process, log)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path, minilm_path: Path) -> Iterator[Server]:
    """One server for all tests that leave it as they found it."""
    home = make_home(tmp_path_factory.mktemp("served") / "home", smollm2_path, minilm_path)
    running = start(home)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def openai_client(server: Server) -> Iterator[Any]:
    """The unmodified client of OpenAI's API, connected to the session's server."""
    openai = pytest.importorskip("openai")
    http = httpx.Client(trust_env=False, timeout=120)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, http_client=http) as client:
        yield client


Start = Callable[..., Server]


@pytest.fixture
def fresh_server(tmp_path: Path, smollm2_path: Path, minilm_path: Path) -> Iterator[Start]:
    """``fresh_server("--drain", "1")``: a server of this test's own, which it may kill. Ends with the test."""
    started: list[Server] = []

    def begin(*arguments: str, home: Path | None = None, environment: dict[str, str] | None = None) -> Server:
        place = home
        if place is None:
            place = make_home(tmp_path / f"home{len(started)}", smollm2_path, minilm_path)
        started.append(start(place, *arguments, environment=environment))
        return started[-1]

    yield begin
    for server in started:
        server.stop(5)
