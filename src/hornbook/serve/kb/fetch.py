"""One page or file from the public internet, fetched for a person without letting the URL lead anywhere else.

    check_url -> resolve once -> check every address -> connect to one of them -> GET -> redirect? from the start

``resolve`` and ``connect`` are the only two things here that touch a network; tests replace both by recorders. No proxy
of the environment is used: behind one, nobody could tell where a connection ends.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urljoin

import anyio
import anyio.to_thread
import httpcore

import hornbook
from hornbook.errors import DownloadError, HornbookError
from hornbook.retrieve.parse import FORMATS
from hornbook.serve.kb.addresses import RefusedAddress, Target, check_address, check_url

Resolve = Callable[[str, int], Awaitable[list[str]]]
Connect = Callable[[str, int, float], Awaitable[httpcore.AsyncNetworkStream]]

SECONDS = 60.0  # for everything, redirects and all
CONNECT_SECONDS = 10.0
REDIRECTS = 5
_WRITTEN_AT_ONCE = 1 << 20  # bytes
_REDIRECTING = frozenset([301, 302, 303, 307, 308])
# What a server calls a format, beside the names that FORMATS has; the first suffix of a type is its usual one.
_SUFFIXES: dict[str, str] = {"application/xhtml+xml": ".html", "text/x-markdown": ".md", "text/xml": ".xml",
                             "application/csv": ".csv", "text/rtf": ".rtf", "application/rss+xml": ".rss",
                             "application/atom+xml": ".atom"}  # fmt: skip
for _suffix, _format in FORMATS.items():
    _SUFFIXES.setdefault(_format.media_type, _suffix)
_ANYTHING = frozenset(
    ["", "application/octet-stream", "binary/octet-stream", "text/plain"]
)  # its name tells the format


class TooLarge(DownloadError):
    """More came than may be kept."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came: the file, its digest and size, the URL where it was found, and a name to show."""

    path: Path
    sha256: str
    size: int
    url: str
    name: str


