"""Attacks on the connection itself, through raw sockets: slowness, floods, smuggling, nonsense. Patience is set short."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request

from hornbook.serve.guard import Door, Keys, Policy, is_public, room_for_files, uvicorn_options
from hornbook.settings import Settings

REQUEST = b"GET /ok HTTP/1.1\r\nHost: localhost\r\n"


class Bare:
    """/ok reads its body and answers with its length; /late answers first; /endless never stops; /idle never reads."""

    def __init__(self) -> None:
        self.gone = threading.Event()  # a route saw its client go

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        try:
            await self.answer(scope, receive, send)
        except Exception:
            self.gone.set()
            raise

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": []}
        if scope["path"] == "/endless":
            await send(start)
            while not self.gone.is_set():
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            return
        if scope["path"] == "/late":
            await send(start)
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        length = len(await Request(scope, receive).body())
        body = json.dumps(length).encode()
        if scope["path"] != "/late":
            await send({**start, "headers": [(b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})


class Running:
    def __init__(self, app: Bare, policy: Policy, home: Path) -> None:
        self.app = app
        door = Door(app, policy=policy, keys=Keys(Settings(home=home)), public=is_public, files=room_for_files)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        config = uvicorn.Config(door, log_config=None, lifespan="off", **uvicorn_options(policy))
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        self.sockets = ExitStack()

    def connect(self, data: bytes = b"") -> socket.socket:
        made = self.sockets.enter_context(socket.create_connection(self.listener.getsockname(), timeout=10))
        made.sendall(data)
        return made

    def end(self) -> None:
        self.sockets.close()
        self.app.gone.set()
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(10)
        self.listener.close()
        assert not self.thread.is_alive()


Serve = Callable[..., Running]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    running: list[Running] = []

    def begin(**policy: Any) -> Running:
        running.append(Running(Bare(), Policy(**policy), tmp_path))
        return running[-1]

    yield begin
    for server in running:
        server.end()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One with the usual limits, for what it refuses at once."""
    server = Running(Bare(), Policy(), tmp_path_factory.mktemp("plain"))
    yield server
    server.end()


def read(connection: socket.socket) -> bytes:
    """All that comes until the server closes; a reset counts as a close."""
    data = b""
    try:
        while more := connection.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data


def parsed(data: bytes) -> tuple[int, dict[str, Any]]:
    """Status and body of a refusal."""
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"x-content-type-options: nosniff" in head.lower()
    return int(head.split()[1]), json.loads(body)["error"]


def answers(connection: socket.socket) -> bytes:
    """A whole answer, with Content-Length, of a connection that stays open."""
    data = connection.recv(65536)
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    while lengths and len(body) < lengths[0]:
        body += (more := connection.recv(65536))
        data += more
    return data


@pytest.mark.parametrize("drip", [b"x", b"X-A: b\r\n"])
def test_headers_that_drip_are_given_up_however_steadily(serve: Serve, drip: bytes) -> None:
    running = serve(header_seconds=0.4)
    connection = running.connect(b"GET /ok HTTP/1.1\r\n")
    began = time.monotonic()
    connection.settimeout(0.05)
    data = b""
    while time.monotonic() - began < 5:
        try:
            connection.sendall(drip)
            data = connection.recv(65536)
            break
        except TimeoutError:
            continue
        except OSError:
            break
    assert 0.3 < time.monotonic() - began < 3
    if data:  # the close may overtake it
        status, error = parsed(data)
        assert status == 408 and error["code"] == "too_slow"


def test_the_second_request_of_a_connection_is_timed_like_the_first(serve: Serve) -> None:
    running = serve(header_seconds=0.4, idle_seconds=30)
    connection = running.connect(REQUEST + b"\r\n")
    assert answers(connection).startswith(b"HTTP/1.1 200")
    time.sleep(0.6)  # idle is no slowness
    connection.sendall(REQUEST + b"\r\n")
    assert answers(connection).startswith(b"HTTP/1.1 200")
    began = time.monotonic()
    connection.sendall(b"GET /ok HT")
    status, _ = parsed(read(connection))
    assert status == 408 and time.monotonic() - began < 3


