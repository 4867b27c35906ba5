"""The door: one pure ASGI middleware that every request passes before any route sees it. Nothing is buffered.

    shape -> Host -> Origin -> preflight -> key -> rate -> announced length | route | body as it arrives, headers out

The cheapest checks are first, and what a stranger may learn is least: a page of another origin is told neither
whether there are keys nor which routes exist. Every refusal is JSON with a reason; none runs a line of a route.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio

from hornbook.errors import StoreError
from hornbook.serve.guard.headers import dressed, preflight, request_id
from hornbook.serve.guard.hosts import check_host, check_origin_of, known_hosts
from hornbook.serve.guard.keys import Key, Keys, bearer
from hornbook.serve.guard.limits import Meter, check_shape
from hornbook.serve.guard.policy import Policy
from hornbook.serve.guard.rates import Buckets, caller_of, retry_after
from hornbook.serve.guard.refusals import Header, Refusal, answer, printable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("hornbook.serve.guard")

REQUEST = "hornbook.request"  # the scope's keys: what the log calls a request, and whose key it came with
CALLER = "hornbook.caller"


class Door:
    """``public(method, path)`` tells what needs no key: the page's own files, which are the same for everybody.
    ``files(policy, path, multipart)`` tells how many bytes of files a route takes, None for a route that takes none."""

    def __init__(
        self,
        app: App,
        *,
        policy: Policy,
        keys: Keys,
        public: Callable[[str, str], bool],
        files: Callable[[Policy, str, bool], int | None],
    ) -> None:
        self.app = app
        self.policy = policy
        self.keys = keys
        self.public = public
        self.files = files
        self.names = known_hosts(policy)
        self.rates = Buckets(policy.rate, policy.burst)
        self.wrong = Buckets(0.1, policy.wrong_keys)
        self._writing: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "this server has no WebSockets"})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = _Visit(self, scope, receive, send)
        try:
            answered = visit.admit()
        except Refusal as refusal:
            await visit.refuse(refusal)
            return
        if answered is not None:
            await visit.send({"type": "http.response.start", "status": 204, "headers": answered})
            await visit.send({"type": "http.response.body", "body": b""})
            return
        try:
            await self.app(scope, visit.receive, visit.send)
        except Exception:
            if not visit.refused:  # else it is what the route made of a client that is gone: the guard has answered
                raise

    def caller(self, authorization: str | None, address: str) -> str:
        """Who asks: ``key NAME``, or the address where no key is required. Raises Refusal: 401, 429 or 503."""
        secret = bearer(authorization)
        if not self.policy.key_required:
            return f"address {address}"
        try:
            key = self.keys.find(secret) if secret is not None else None
        except StoreError as error:
            log.error("%s", error.what)
            raise Refusal(503, "keys_unreadable", "the server cannot read its keys", "See the server's log.") from error
        if key is not None:
            self._note(key)
            return f"key {key.name}"
        if secret is None:
            raise _unauthorized("key_missing", "this server asks for a key and the request has none")
        # A right key is never held up by others' wrong ones: with 2^256 keys there is nothing to slow down but noise.
        wait = self.wrong.take(address)
        if wait:
            raise Refusal(
                429, "too_many_wrong_keys", "too many wrong keys came from this address", "Wait, and check the key.",
                [(b"retry-after", retry_after(wait))],
            )  # fmt: skip
        log.warning("a wrong key came from %s", printable(address))
        raise _unauthorized("key_wrong", "the request's key is not one of this server's, or was revoked")

    def _note(self, key: Key) -> None:
        if self.keys.used(key):
            task = asyncio.get_running_loop().create_task(self._write())
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _write(self) -> None:
        try:
            await anyio.to_thread.run_sync(self.keys.write_used)
        except StoreError as error:  # a home that cannot be written must not close the door
            log.warning("when keys were used could not be written: %s", error.what)


def _unauthorized(code: str, what: str) -> Refusal:
    return Refusal(
        401,
        code,
        what,
        "Send Authorization: Bearer KEY; hornbook key add NAME makes one.",
        [(b"www-authenticate", b'Bearer realm="hornbook"')],
    )


class _Visit:
    """One request on its way through the door, and its answer on the way out."""

    def __init__(self, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        self.door = door
        self.scope = scope
        self._receive = receive
        self._send = send
        self.headers: list[Header] = [(name.lower(), value) for name, value in scope["headers"]]
        self.path: str = scope["path"]
        self.numbered = REQUEST in scope  # by a layer before this one, which tells the client too
        self.identity: str = scope.setdefault(REQUEST, request_id())
        self.origin: str | None = None
        self.meter = Meter(door.policy.body_bytes, door.policy.json_depth)
        self.started = False  # the answer has begun
        self.refused = False  # the answer is the guard's; what the route still says is dropped

    def admit(self) -> list[Header] | None:
        """All checks before the body. Headers of a preflight's answer, or None: to the route. Raises Refusal."""
        policy, method = self.door.policy, str(self.scope["method"])
        check_shape(self.path, self.headers, policy, self.scope.get("http_version", "1.1"))
        hosts = [value.decode("latin-1") for name, value in self.headers if name == b"host"]
        authority = check_host(hosts, self.door.names, policy.bind)
        fetch = (
            self._text(b"sec-fetch-site") or "",
            self._text(b"sec-fetch-mode") or "",
            self._text(b"sec-fetch-dest") or "",
        )
        self.origin = check_origin_of(
            method, authority, self._text(b"origin"), self._text(b"referer"), fetch, policy
        )  # fmt: skip
        if method == "OPTIONS" and self.origin is not None and self._raw(b"access-control-request-method"):
            private = self._raw(b"access-control-request-private-network") == b"true"
            return preflight(self._text(b"access-control-request-headers") or "", private)
        address = caller_of(self.scope.get("client"))
        if not self.door.public(method, self.path):
            caller = self.door.caller(self._text(b"authorization"), address)
            self.scope[CALLER] = caller
            wait = self.door.rates.take(caller)
            if wait:
                raise Refusal(
                    429,
                    "rate_limited",
                    f"more than {policy.rate:g} requests a second, after {policy.burst} at once",
                    "Wait as Retry-After says.",
                    [(b"retry-after", retry_after(wait))],
                )
        self._expect()
        return None

    def _expect(self) -> None:
        """How much body is let in, and what its announced length says. Raises Refusal (400, 413)."""
        policy = self.door.policy
        kind = (self._text(b"content-type") or "").split(";")[0].strip().lower()
        # a blob is a file's bytes, whatever Ollama's clients call them
        files = self.door.files(policy, self.path, kind == "multipart/form-data")
        # Whatever a client calls its body, a route may read it as JSON: only files are not looked into.
        self.meter = Meter(files or policy.body_bytes, policy.json_depth if files is None else None)
        lengths = {value.strip() for name, value in self.headers if name == b"content-length"}
        if not lengths:
            return
        length = lengths.pop()
        if lengths or not length.isdigit() or len(length) > 18:
            raise Refusal(400, "bad_length", "the request's Content-Length is no number", "Send one, in digits.")
        self.meter.announced(int(length))

    async def receive(self) -> Message:
        """The route's receive: a body that turns out too large or too deep is answered here, and its sender is gone for the route."""
        if self.refused:
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.request":
            try:
                self.meter.take(message.get("body", b""))
            except Refusal as refusal:
                await self.refuse(refusal)
                return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """The route's send: headers are added, everything else goes through as it comes."""
        if self.refused:
            return
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = dressed(
                list(message.get("headers", ())),
                None if self.numbered else self.identity,
                self.origin,
                origins=bool(self.door.policy.origins),
            )
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        log.info(
            "refused %s %s: %d %s",
            printable(str(self.scope["method"]), 20),
            printable(self.path),
            refusal.status,
            refusal.code,
            extra={"request": self.identity},
        )
        if not self.started:  # else the route has begun its answer: it is cut short, which its client sees
            headers, body = answer(refusal, self.path, self.identity)
            await self._pass({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await self._pass({"type": "http.response.body", "body": body})
        self.refused = True

    def _raw(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    def _text(self, name: bytes) -> str | None:
        value = self._raw(name)
        return None if value is None else value.decode("latin-1")
