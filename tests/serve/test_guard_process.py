"""A real server that asks for keys: its clients, a key that is revoked while it runs, attacks on its name and its log."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest
from serving import MODEL, Server, make_home, start

from hornbook.serve.guard.keys import Keys
from hornbook.settings import Settings

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path) -> Keys:
    return Keys(Settings(home=make_home(tmp_path_factory.mktemp("locked") / "home", smollm2_path)))


@pytest.fixture(scope="module")
def locked(keys: Keys) -> Iterator[Server]:
    keys.add("the first")
    server = start(keys.path.parents[1], "--require-key", "--cors-origin", "https://chat.example")
    yield server
    server.stop()


def raw(server: Server, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(data)
        received = b""
        while more := connection.recv(65536):
            received += more
    return received


def test_unmodified_clients_send_their_key_and_are_refused_from_the_moment_it_is_revoked(
    locked: Server, keys: Keys
) -> None:
    secret = keys.add("laptop")  # while it runs
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=secret, max_retries=0) as client:
        said = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=2)
        assert said.usage is not None and said.usage.completion_tokens >= 1
        theirs = ollama.Client(locked.url, headers={"Authorization": f"Bearer {secret}"}, trust_env=False)
        assert MODEL in {model.model for model in theirs.list().models}

        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Count."}], max_tokens=20, stream=True
        )
        next(iter(stream))
        keys.revoke("laptop")
        assert len(list(stream)) > 1  # what was begun is finished
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "key_wrong"
        with pytest.raises(ollama.ResponseError) as refused:
            theirs.list()
        assert refused.value.status_code == 401 and "hornbook key add" in refused.value.error


def test_when_a_key_was_used_can_be_seen(locked: Server, keys: Keys) -> None:
    secret = keys.add("seen")
    assert locked.get("/v1/models", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    for _ in range(100):
        if next(key for key in keys.all() if key.name == "seen").last_used:
            return
        locked.get("/health")
    pytest.fail("the time of use was not written")


def test_the_page_and_its_files_come_without_a_key_and_nothing_else_does(locked: Server) -> None:
    page = locked.get("/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]
    for path in ("/v1/models", "/api/tags", "/kb", "/metrics", "/api/hornbook/status", "/js", "/css/../kb"):
        assert locked.get(path).status_code == 401, path


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://chat.example"}, 401),  # may ask, but has no key
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
    ],
)
def test_other_peoples_pages_are_refused(locked: Server, headers: dict[str, str], status: int) -> None:
    body = {"model": MODEL, "prompt": "Hi"}
    for content in ({"json": body}, {"content": json.dumps(body), "headers": {"Content-Type": "text/plain"}}):
        given: dict[str, Any] = {**content, "headers": {**content.get("headers", {}), **headers}}  # type: ignore[dict-item]
        with locked.client() as client:
            assert client.post("/api/generate", **given).status_code == status


def test_nothing_in_a_request_forges_a_line_of_the_log(locked: Server) -> None:
    attacks = [
        b"GET /%0d%0a{%22level%22:%22forged%22}%1b[2J HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /x%E2%80%A8forged HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\x0bforged\r\nConnection: close\r\n\r\n",
        b'FORGED"\x1b HTTP/1.1\r\nHost: localhost\r\n\r\n',
        b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a forged\tone\r\nConnection: close\r\n\r\n",
    ]
    for attack in attacks:
        assert raw(locked, attack).split()[1] in (b"400", b"401", b"404")
    for line in locked.log:
        told = json.loads(line)  # each line is a whole object, and none is of a request's making
        assert told["level"] in ("info", "warning", "error"), line
        assert "\x1b" not in line and "forged one" not in line


def test_keys_are_never_in_the_log_nor_in_an_answer(locked: Server, keys: Keys) -> None:
    secret = keys.add("private")
    with httpx.Client(base_url=locked.url, headers={"Authorization": f"Bearer {secret}"}, trust_env=False) as client:
        for answer in (
            client.get("/v1/models"),
            client.get("/missing"),
            client.get(f"/{secret[:20]}", headers={"Host": "x"}),
        ):
            assert secret not in answer.text and secret not in str(answer.headers)
    assert not any(secret in line for line in locked.log)
