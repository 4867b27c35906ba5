"""How far a recipe's work is, for a person."""

from __future__ import annotations

import sys
import time

from hornbook.cli.console import say


class Line:
    """How far the work is, on stderr: one line that is written over on a terminal, else a line every ten seconds."""

    def __init__(self, every: float = 10.0) -> None:
        self.on_terminal = sys.stderr.isatty()
        self.every = 0.2 if self.on_terminal else every
        self.first: tuple[float, int] | None = None  # when the first step was reported, and its number
        self.done = 0
        self.last = time.monotonic()
        self.open = False  # whether the cursor stands behind a line that will be written over

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        if done <= self.done:  # another work has begun
            self.first = None
        self.done = done
        began, first = self.first = self.first or (now, done)
        if now - self.last < self.every and done < total:
            return
        self.last = now
        left = (now - began) / max(done - first, 1) * (total - done)
        text = f"  step {done:,} of {total:,}, {what}" + (f", {_duration(left)} left" if total > done > first else "")
        if self.on_terminal:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self.open = True
            if done == total:
                self.end()
        else:
            say(text)

    def end(self) -> None:
        """Let what is said next begin a line of its own."""
        if self.open:
            say()
        self.open = False


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
