"""The door before a bare application: rebinding, other people's pages, keys, rates, sizes; streams are not held back."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hornbook.serve.guard import Door, Keys, Policy, is_public, room_for_files
from hornbook.settings import Settings

Ask = Callable[..., httpx.Response]


async def _echo(request: Request) -> Response:
    body = await request.body()
    return JSONResponse({"path": request.url.path, "bytes": len(body)}, headers={"Access-Control-Allow-Origin": "*"})


async def _stream(scope: Any, receive: Any, send: Any) -> None:
    """A route that begins its answer before it has read its request."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"1", "more_body": True})
    while (message := await receive()).get("more_body"):
        pass
    if message["type"] == "http.request":
        await send({"type": "http.response.body", "body": b"2"})


class _Bare:
    """Every path is echoed but one, which streams."""

    def __init__(self) -> None:
        self.echo = Starlette(routes=[Route("/{path:path}", _echo, methods=METHODS)])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await (_stream if scope["path"] == "/stream" else self.echo)(scope, receive, send)


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """``ask(method, path, policy fields..., **what httpx takes)`` through a fresh door, or through the one of ``app=``."""

    def send(
        method: str, path: str, app: Door | None = None, client: str = "127.0.0.1", **given: Any
    ) -> httpx.Response:
        async def run() -> httpx.Response:
            transport = httpx.ASGITransport(app or door(tmp_path), client=(client, 4000))
            async with httpx.AsyncClient(
                transport=transport, base_url="http://localhost:11500", trust_env=False
            ) as http:
                return await http.request(method, path, **given)

        return asyncio.run(run())

    return send


def door(home: Path, **policy: Any) -> Door:
    return Door(
        _Bare(), policy=Policy(**policy), keys=Keys(Settings(home=home)), public=is_public, files=room_for_files
    )


def reason(response: httpx.Response) -> str:
    """The refusal's code; every refusal is JSON with a sentence and what to do."""
    error = response.json()["error"]
    assert set(error) == {"what", "remedy", "code", "request"} and error["what"] and error["remedy"]
    assert error["request"] == response.headers["x-request-id"]
    return str(error["code"])


# --------------------------------------------------------------------------------------------------------- rebinding


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:11500", "localhost.", "127.0.0.1:11500", "127.9.9.9", "[::1]:11500"]
)
def test_the_names_of_this_machine_are_answered(ask: Ask, host: str) -> None:
    assert ask("GET", "/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:11500", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.1.5",
     "10.0.0.1:11500", "[fe80::1]", "xn--localhost", "0.0.0.0:11500"],
)  # fmt: skip
def test_a_name_that_was_rebound_is_refused(ask: Ask, host: str) -> None:
    response = ask("GET", "/v2", headers={"Host": host})
    assert response.status_code == 403 and reason(response) == "foreign_host"


@pytest.mark.parametrize(
    "host", ["", "user@localhost", "localhost:80:80", "local host", "localhost/", "[::1", "localhost,evil.example"]
)
def test_a_host_that_is_none_is_refused(ask: Ask, host: str) -> None:
    assert ask("GET", "/v2", headers={"Host": host}).status_code == 400


def test_two_hosts_are_refused(ask: Ask) -> None:
    response = ask("GET", "/v2", headers=[("Host", "localhost"), ("Host", "evil.example")])
    assert response.status_code == 400


def test_further_names_are_answered_where_configured_and_any_address_where_all_are_bound(
    ask: Ask, tmp_path: Path
) -> None:
    named = door(tmp_path, hosts=frozenset({"chat.example"}))
    assert ask("GET", "/v2", named, headers={"Host": "Chat.Example:443"}).status_code == 200
    assert ask("GET", "/v2", named, headers={"Host": "other.example"}).status_code == 403
    everywhere = door(tmp_path, bind="0.0.0.0")
    assert ask("GET", "/v2", everywhere, headers={"Host": "192.168.1.5:11500"}).status_code == 200
    assert ask("GET", "/v2", everywhere, headers={"Host": "evil.example"}).status_code == 403