async def resolve(host: str, port: int) -> list[str]:
    """Every address of a name."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


async def connect(address: str, port: int, timeout: float) -> httpcore.AsyncNetworkStream:
    return await httpcore.AnyIOBackend().connect_tcp(address, port, timeout=timeout)


class Pinned(httpcore.AsyncNetworkBackend):
    """Connects to what was checked. ``host`` never reaches a resolver of the HTTP library."""

    def __init__(self, resolve: Resolve, connect: Connect) -> None:
        self._resolve, self._connect = resolve, connect

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._resolve(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"the name {host} has no address ({error})") from error
        for address in addresses:  # all of them: a name with one address inside is not fetched by another
            check_address(address)
        failure: Exception = httpcore.ConnectError(f"the name {host} has no address")
        for address in addresses:
            try:
                return await self._connect(address, port, min(timeout or CONNECT_SECONDS, CONNECT_SECONDS))
            except (httpcore.ConnectError, httpcore.ConnectTimeout, OSError) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)


class Fetcher:
    """Fetches into files."""

    def __init__(self, *, resolve: Resolve = resolve, connect: Connect = connect) -> None:
        self._backend = Pinned(resolve, connect)

    async def fetch(self, url: str, into: Path, *, max_bytes: int, seconds: float = SECONDS) -> Fetched:
        """Fetch into the file ``into``, which is made and is gone again where this fails.

        Raises RefusedAddress before any connection, TooLarge, and DownloadError where the other side fails, is slow, or
        sends what no parser reads.
        """
        try:
            with anyio.fail_after(seconds):
                for _ in range(REDIRECTS + 1):
                    target = check_url(url)
                    answer = await self._get(target, into, max_bytes)
                    if isinstance(answer, Fetched):
                        return answer
                    url = urljoin(target.url, answer)
            raise DownloadError(f"more than {REDIRECTS} redirects, the last to {url[:200]}", "Check the URL.")
        except HornbookError:
            into.unlink(missing_ok=True)
            raise
        except TimeoutError as error:
            into.unlink(missing_ok=True)
            raise DownloadError(f"{url[:200]} was not there within {seconds:g} s", "Try again later.") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            into.unlink(missing_ok=True)
            reason = str(error) or type(error).__name__
            raise DownloadError(f"{url[:200]} cannot be fetched: {reason}", "Check the URL and the network.") from error
        except BaseException:
            into.unlink(missing_ok=True)
            raise

    async def _get(self, target: Target, into: Path, max_bytes: int) -> Fetched | str:
        """What is there, or the place of a redirect."""
        usual = target.port == (443 if target.scheme == "https" else 80)
        spelled = f"[{target.host}]" if ":" in target.host else target.host
        headers: dict[bytes | str, bytes | str] = {
            "Host": spelled if usual else f"{spelled}:{target.port}",
            "User-Agent": f"hornbook/{hornbook.__version__}",
            "Accept": "text/html, application/pdf, text/plain, */*;q=0.5",
            "Accept-Encoding": "identity",  # nothing to unpack, so that what is counted is what comes
            "Connection": "close",
        }
        timeout = {"connect": CONNECT_SECONDS, "read": 30.0, "write": 30.0, "pool": 30.0}
        where = httpcore.URL(
            scheme=target.scheme.encode(), host=target.host.encode(), port=target.port, target=target.path.encode()
        )
        async with (
            httpcore.AsyncConnectionPool(network_backend=self._backend, retries=0) as pool,
            pool.stream("GET", where, headers=headers, extensions={"timeout": timeout}) as response,
        ):
            said = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in response.headers}
            if response.status in _REDIRECTING and said.get("location"):
                return said["location"]
            if response.status != 200:
                raise DownloadError(f"{target.url[:200]} answers {response.status}", "Check the URL.")
            name = _name(target, said.get("content-type", ""))
            if said.get("content-encoding", "identity").lower() != "identity":
                raise DownloadError(
                    f"{target.url[:200]} comes packed, though it was asked not to", "Download it yourself."
                )
            length = said.get("content-length", "")
            if length.isdigit() and int(length) > max_bytes:
                raise _too_large(target, max_bytes)
            sha256, size = await _keep(response.aiter_stream(), into, target, max_bytes)
        return Fetched(into, sha256, size, target.url, name)


async def _keep(stream: AsyncIterator[bytes], into: Path, target: Target, max_bytes: int) -> tuple[str, int]:
    digest, size, held = hashlib.sha256(), 0, bytearray()
    with open(into, "xb") as file:

        def write() -> None:
            digest.update(held)
            file.write(held)
            held.clear()

        async for piece in stream:
            size += len(piece)
            if size > max_bytes:
                raise _too_large(target, max_bytes)
            held += piece
            if len(held) >= _WRITTEN_AT_ONCE:
                await anyio.to_thread.run_sync(write)
        await anyio.to_thread.run_sync(write)
    return digest.hexdigest(), size


def _name(target: Target, content_type: str) -> str:
    """What to show, with the suffix by which it will be parsed. Raises DownloadError for a type that no parser reads."""
    kind = content_type.split(";")[0].strip().lower()
    last = unquote(PurePosixPath(target.path.split("?")[0]).name) or target.host
    suffix = PurePosixPath(last).suffix.lower() if last != target.host else ""
    if kind in _ANYTHING:
        if suffix in FORMATS:
            return last
        return last + (".txt" if kind == "text/plain" else "")
    wanted = _SUFFIXES.get(kind)
    if wanted is None:
        raise DownloadError(
            f"{target.url[:200]} is of the type {kind[:80]}, which cannot be read as a document",
            "docs/documents.md lists the formats that Hornbook reads.",
        )
    fits = suffix in FORMATS and FORMATS[suffix].media_type == FORMATS[wanted].media_type
    return last if fits else last + wanted


def _too_large(target: Target, max_bytes: int) -> TooLarge:
    return TooLarge(
        f"{target.url[:200]} is larger than {max_bytes / 2**20:,.0f} MB", "Raise max_file_mb, or download a part of it."
    )


__all__ = ["Fetched", "Fetcher", "Pinned", "RefusedAddress", "TooLarge", "connect", "resolve"]
