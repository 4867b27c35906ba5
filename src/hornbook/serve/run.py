"""From options to a server that answers, and its end.

home's lock -> socket bound -> application -> "listening" -> SIGTERM: nothing new, what runs may finish -> lock let go
                                                         -> once more: the end at once
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import filelock
import uvicorn

from hornbook.errors import StoreError, UsageError
from hornbook.serve import guard, logs
from hornbook.serve.app import House, create_app
from hornbook.serve.options import Options
from hornbook.settings import Settings

log = logging.getLogger("hornbook.serve")
LAST_WORDS = 1.0  # seconds for what was said at the end to go out; then connections are cut
BACKLOG = 1024  # connections that may wait to be taken


def run(options: Options, settings: Settings, ready: Callable[[str], None], paths: tuple[Path, ...] = ()) -> None:
    """Serve until told to stop. ``ready`` is given the address as soon as connections are taken.

    Raises UsageError where the port or the home is in use, or an address other than this machine's own is to be opened
    without any key.
    """
    guard.check_start(options, guard.Keys(settings))
    with held(settings.home / "server") as address_file, listening(options.host, options.port) as bound:
        app = create_app(options, settings, paths)
        house: House = app.state.hornbook
        host, port = bound.getsockname()[:2]
        address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        logs.begin()
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=1,
            backlog=BACKLOG,
            **guard.uvicorn_options(guard.policy_of(options)),
        )

        def announce() -> None:
            address_file.write_text(json.dumps({"pid": os.getpid(), "address": address}) + "\n", "utf-8")
            ready(address)

        Stoppable(config, house, announce).run(sockets=[bound])


class Stoppable(uvicorn.Server):
    """The HTTP server, which lets running answers finish when it is told to stop."""

    def __init__(self, config: uvicorn.Config, house: House, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self.house = house
        self.announce = announce
        self._draining: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started:
            self.announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second ends what still runs, a third does not even say goodbye."""
        if self._loop is None or self._hurry.is_set():
            self.force_exit = self.should_exit = True
        elif self.house.draining:
            self._loop.call_soon_threadsafe(self._hurry.set)
        else:
            self.house.draining = True
            self._loop.call_soon_threadsafe(self._begin_to_drain)

    def _begin_to_drain(self) -> None:
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        models, seconds = self.house.models, self.house.options.drain_s
        log.info("stopping", extra={"open": self.house.open, "seconds": seconds})
        finishing = asyncio.ensure_future(models.drain(seconds))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait((finishing, hurry), return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        whole = finishing.done() and finishing.result()
        if not finishing.done():
            finishing.cancel()
            await models.drain(0)
        loop = asyncio.get_running_loop()
        until = loop.time() + LAST_WORDS
        while self.house.open and loop.time() < until:
            await asyncio.sleep(0.02)
        log.info("stopped", extra={"unfinished": not whole})
        self.should_exit = True


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """The one server of a home; -> the file that says where it listens. Raises UsageError where another runs."""
    address = folder / "address.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / "lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        where = ""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            said = json.loads(address.read_text("utf-8"))
            where = f": {said['address']}, process {said['pid']}"
        raise UsageError(
            f"another server uses {folder.parent}{where}",
            "Use that one, stop it, or set HORNBOOK_HOME to another folder.",
        ) from None
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}", "Check its permissions.") from error
    try:
        yield address
    finally:
        with contextlib.suppress(OSError):
            address.unlink(missing_ok=True)
        lock.release()


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound, so that what is wrong is known before anything is loaded. Raises UsageError."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(f"{host} is no address of this machine: {error.strerror}", "Give --host 127.0.0.1.") from error
    bound = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let two servers have one port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(place)
        except OSError as error:
            raise _cannot_bind(host, port, error) from error
        yield bound
    finally:
        bound.close()


def _cannot_bind(host: str, port: int, error: OSError) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"port {port} is in use by another program", "Choose another with --port, or --port 0 for any."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return UsageError(f"port {port} may not be opened: {error.strerror}", "Choose one above 1023 with --port.")
    return UsageError(f"{host} port {port} cannot be opened: {error.strerror}", "Give --host 127.0.0.1.")
