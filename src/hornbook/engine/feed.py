"""One thread that steps an engine while anybody waits, for readers that must not block, such as an event loop.

    event loop   ask, ask, cancel, ...  -->  engine's line
                 tell([Event, Event, ...])  <-- once a step --  the feed's thread: step, step, step

All requests of a feed share one stream, so that a step of 64 answers wakes one thread once. While nothing is asked, the
thread sleeps. Other threads may use the same engine meanwhile (driver.py): whoever leads steps for all.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from hornbook.engine.driver import Driver
from hornbook.engine.requests import Event, Handle, Request
from hornbook.errors import GenerationError, HornbookError, ModelClosed

log = logging.getLogger("hornbook")


class Feed:
    """``tell`` is called from the feed's own thread with everything that a step brought, and must not block or raise."""

    def __init__(self, driver: Driver, tell: Callable[[list[Event]], None], *, name: str = "") -> None:
        self._driver = driver
        self._tell = tell
        self._stream = driver.stream()
        self._asked = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"hornbook feed {name}".strip(), daemon=True)
        self._thread.start()

    def ask(self, request: Request) -> Handle:
        """Put a request in the line; its events may be told before this returns. Raises what Engine.submit raises."""
        with self._asked:
            if self._closed:
                raise ModelClosed("the model is being closed", "Ask again: it will be loaded anew.")
        handle = self._driver.join(self._stream, request)
        with self._asked:
            self._asked.notify()
        return handle

    def cancel(self, handle: Handle) -> None:
        """From any thread, without waiting: its answers end as "cancelled" with the next step, which is told as any end is."""
        self._driver.engine.cancel(handle)

    def close(self) -> None:
        """Cancel what is open, tell its end, and end the thread. The engine stays as it is."""
        with self._asked:
            self._closed = True
            self._asked.notify()
        for handle in tuple(self._stream.open):
            self.cancel(handle)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _work(self) -> None:
        while True:
            with self._asked:
                while not (self._stream.open or self._stream.events or self._closed):
                    self._asked.wait()
                if self._closed and not (self._stream.open or self._stream.events):
                    return
            try:
                events = self._stream.take()
            except HornbookError as error:  # the engine was closed under us
                events = self._lost(error)
            except Exception as error:  # a defect in a step: those who wait must not wait for ever
                log.exception("a step of the engine failed")
                named = GenerationError(f"the engine failed: {type(error).__name__}: {error}", "Ask again.")
                events = self._lost(named)
            if events:
                self._tell(events)

    def _lost(self, error: HornbookError) -> list[Event]:
        """The end of everything that is open."""
        lost = tuple(self._stream.open)
        for handle in lost:
            self.cancel(handle)
        self._stream.open.difference_update(lost)
        return [Event(handle, error=error, last=True) for handle in lost]