def test_a_connection_that_is_opened_and_not_used_is_closed_without_a_word(serve: Serve) -> None:
    running = serve(header_seconds=0.3)
    began = time.monotonic()
    assert read(running.connect()) == b"" and time.monotonic() - began < 3


def test_an_idle_connection_is_closed(serve: Serve) -> None:
    running = serve(idle_seconds=0.3)
    connection = running.connect(REQUEST + b"\r\n")
    assert answers(connection).startswith(b"HTTP/1.1 200")
    assert connection.recv(10) == b""


def test_a_body_that_stalls_is_given_up_and_its_route_is_told(serve: Serve) -> None:
    running = serve(body_seconds=0.4)
    connection = running.connect(b"POST /ok HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nhalf")
    status, error = parsed(read(connection))
    assert status == 408 and "body" in error["what"]
    assert running.app.gone.wait(5)


def test_a_body_that_drips_is_given_up_and_one_that_is_only_slow_is_not(serve: Serve) -> None:
    running = serve(body_seconds=0.4, body_rate=1000.0)
    head = b"POST /ok HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000\r\n\r\n"
    slow = running.connect(head)
    for _ in range(10):  # 2,000 bytes in 1.0 s: longer than 0.4 s, faster than 1,000 a second
        slow.sendall(b"x" * 200)
        time.sleep(0.1)
    assert answers(slow).startswith(b"HTTP/1.1 200")
    dripping = running.connect(head)
    dripping.settimeout(0.05)
    began, data = time.monotonic(), b""
    while not data and time.monotonic() - began < 5:
        try:
            dripping.sendall(b"x")
            data = dripping.recv(65536)
        except TimeoutError:
            continue
        except OSError:
            break
    assert time.monotonic() - began < 3


def test_a_client_that_does_not_read_its_answer_is_let_go(serve: Serve) -> None:
    running = serve(write_seconds=0.4)
    connection = running.connect(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
    connection.recv(10)
    deadline = time.monotonic() + 5
    while running.server.server_state.connections and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running.server.server_state.connections


def test_the_one_that_waited_longest_makes_room_and_those_at_work_are_left(serve: Serve) -> None:
    running = serve(connections=4, header_seconds=30)
    busy = running.connect(b"POST /ok HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n")
    time.sleep(0.2)
    idle = [running.connect(b"GET /ok HT") for _ in range(30)]  # a slowloris of its own
    time.sleep(0.2)
    person = running.connect(REQUEST + b"\r\n")
    assert answers(person).startswith(b"HTTP/1.1 200")
    assert len(running.server.server_state.connections) <= 4
    assert read(idle[0]) == b""
    busy.sendall(b"body")
    assert answers(busy).startswith(b"HTTP/1.1 200")


def test_when_all_are_at_work_one_more_is_told_so(serve: Serve) -> None:
    running = serve(connections=2, body_seconds=30)
    for _ in range(2):
        running.connect(b"POST /ok HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n")
    time.sleep(0.3)
    data = read(running.connect())
    status, error = parsed(data)
    assert status == 503 and error["code"] == "too_many_connections" and b"retry-after" in data


def test_too_large_a_body_is_refused_before_it_is_sent_and_its_sender_can_read_why(serve: Serve) -> None:
    running = serve(body_bytes=1_000_000, linger_seconds=0.5)
    head = b"POST /ok HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n"
    waiting = running.connect(head + b"Expect: 100-continue\r\n\r\n")
    assert b" 413 " in answers(waiting)  # and no "100 Continue" before it
    sending = running.connect(head + b"\r\n")
    began = time.monotonic()
    try:
        for _ in range(20):  # it goes on sending, as most clients do
            sending.sendall(b"x" * 50_000)
            time.sleep(0.005)
    except OSError:
        pytest.fail("the connection was reset under a client that was sending: it cannot read the refusal")
    assert b" 413 " in answers(sending)
    try:
        while time.monotonic() - began < 5:  # but not for ever
            sending.sendall(b"x" * 50_000)
            time.sleep(0.01)
        pytest.fail("the server goes on reading what it has refused")
    except OSError:
        assert time.monotonic() - began < 4


def test_a_chunked_body_that_grows_too_large_is_refused_on_its_way(serve: Serve) -> None:
    running = serve(body_bytes=100_000)
    connection = running.connect(b"POST /ok HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(15):
        connection.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
    assert b" 413 " in answers(connection)


def test_a_connection_goes_on_after_a_refused_body_was_dropped(serve: Serve) -> None:
    running = serve(body_bytes=100)
    connection = running.connect(b"POST /ok HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200\r\n\r\n")
    assert b" 413 " in answers(connection)
    connection.sendall(b"x" * 200 + REQUEST + b"\r\n")
    assert answers(connection).startswith(b"HTTP/1.1 200")


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 6\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 0x5\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 5\r\nHost: evil.example\r\n",
        b"X: a\x00b\r\n",
        b"X\r\n",
        b": y\r\n",
    ],
)
def test_a_request_whose_end_is_ambiguous_is_refused_and_nothing_behind_it_is_read(
    plain: Running, headers: bytes
) -> None:
    connection = plain.connect(
        b"POST /ok HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n0\r\n\r\n" + SMUGGLED + SMUGGLED
    )
    data = read(connection)
    assert data.count(b"HTTP/1.1 ") == 1 and data.split()[1] in (b"400", b"501"), data
    assert data.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12", b"\r\n\r\n\r\n\x00\x00\r\n\r\n",
     b"GET / HTTP/1.1\r\n\r\n", b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
     b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
     b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    ids=["tls", "http2", "zeros", "no host", "absolute target", "http 9.9", "connect", "bytes in the target"],
)  # fmt: skip
def test_what_is_no_request_to_this_server_is_refused_with_a_reason(plain: Running, data: bytes) -> None:
    status, error = parsed(read(plain.connect(data)))
    assert status in (400, 501, 505) and error["what"] and error["remedy"]


