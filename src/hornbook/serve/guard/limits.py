"""How much, how deep and of what shape: limits that hold before a request is read whole.

check_shape      the path, the headers' number and size, the framing       400, 431
Meter            a body as it arrives: bytes (announced or chunked) and the nesting of its JSON      413, 400
"""

from __future__ import annotations

import re

import numpy as np

from hornbook.serve.guard.characters import Characters
from hornbook.serve.guard.policy import MEGABYTE, Policy
from hornbook.serve.guard.refusals import Header, Refusal

_CLOSE = ((b"connection", b"close"),)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ufffd\\\\]")  # U+FFFD is what bytes that are no UTF-8 are read as


def check_shape(path: str, headers: list[Header], policy: Policy, version: str = "1.1") -> None:
    """Raise Refusal for a target or a framing that no honest client sends.

    ``path`` is percent-decoded. A path that climbs (``..``), a backslash, a NUL or another control character has no
    meaning in any route; refusing them here holds for routes that are yet to be written. A request with both
    Content-Length and Transfer-Encoding is an attempt at smuggling (RFC 9112 section 6.1).
    """
    if version not in ("1.0", "1.1"):
        raise Refusal(505, "bad_version", "this server speaks HTTP/1.1", "Ask in that version.", _CLOSE)
    if not path.startswith("/"):
        what = "the request's target is no path of this server"
        raise Refusal(400, "bad_target", what, "Send a path: GET /health", _CLOSE)
    if _CONTROL.search(path) or any(part in (".", "..") for part in path.split("/")):
        raise Refusal(
            400,
            "bad_path",
            "the path climbs (..), or holds a backslash or control characters",
            "Send the plain path of a route.",
        )
    size = sum(len(name) + len(value) + 4 for name, value in headers)
    if len(headers) > policy.header_count or size > policy.header_bytes:
        raise Refusal(
            431,
            "headers_too_large",
            f"the request has {len(headers)} headers of {size:,} bytes; {policy.header_count} of {policy.header_bytes:,} are read",
            "Send fewer or shorter headers.",
            _CLOSE,
        )
    names = [name for name, _ in headers]
    if b"transfer-encoding" in names and b"content-length" in names:
        raise Refusal(
            400,
            "two_lengths",
            "the request has both Content-Length and Transfer-Encoding, so its end is ambiguous",
            "Send one of them.",
            _CLOSE,
        )
    if any(name == b"upgrade" and value.strip().lower() == b"websocket" for name, value in headers):
        raise Refusal(400, "no_websocket", "this server has no WebSockets", "Streams are sent as server-sent events.")


class Meter:
    """Counts one request's body as it arrives. ``take`` raises Refusal at the byte that is too much."""

    def __init__(self, limit: int, depth: int | None) -> None:
        """``limit`` in bytes; ``depth``: how deep JSON may be nested, None for files, which are not looked into."""
        self.limit = limit
        self.taken = 0
        self.followers = () if depth is None else (Nesting(depth), Characters())

    def announced(self, length: int) -> None:
        """Content-Length, before a byte of the body is read."""
        if length > self.limit:
            raise self._too_large(f"the body has {length:,} bytes")

    def take(self, chunk: bytes) -> None:
        self.taken += len(chunk)
        if self.taken > self.limit:
            raise self._too_large(f"the body has more than {self.limit:,} bytes")
        for follower in self.followers:
            follower.take(chunk)

    def _too_large(self, what: str) -> Refusal:
        return Refusal(
            413,
            "body_too_large",
            f"{what}; this server reads {self.limit / MEGABYTE:g} MB of such a request",
            "Send less at once, or start the server with a higher --max-body-mb or --max-upload-mb.",
        )


_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes({**dict.fromkeys(b"[{", 1), **dict.fromkeys(b"]}", 255)}.get(byte, 0) for byte in range(256))


class Nesting:
    """Follows how deep the lists and objects of a JSON text are nested, chunk by chunk, in time linear in its bytes.

    Parsers and all that walks a parsed body recurse; Python's recursion and C's stack end somewhere. What is counted
    are brackets outside of strings. Right for every text that is JSON up to where it stops to be: a parser goes no further.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.depth = 0
        self._in_string = False
        self._half = b""  # a backslash at a chunk's end, which belongs to the byte that comes

    def take(self, chunk: bytes) -> None:
        text = self._half + chunk
        backslashes = len(text) - len(text.rstrip(b"\\"))
        self._half = b"\\" * (backslashes % 2)
        # Without escaped backslashes and then without escaped quotes, every quote begins or ends a string.
        plain = text[: len(text) - len(self._half)].replace(b"\\\\", b"").replace(b'\\"', b"")
        pieces = plain.split(b'"')
        bare = b"".join(pieces[self._in_string :: 2])
        self._in_string ^= len(pieces) % 2 == 0
        steps = np.frombuffer(bare.translate(_STEPS, _NOT_BRACKETS), np.int8)
        if steps.size == 0:
            return
        depths = np.cumsum(steps, dtype=np.int64)
        if self.depth + int(depths.max()) > self.limit:
            raise Refusal(
                400,
                "nested_too_deep",
                f"the JSON body nests lists and objects more than {self.limit} deep",
                "Send a flatter one.",
            )
        self.depth += int(depths[-1])
