"""A server that is killed in the middle of an upload and of reading finds everything again, and goes on by itself."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import httpx

WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heron",
    "inlet",
    "jetty",
    "knoll",
    "lagoon",
    "meadow",
    "nectar",
    "orchard",
    "prairie",
    "quarry",
    "ridge",
]


def article(number: int) -> bytes:
    """Six passages of which no two are alike."""
    lines = [f"# Article {number}\n"]
    for section in range(6):
        words = [f"{WORDS[(number * 7 + section * 3 + at) % len(WORDS)]}{number}x{section}y{at}" for at in range(6)]
        lines.append(
            f"## Section {section}\n\nThe code of section {section} in article {number} is {' '.join(words)}.\n"
        )
    return "\n".join(lines).encode()


def wait_for(client: httpx.Client, stage: str) -> None:
    with client.stream("GET", "/kb/notes/jobs/events") as response:
        for line in response.iter_lines():
            if line.startswith("data: ") and json.loads(line[6:]).get("stage") == stage:
                return
    raise AssertionError(f"the job was never {stage}")


def half_an_upload(port: int) -> socket.socket:
    """A client that has sent half of a file, and waits."""
    wire = socket.create_connection(("127.0.0.1", port))
    head = "POST /kb/notes/documents HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 9000000\r\n\r\n"
    part = '--x\r\nContent-Disposition: form-data; name="files"; filename="half.txt"\r\n\r\n'
    wire.sendall((head + part).encode() + b"half of it " * 200_000)
    return wire


def test_killed_while_it_takes_and_reads_files_a_server_goes_on_where_it_was(fresh_server: Any) -> None:
    server = fresh_server()
    home: Path = server.home
    incoming = home / "collections" / "notes" / "incoming"
    with server.client() as client:
        assert client.post("/kb", json={"name": "notes"}).status_code == 201
        with half_an_upload(server.port):
            until = time.monotonic() + 10
            while not any(path.stat().st_size for path in incoming.iterdir()):
                assert time.monotonic() < until, "the body is not written as it comes"
                time.sleep(0.02)
            files = [("files", (f"folder/{n}.md", article(n))) for n in range(8)]
            taken = client.post("/kb/notes/documents", files=files).json()["documents"]
            wait_for(client, "embedding")
            server.process.kill()
            server.process.wait()

    server = fresh_server(home=home)
    with server.client() as client:
        assert not list(incoming.iterdir())
        listed = client.get("/kb/notes/documents").json()
        assert {one["id"] for one in listed["documents"]} == {one["id"] for one in taken}
        assert {one["name"] for one in listed["documents"]} == {f"{n}.md" for n in range(8)}
        wait_for(client, "embedding")  # it goes on without being asked
        began = time.monotonic()
        assert server.stop() == 0  # and does not keep the server from ending
        assert time.monotonic() - began < 10

    server = fresh_server(home=home)
    with server.client() as client:
        with client.stream("GET", "/kb/notes/jobs/events") as response:
            assert "event: idle" in list(response.iter_lines())
        shown = client.get("/kb/notes").json()
        assert (shown["documents"], shown["waiting"], shown["failed"]) == (8, 0, 0)
        found = client.post("/kb/notes/search", json={"query": "code of section 3 in article 7", "k": 1}).json()[
            "hits"
        ][0]
        assert (found["document"]["name"], found["document"]["folder"], found["section"]) == (
            "7.md",
            "folder",
            "Article 7 > Section 3",
        )
        assert client.delete("/kb/notes").status_code == 204
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    assert [path.name for path in (home / "collections").iterdir()] == []
