"""What the door lets in: every limit of the guard in one frozen table, made once from the server's options."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from hornbook.errors import UsageError

MEGABYTE = 1_000_000
WILDCARDS = frozenset({"", "*", "0.0.0.0", "::"})


@dataclass(frozen=True)
class Policy:
    """Limits, names and origins. The defaults let in all that a person's own clients do, and end what hangs."""

    bind: str = "127.0.0.1"  # the address that the server listens on
    hosts: frozenset[str] = frozenset()  # further names that a Host header may carry, lower case
    origins: frozenset[str] = frozenset()  # other origins whose pages may call, as a browser writes them
    key_required: bool = False

    body_bytes: int = 32 * MEGABYTE  # of one request, whether announced or chunked
    upload_bytes: int = 512 * MEGABYTE  # of one multipart request that brings documents
    weights_bytes: int = 200_000 * MEGABYTE  # of one request that brings a model's file; the disk ends it sooner
    json_depth: int = 100  # lists and objects inside each other
    header_bytes: int = 32_768  # of all headers of a request together
    header_count: int = 100

    rate: float = 300.0  # requests a second that a key (or an address) may make for ever
    burst: int = 3_000  # requests that it may make at once
    wrong_keys: int = 10  # wrong keys of one address answered 401 at once; then one each ten seconds, the others 429

    connections: int = 512  # open at once; beyond it the one that waited longest without a request is closed
    header_seconds: float = 10.0  # from a request's first byte, or the connection's begin, to its last header
    body_seconds: float = 20.0  # for the first bytes of a body; then ``body_rate`` must be kept
    body_rate: float = 10_000.0  # bytes a second
    write_seconds: float = 60.0  # that a client may leave a full send buffer unread
    idle_seconds: float = 75.0  # that a connection is kept between two requests; longer than clients' pools keep it
    linger_seconds: float = 2.0  # that an unwanted body is read and dropped, so that its sender can read the refusal

    def __post_init__(self) -> None:
        for origin in self.origins:
            check_origin(origin)


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine can reach a server bound to ``host`` (a name or an address)."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_origin(origin: str) -> None:
    """Raise UsageError unless ``origin`` is one origin as a browser writes it (``https://chat.example:8443``)."""
    try:
        parts = urlsplit(origin)
        sound = bool(parts.scheme and parts.hostname) and origin == f"{parts.scheme}://{parts.netloc}".lower()
        sound = (
            sound
            and origin.isascii()
            and "@" not in parts.netloc
            and "*" not in origin
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        sound = False
    if not sound:
        raise UsageError(
            f"{origin!r} is not an origin whose pages could be let in",
            "Name each one as the browser does, in lower case: https://chat.example or http://localhost:3000, without a path or a star.",
        )
