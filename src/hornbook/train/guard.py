"""A training that is asked to end (Control-C, or SIGTERM from a system) ends after its step, once it has saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_ASKED = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """A context in which the first SIGINT or SIGTERM is only noted, in ``asked``; the second interrupts at once.

    Handlers can be set in the main thread alone: elsewhere nothing is caught, and Control-C interrupts as ever.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in _ASKED:
                if (
                    signal.getsignal(number) is not signal.SIG_IGN
                ):  # a process in the background may be told to ignore it
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt
        self.asked = number
