"""Stop strings in a stream of text, wherever the borders between tokens fall.

Text that could still be the beginning of a stop string is held back until that is decided, so nothing of a stop string
is ever emitted:

    stop "END"      pushed "a", "E", "N", "x"   emitted "a", "", "", "ENx"
                    pushed "a", "EN", "D!"      emitted "a", "", ""  and stopped

The stop string that is complete first wins (of two that end together, the longer), which is the same answer however the
text was cut into pieces.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Watches one stream for ``stops``. ``stopped`` turns True for good when one of them was found."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = tuple(stops)
        self.stopped = False
        self._held = ""

    def push(self, text: str) -> str:
        """Take the next piece of text; return what is now certain not to belong to a stop string."""
        if self.stopped:
            return ""
        if not self.stops:
            return text
        buffer = self._held + text
        found = [(at + len(stop), at) for stop in self.stops if (at := buffer.find(stop)) >= 0]
        if found:
            _, start = min(found)
            self.stopped, self._held = True, ""
            return buffer[:start]
        keep = max(self._overlap(buffer, stop) for stop in self.stops)
        self._held = buffer[len(buffer) - keep :]
        return buffer[: len(buffer) - keep]

    def flush(self) -> str:
        """The stream is over: release what was held back, for it was no stop string after all."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """The length of the longest proper beginning of ``stop`` with which ``text`` ends."""
        return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
