"""What every answer carries: headers that keep other pages out of it, and those of CORS for the origins that were named."""

from __future__ import annotations

import re
import secrets

from hornbook.serve.guard.refusals import Header, Refusal

# A route that serves a page sets a policy of its own; for data there is nothing to load, and no frame to be in.
SECURITY: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)

_PREFLIGHT: tuple[Header, ...] = (
    (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
    (b"access-control-max-age", b"600"),
    (b"content-length", b"0"),
)
_ALLOWED_HEADER = re.compile(r"[a-z0-9-]{1,64}")
_EXPOSED = b"X-Request-Id, Retry-After"


def request_id() -> str:
    """What the log calls a request that nothing before the guard has numbered: 64 random bits."""
    return secrets.token_hex(8)


def dressed(headers: list[Header], identity: str | None, origin: str | None, *, origins: bool) -> list[Header]:
    """An answer's headers with the guard's: those that a route has set itself stay as they are.

    ``identity``: the request's number, None where a layer before the guard tells it.
    ``origin``: the foreign origin that was let in; ``origins``: whether any is, so that caches tell answers apart.
    No answer ever allows credentials: a key travels in Authorization, and nothing here is a cookie.
    """
    present = {name.lower() for name, _ in headers}
    result = [*headers, *(header for header in SECURITY if header[0] not in present)]
    result = [header for header in result if not header[0].lower().startswith(b"access-control-")]
    if identity is not None:
        result.append((b"x-request-id", identity.encode()))
    if origin is not None:
        allowed = [header for header in headers if header[0] in _PREFLIGHT_NAMES]
        result += [
            (b"access-control-allow-origin", origin.encode("ascii")),
            (b"access-control-expose-headers", _EXPOSED),
            *allowed,
        ]
    if origins:
        result.append((b"vary", b"Origin"))
    return result


_PREFLIGHT_NAMES = frozenset(
    {
        b"access-control-allow-methods",
        b"access-control-max-age",
        b"access-control-allow-headers",
        b"access-control-allow-private-network",
    }
)


def preflight(asked: str, private_network: bool) -> list[Header]:
    """The answer's headers to a preflight of an origin that was named; ``asked``: Access-Control-Request-Headers."""
    names = [name.strip().lower() for name in asked.split(",") if name.strip()]
    if not all(_ALLOWED_HEADER.fullmatch(name) for name in names):
        raise Refusal(400, "bad_preflight", "the preflight asks for what are no header names", "Send plain names.")
    headers = list(_PREFLIGHT)
    if names:
        headers.append((b"access-control-allow-headers", ", ".join(names).encode()))
    if private_network:
        headers.append((b"access-control-allow-private-network", b"true"))
    return headers