def test_a_flood_of_headers_is_cut_off(serve: Serve) -> None:
    running = serve(header_bytes=16_384)
    connection = running.connect(REQUEST)
    sent = 0
    try:
        while sent < 50_000_000:
            connection.sendall(b"X-Flood: " + b"x" * 8000 + b"\r\n")
            sent += 8000
    except OSError:
        pass
    assert sent < 20_000_000  # what the sockets' buffers take, not what was read
    many = running.connect(REQUEST + b"".join(b"x-%d: 1\r\n" % i for i in range(200)) + b"Connection: close\r\n\r\n")
    assert parsed(read(many))[0] == 431
    long = running.connect(REQUEST + b"X: " + b"x" * 17_000 + b"\r\nConnection: close\r\n\r\n")
    assert parsed(read(long))[0] == 431


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    connection = serve().connect((REQUEST + b"\r\n") * 3 + REQUEST + b"Connection: close\r\n\r\n")
    assert read(connection).count(b"HTTP/1.1 200") == 4


def test_chunks_that_break_after_the_answer_began_end_the_connection(serve: Serve) -> None:
    running = serve()
    connection = running.connect(b"POST /late HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert b"begun" in answers(connection) or b"begun" in connection.recv(100)
    connection.sendall(b"zz\r\nnonsense")
    read(connection)
    assert running.app.gone.wait(5)
    assert answers(running.connect(REQUEST + b"\r\n")).startswith(b"HTTP/1.1 200")


def test_nobody_can_name_another_address_as_its_own(serve: Serve) -> None:
    running = serve(burst=2, rate=0.01)
    statuses = []
    for i in range(4):
        forged = f"X-Forwarded-For: 10.0.0.{i}\r\nForwarded: for=10.0.0.{i}\r\nX-Real-IP: 10.0.0.{i}\r\n".encode()
        statuses.append(read(running.connect(REQUEST + forged + b"Connection: close\r\n\r\n")).split()[1])
    assert statuses == [b"200", b"200", b"429", b"429"]