# ------------------------------------------------------------------------------------------------------- other pages


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:11500", "https://localhost",
     "http://localhost:11500.evil.example", "http://localhost:11500@evil.example", "file://", ""],
)  # fmt: skip
def test_a_page_of_another_origin_may_do_nothing(ask: Ask, method: str, origin: str) -> None:
    headers = {"Origin": origin}
    if method == "OPTIONS":
        headers["Access-Control-Request-Method"] = "POST"
    response = ask(method, "/v2", headers=headers)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    if method != "HEAD":
        assert reason(response) == "foreign_origin"


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_a_simple_request_that_needs_no_preflight_is_refused(ask: Ask, kind: str) -> None:
    headers = {"Origin": "https://evil.example", "Content-Type": kind, "Sec-Fetch-Site": "cross-site"}
    response = ask("POST", "/api/generate", headers=headers, content=b'{"model": "smollm2:135m"}')
    assert response.status_code == 403 and "evil.example" in response.json()["error"]


def test_our_own_page_may_do_everything(ask: Ask) -> None:
    for origin in ("http://localhost:11500", "https://localhost:11500"):  # https: something before us ends TLS
        headers = {"Origin": origin, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
        assert ask("POST", "/v2", headers=headers, json={}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("mode", "destination"),
    [
        ("no-cors", "image"),
        ("no-cors", "script"),
        ("navigate", "iframe"),
        ("navigate", "embed"),
        ("cors", "empty"),
        ("", ""),
    ],
)
def test_images_scripts_and_frames_of_another_site_are_refused(
    ask: Ask, site: str, mode: str, destination: str
) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": destination}
    assert ask("GET", "/kb/papers/search", headers=headers).status_code == 403


def test_a_link_that_a_person_follows_is_answered_and_a_form_that_is_posted_is_not(ask: Ask) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert ask("GET", "/", headers=headers).status_code == 200
    assert ask("POST", "/", headers=headers).status_code == 403
    assert ask("GET", "/", headers={**headers, "Sec-Fetch-Site": "none"}).status_code == 200


def test_an_old_browsers_referer_is_the_last_resort(ask: Ask) -> None:
    assert ask("POST", "/v2", headers={"Referer": "https://evil.example/a"}).status_code == 403
    assert ask("POST", "/v2", headers={"Referer": "http://localhost:11500/#/chat"}).status_code == 200
    assert ask("POST", "/v2", headers={"Referer": "http://["}).status_code == 403
    assert ask("GET", "/v2", headers={"Referer": "https://evil.example/a"}).status_code == 200


def test_a_program_sends_neither_origin_nor_referer_and_is_answered(ask: Ask) -> None:
    assert ask("POST", "/api/generate", content=b"{}").status_code == 200


def test_cors_is_open_for_named_origins_only_and_even_a_route_cannot_open_it(ask: Ask, tmp_path: Path) -> None:
    named = door(tmp_path, origins=frozenset({"https://chat.example"}), key_required=True)
    asked = {
        "Origin": "https://chat.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }
    preflight = ask("OPTIONS", "/v1/models", named, headers=asked)  # a preflight carries no key
    assert preflight.status_code == 204 and preflight.content == b""
    assert preflight.headers["access-control-allow-origin"] == "https://chat.example"
    assert preflight.headers["access-control-allow-headers"] == "authorization, content-type"
    assert "DELETE" in preflight.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in preflight.headers and "Origin" in preflight.headers["vary"]
    assert "access-control-allow-private-network" not in preflight.headers

    private = ask("OPTIONS", "/v1/models", named, headers={**asked, "Access-Control-Request-Private-Network": "true"})
    assert private.headers["access-control-allow-private-network"] == "true"
    assert (
        ask("OPTIONS", "/v2", named, headers={**asked, "Access-Control-Request-Headers": "a b\x01"}).status_code == 400
    )
    assert ask("OPTIONS", "/v2", named, headers={**asked, "Origin": "https://chat.example:1"}).status_code == 403

    secret = named.keys.add("page")
    real = ask("POST", "/v1/x", named, headers={"Origin": "https://chat.example", "Authorization": f"Bearer {secret}"})
    assert real.status_code == 200
    assert real.headers.get_list("access-control-allow-origin") == ["https://chat.example"]
    refused = ask("POST", "/v1/x", named, headers={"Origin": "https://chat.example"})
    assert refused.status_code == 401  # and its page may read why
    assert refused.headers["access-control-allow-origin"] == "https://chat.example"
    own = ask("GET", "/v2", named, headers={"Authorization": f"Bearer {secret}"})
    assert "access-control-allow-origin" not in own.headers


# -------------------------------------------------------------------------------------------------------------- keys


def test_where_a_key_is_required_only_the_pages_own_files_come_without(ask: Ask, tmp_path: Path) -> None:
    locked = door(tmp_path, bind="0.0.0.0", key_required=True)
    secret = locked.keys.add("phone")
    for path in ("/v1/models", "/api/tags", "/kb", "/metrics", "/api/hornbook/conversations", "/anything", "/health/x"):
        response = ask("GET", path, locked)
        assert response.status_code == 401 and response.headers["www-authenticate"].startswith("Bearer")
        assert ask("GET", path, locked, headers={"Authorization": f"bearer {secret}"}).status_code == 200
    for path in ("/", "/health", "/js/boot.js"):
        assert ask("GET", path, locked).status_code == 200
        assert ask("POST", path, locked).status_code == 401


def test_a_revoked_key_is_refused_by_the_very_next_request(ask: Ask, tmp_path: Path) -> None:
    locked = door(tmp_path, key_required=True)
    headers = {"Authorization": f"Bearer {locked.keys.add('phone')}"}
    assert ask("GET", "/v2", locked, headers=headers).status_code == 200
    Keys(Settings(home=tmp_path)).revoke("phone")
    assert ask("GET", "/v2", locked, headers=headers).status_code == 401


def test_guessing_keys_is_slowed_down_and_locks_nobody_else_out(ask: Ask, tmp_path: Path) -> None:
    locked = door(tmp_path, key_required=True, wrong_keys=5)
    secret = locked.keys.add("phone")
    answers = [ask("GET", "/v2", locked, headers={"Authorization": f"Bearer hb-{i}"}) for i in range(12)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 7
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert ask("GET", "/v2", locked, client="10.0.0.9", headers={"Authorization": "Bearer hb-1"}).status_code == 401
    assert ask("GET", "/v2", locked, headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_keys_that_cannot_be_read_let_nobody_in(ask: Ask, tmp_path: Path) -> None:
    locked = door(tmp_path, key_required=True)
    secret = locked.keys.add("phone")
    locked.keys.path.write_text("{")
    response = ask("GET", "/v2", locked, headers={"Authorization": f"Bearer {secret}"})
    assert response.status_code == 503 and str(tmp_path) not in response.text


def test_when_a_key_was_used_is_written(tmp_path: Path) -> None:
    locked = door(tmp_path, key_required=True)
    secret = locked.keys.add("phone")

    async def run() -> None:
        transport = httpx.ASGITransport(locked)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", trust_env=False) as http:
            await http.get("/v2", headers={"Authorization": f"Bearer {secret}"})
        while locked._writing:
            await asyncio.sleep(0.01)

    asyncio.run(run())
    assert locked.keys.all()[0].last_used


# ------------------------------------------------------------------------------------------------------------- rates


def test_a_caller_that_asks_too_fast_is_told_when_to_come_back(ask: Ask, tmp_path: Path) -> None:
    narrow = door(tmp_path, rate=0.5, burst=3)
    answers = [ask("GET", "/v1/models", narrow) for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert answers[3].headers["retry-after"] == "2"
    assert answers[3].json()["error"]["type"] == "rate_limit_error"
    assert ask("GET", "/v1/models", narrow, client="10.0.0.9").status_code == 200
    assert ask("GET", "/health", narrow).status_code == 200


def test_keys_have_rates_of_their_own_behind_one_address(ask: Ask, tmp_path: Path) -> None:
    narrow = door(tmp_path, rate=0.5, burst=2, key_required=True)
    first, second = (narrow.keys.add(name) for name in "ab")
    statuses = [
        ask("GET", "/v2", narrow, headers={"Authorization": f"Bearer {key}"}).status_code
        for key in (first, first, first, second)
    ]
    assert statuses == [200, 200, 429, 200]


# ------------------------------------------------------------------------------------------------------------- sizes


async def _pieces(count: int, size: int = 1000) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


def test_a_body_that_says_it_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    small = door(tmp_path, body_bytes=10_000)

    async def never() -> dict[str, Any]:
        raise AssertionError("the body was read")

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(dict(message))

    headers = [(b"host", b"localhost"), (b"content-length", b"10001")]
    scope = {"type": "http", "method": "POST", "path": "/v2", "headers": headers, "client": ("127.0.0.1", 1)}
    asyncio.run(small(scope, never, send))
    assert sent[0]["status"] == 413 and "10,001 bytes" in json.loads(sent[1]["body"])["error"]["what"]


def test_a_chunked_body_is_counted_and_refused_at_the_byte_that_is_too_much(ask: Ask, tmp_path: Path) -> None:
    small = door(tmp_path, body_bytes=10_000)
    assert ask("POST", "/v2", small, content=_pieces(10)).json()["bytes"] == 10_000
    response = ask("POST", "/v2", small, content=_pieces(11))
    assert response.status_code == 413 and reason(response) == "body_too_large"


def test_only_files_for_a_collection_may_be_larger(ask: Ask, tmp_path: Path) -> None:
    small = door(tmp_path, body_bytes=1_000, upload_bytes=10_000)
    form = {"files": ("a.txt", b"x" * 5000)}
    assert ask("POST", "/kb/papers/documents", small, files=form).status_code == 200
    assert ask("POST", "/kb/papers/search", small, files=form).status_code == 413
    assert ask("POST", "/v1/chat/completions", small, files=form).status_code == 413
    assert ask("POST", "/kb/papers/documents", small, content=b"x" * 5000).status_code == 413
    assert ask("POST", "/api/blobs/sha256:0", small, content=b"[" * 5000).status_code == 200
    assert ask("POST", "/kb/papers/documents", small, files={"files": ("a.txt", b"x" * 20_000)}).status_code == 413


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "9" * 30, "", "1, 2", "+5"])
def test_a_length_that_is_no_number_is_refused(ask: Ask, length: str) -> None:
    assert ask("POST", "/v2", headers={"Content-Length": length}, content=b"").status_code in (400, 413)


@pytest.mark.parametrize(
    "kind", ["application/json", "text/plain", "multipart/form-data", "application/octet-stream", ""]
)
def test_json_that_is_nested_too_deep_is_refused_whatever_it_is_called(ask: Ask, tmp_path: Path, kind: str) -> None:
    shallow = door(tmp_path, json_depth=50)
    headers = {"Content-Type": kind}
    assert ask("POST", "/v2", shallow, headers=headers, content=b"[" * 50 + b"]" * 50).status_code == 200
    response = ask("POST", "/v2", shallow, headers=headers, content=b'{"a":' * 51 + b"1" + b"}" * 51)
    assert response.status_code == 400 and reason(response) == "nested_too_deep"
    text = json.dumps({"text": "[" * 5000 + '"\\' + "{" * 5000}).encode()
    assert ask("POST", "/v2", shallow, headers=headers, content=text).status_code == 200


def test_floods_of_headers_are_refused(ask: Ask) -> None:
    assert ask("GET", "/v2", headers=[(f"x-{i}", "1") for i in range(90)]).status_code == 200
    response = ask("GET", "/v2", headers=[(f"x-{i}", "1") for i in range(120)])
    assert response.status_code == 431 and reason(response) == "headers_too_large"
    assert ask("GET", "/v2", headers={"x": "1" * 33_000}).status_code == 431


def test_a_body_with_two_lengths_is_refused_and_the_connection_ends(ask: Ask) -> None:
    headers = {"Content-Length": "5", "Transfer-Encoding": "chunked"}
    response = ask("POST", "/v2", headers=headers, content=b"0\r\n\r\n")
    assert response.status_code == 400 and response.headers["connection"] == "close"


def test_websockets_are_refused(ask: Ask, tmp_path: Path) -> None:
    response = ask("GET", "/v2", headers={"Upgrade": "WebSocket", "Connection": "Upgrade"})
    assert response.status_code == 400 and reason(response) == "no_websocket"
    sent = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(door(tmp_path)({"type": "websocket", "headers": [], "path": "/"}, send, send))  # type: ignore[arg-type]
    assert sent == ["websocket.close"]


# ----------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("path", ["/v1/x", "/api/x", "/kb/x", "/missing"])
def test_every_answer_carries_what_keeps_other_pages_out(ask: Ask, tmp_path: Path, path: str) -> None:
    for response in (ask("GET", path), ask("GET", path, headers={"Origin": "https://evil.example"})):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in response.headers
        assert response.headers["x-request-id"]


def test_a_request_has_one_number_and_no_client_chooses_it(ask: Ask) -> None:
    for given in ("run-7", b"a\r\nSet-Cookie: x=1"):
        (number,) = ask("GET", "/v2", headers={"X-Request-Id": given}).headers.get_list("x-request-id")
        assert len(number) == 16 and number.isalnum()


def test_each_api_is_refused_in_its_own_form(ask: Ask) -> None:
    headers = {"Origin": "https://evil.example"}
    openai = ask("POST", "/v1/chat/completions", headers=headers).json()["error"]
    assert openai["type"] == "permission_error" and openai["code"] == "foreign_origin" and openai["message"]
    assert isinstance(ask("POST", "/api/chat", headers=headers).json()["error"], str)
    assert reason(ask("POST", "/api/hornbook/conversations", headers=headers)) == "foreign_origin"


def test_nothing_from_a_request_can_begin_a_line_of_the_log(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hornbook")
    assert ask("GET", "/a%0d%0aforged%1b[2J", headers={"Origin": b"x\x85"}).status_code == 400
    assert ask("GET", "/ok", headers={"Host": "evil.example"}).status_code == 403
    lines = [record.getMessage() for record in caplog.records if record.name == "hornbook.serve.guard"]
    assert len(lines) == 2 and all(line.isprintable() for line in lines)


def test_a_stream_is_passed_on_piece_by_piece(tmp_path: Path) -> None:
    """The first piece of an answer is out before the last of its request is in."""

    async def run() -> None:
        order: list[str] = []
        more = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await more.wait()
            order.append("request")
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Any) -> None:
            if message.get("body"):
                order.append(message["body"].decode().strip())
                more.set()

        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": "/stream", "headers": headers, "query_string": b""}
        await asyncio.wait_for(door(tmp_path)(scope, receive, send), 5)
        assert order == ["1", "request", "2"]

    asyncio.run(run())


def test_a_body_that_is_too_large_after_the_answer_began_cuts_it_short(tmp_path: Path) -> None:
    async def run() -> None:
        sent: list[str] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"x" * 600, "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message.get("body", b"").decode())

        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "POST", "path": "/stream", "headers": headers, "query_string": b""}
        await asyncio.wait_for(door(tmp_path, body_bytes=1000)(scope, receive, send), 5)
        assert sent == ["", "1"]  # no end: the connection is closed, and its client sees that

    asyncio.run(run())
