"""Starting a real server in a process of its own, talking to it, and ending it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

MODEL = "smollm2:135m"
BODY = {"model": MODEL, "prompt": "1 2 3 4 5 6 7 8 9", "temperature": 0, "stream": True}  # it goes on for long


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


Start = Callable[..., Server]


class Streaming:
    """A stream that is read in a thread; ``tokens``: how many pieces have come; ``end``: what came last, or the error."""

    def __init__(self, server: Server, max_tokens: int) -> None:
        self.tokens = 0
        self.end: Any = None
        self.events: list[dict[str, Any]] = []
        self._server, self._body = server, {**BODY, "max_tokens": max_tokens}
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            with self._server.client() as client, client.stream("POST", "/v1/completions", json=self._body) as answer:
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self.end = line[6:]
                        self.tokens += 1
                        if line != "data: [DONE]":
                            self.events.append(json.loads(line[6:]))
        except httpx.HTTPError as error:
            self.end = error

    def begun(self, tokens: int = 3) -> Streaming:
        until = time.monotonic() + 20
        while self.tokens < tokens:
            assert self.thread.is_alive() and time.monotonic() < until, f"the stream did not begin: {self.end}"
            time.sleep(0.01)
        return self
