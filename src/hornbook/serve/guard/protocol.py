"""HTTP/1.1 with patience that ends: uvicorn's h11 protocol with timers, a bound on connections, and errors as JSON.

    opened ──first byte──> headers ──last header──> body ──last byte──> route ... answer ──> idle ──> closed
      └───── header_seconds ────┘       body_seconds, then body_rate      write_seconds      idle_seconds

uvicorn bounds the time between two requests and the size of the headers, but not the time that headers or a body may
take, nor how long a client may leave its answer unread: each holds a connection, and a slow answer a model's slot, for
as long as the other side likes ("slowloris"). A connection too many does not shut people out: the one that has waited
longest without a request is closed for it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import operator
import sys
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from hornbook.serve.guard.headers import SECURITY, request_id
from hornbook.serve.guard.policy import Policy
from hornbook.serve.guard.rates import caller_of
from hornbook.serve.guard.refusals import Refusal, answer

log = logging.getLogger("hornbook.serve.guard")


def uvicorn_options(policy: Policy) -> dict[str, Any]:
    """What uvicorn's Config must be given besides the app: this protocol, no WebSockets, no trust in forwarding headers."""
    return {
        "http": cast(type[asyncio.Protocol], functools.partial(GuardedProtocol, policy=policy)),
        "ws": "none",
        "proxy_headers": False,  # a client could name any address as its own
        "server_header": False,
        "timeout_keep_alive": policy.idle_seconds,
        "h11_max_incomplete_event_size": policy.header_bytes,
    }


class GuardedProtocol(H11Protocol):
    """One connection. At most one timer runs, for what the client owes now: its headers, its body, or the rest of an unwanted one."""

    def __init__(self, *arguments: Any, policy: Policy, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.policy = policy
        self._owed: str | None = None  # "headers", "body" or "rest"
        self._timer: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None  # the client does not read its answer
        self._body_began = 0.0
        self._body_bytes = 0
        self.waiting_since = self.loop.time()  # without a request

    # ------------------------------------------------------------------------------------------------ what happens

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.policy.connections and not self._make_room():
            self.refuse(
                Refusal(
                    503,
                    "too_many_connections",
                    f"{self.policy.connections} connections are open and all are busy",
                    "Try again later.",
                    [(b"retry-after", b"5")],
                )
            )
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._owed == "body":
            self._body_bytes += len(data)
        if self.transport.is_closing():  # the refusal was written, what still arrives is dropped
            return
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # nonsense in a body whose answer has begun: there is no way to say it
            self._break_off()
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.waiting_since = self.loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        if self._unread is not None:
            self._unread.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.policy.write_seconds, self._left_unread)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what is no HTTP; called while h11's error is handled, which knows the better status."""
        error = sys.exception()
        status = error.error_status_hint if isinstance(error, h11.ProtocolError) else 400
        if status == 431:
            self.refuse(
                Refusal(
                    431,
                    "headers_too_large",
                    f"the request's headers have more than {self.policy.header_bytes:,} bytes",
                    "Send fewer or shorter headers.",
                )
            )
        else:
            self.refuse(Refusal(status, "bad_http", "the request is no valid HTTP/1.1", "Use an HTTP client."))

    # ---------------------------------------------------------------------------------------------------- the timer

    def _watch(self) -> None:
        """Set the timer for what the client owes now; one that runs for the same is left to run: dripping buys no time."""
        owed = self._owes()
        if owed == self._owed:
            return
        self._forget()
        self._owed = owed
        if owed == "headers":
            self._arm(self.policy.header_seconds)
        elif owed == "body":
            self._body_began, self._body_bytes = self.loop.time(), 0
            self._arm(self.policy.body_seconds)
        elif owed == "rest":
            self._arm(self.policy.linger_seconds)

    def _owes(self) -> str | None:
        if self.transport.is_closing():
            return None
        theirs = self.conn.their_state
        if theirs is h11.SEND_BODY:
            answered = self.cycle is not None and self.cycle.response_complete
            return "rest" if answered else "body"
        if theirs is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            return "headers"  # between two requests uvicorn's keep-alive timer runs instead
        return None

    def _arm(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._late)

    def _forget(self) -> None:
        self._owed = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self._owed == "body":
            ours = self.flow.read_paused  # the route has not asked for more: its client cannot be blamed
            due = self._body_began + self.policy.body_seconds + self._body_bytes / self.policy.body_rate
            left = self.policy.body_seconds if ours else due - self.loop.time()
            if left > 0:
                self._arm(left)
                return
        late, self._owed = self._owed, None
        if late == "headers" and not self.conn.trailing_data[0]:  # opened for later, as browsers do, and never used
            self.transport.close()
            return
        log.info("closed %s: its %s took too long", self._address(), late)
        if late == "rest":
            self.transport.close()
            return
        self.refuse(Refusal(408, "too_slow", f"the request's {late} took too long to arrive", "Send it faster."))

    def _left_unread(self) -> None:
        log.info("closed %s: it left its answer unread for %g s", self._address(), self.policy.write_seconds)
        self.transport.abort()

    # ---------------------------------------------------------------------------------------------------- the end

    def refuse(self, refusal: Refusal) -> None:
        """Answer below the application, if an answer has not begun, and close."""
        running = self.cycle is not None and not self.cycle.response_complete
        if running and self.cycle.response_started:
            self._break_off()
            return
        headers, body = answer(refusal, self._path(), identity := request_id())
        headers += [*SECURITY, (b"x-request-id", identity.encode()), (b"connection", b"close")]
        response = h11.Response(status_code=refusal.status, headers=headers)
        try:
            words = [self.conn.send(event) for event in (response, h11.Data(data=body), h11.EndOfMessage())]
        except h11.LocalProtocolError:
            self.transport.abort()
            return
        self.transport.write(b"".join(word or b"" for word in words))
        if running:
            self._tell_route()
        self.transport.close()

    def _break_off(self) -> None:
        self._tell_route()
        self.transport.abort()

    def _tell_route(self) -> None:
        """For the route its client has gone; what it still sends is dropped."""
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _make_room(self) -> bool:
        """Close the connection that has waited longest without a request, or return False: all of them are at work."""
        waiting = [
            other
            for other in self.connections
            if isinstance(other, GuardedProtocol)
            and other is not self
            and (other.cycle is None or other.cycle.response_complete)
            and not other.transport.is_closing()
        ]
        if not waiting:
            return False
        oldest = min(waiting, key=operator.attrgetter("waiting_since"))
        log.info("closed %s to make room: %d connections are open", oldest._address(), len(self.connections))
        oldest.transport.abort()
        return True

    def _path(self) -> str:
        """Of the request that is being answered, for the form of the refusal; "/" before its headers are whole."""
        return str(self.scope["path"]) if self.conn.their_state is h11.SEND_BODY else "/"

    def _address(self) -> str:
        return caller_of(self.client)
