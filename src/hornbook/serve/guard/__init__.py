"""The guard of the server: who may ask, from which page, how much and how fast (docs/security.md).

install(app, house)         puts the door before all routes
uvicorn_options(policy)     for uvicorn.Config: connections whose patience ends, no WebSockets
needs_key, check_start      what must hold before a server listens beyond this machine
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import FastAPI

from hornbook.errors import UsageError
from hornbook.serve.guard.door import CALLER, REQUEST, Door
from hornbook.serve.guard.hosts import host_name
from hornbook.serve.guard.keys import Keys
from hornbook.serve.guard.policy import MEGABYTE, Policy, is_loopback
from hornbook.serve.guard.protocol import uvicorn_options
from hornbook.serve.guard.refusals import printable

if TYPE_CHECKING:
    from hornbook.serve.app import House
    from hornbook.serve.options import Options

__all__ = [
    "CALLER", "REQUEST", "Door", "Keys", "Policy", "check_start", "install", "is_public", "needs_key", "policy_of",
    "printable", "room_for_files", "uvicorn_options",
]  # fmt: skip

# The page's own files are the same for everybody and hold nothing of this machine; the page asks for the key itself.
_PUBLIC = frozenset({"/", "/health", "/docs", "/openapi.json", "/icon.svg", "/favicon.ico"})
_PUBLIC_FOLDERS = ("/css/", "/js/", "/vendor/")


def needs_key(options: Options) -> bool:
    """Whether requests must carry a key: always where others than this machine can connect, and where it was asked for."""
    return options.require_key or not is_loopback(options.host)


def check_start(options: Options, keys: Keys) -> None:
    """Raise UsageError for a server that nobody could use, or that everybody could."""
    if needs_key(options) and not keys.all():
        where = "a key is required" if is_loopback(options.host) else f"{options.host} can be reached by others"
        raise UsageError(f"{where} and there is no key", "Make one first: hornbook key add NAME")


def policy_of(options: Options) -> Policy:
    """The guard's limits from the server's options. Raises UsageError for an origin or a name that is none."""
    names = set()
    for given in options.allow_hosts:
        name = host_name(given)
        if name is None or name != given.lower().removesuffix("."):
            raise UsageError(f"{given!r} is no host name", "Give the bare name: --allow-host chat.example")
        names.add(name)
    return Policy(
        bind=options.host,
        hosts=frozenset(names),
        origins=frozenset(options.cors_origins),
        key_required=needs_key(options),
        body_bytes=int(options.max_body_mb * MEGABYTE),
        upload_bytes=int(options.max_upload_mb * MEGABYTE),
        rate=options.rate,
        burst=options.burst,
    )


def is_public(method: str, path: str) -> bool:
    """Whether a request needs no key, wherever the server listens."""
    return method in ("GET", "HEAD") and (path in _PUBLIC or path.startswith(_PUBLIC_FOLDERS))


def room_for_files(policy: Policy, path: str, multipart: bool) -> int | None:
    """How many bytes of files a request to ``path`` may bring; None where it may bring none."""
    if path.startswith("/kb/") and path.endswith("/documents") and multipart:
        return policy.upload_bytes
    if path.startswith("/api/blobs/"):
        return policy.weights_bytes
    return None


def install(app: FastAPI, house: House) -> None:
    """Put the door before every route of ``app``; what is added to it later stands before the door. Sets ``house.keys``.

    Raises UsageError for options that name what is no origin or no host.
    """
    house.keys = Keys(house.settings)
    policy = policy_of(house.options)
    app.add_middleware(Door, policy=policy, keys=house.keys, public=is_public, files=room_for_files)
