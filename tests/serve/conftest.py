"""A real server in a process of its own, with a home of its own that has the person's models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browsing import visit  # noqa: F401  (a fixture)
from serving import Server, Start, make_home, start


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
