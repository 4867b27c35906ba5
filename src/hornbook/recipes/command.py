"""What every recipe's command shares: ``python -m hornbook.recipes.NAME DATA -o FOLDER key=value ...``

A key is a field of the recipe's configuration; one that it does not have, or a value that does not fit, is an error
that names the field. Errors are two lines on stderr, with exit code 1 or 2 as for the verbs of ``hornbook``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from hornbook.cli.console import say
from hornbook.errors import HornbookError, UsageError

Config = TypeVar("Config", bound=BaseModel)
Report = Callable[[int, int, str], None]  # (done, total, what there is to say of it)


def main(
    name: str, config: type[Config], run: Callable[[Path, Path, Config, Report], str], given: Sequence[str] | None
) -> int:
    """Read the command line and run; -> the exit code. ``run`` returns the line that stdout gets."""
    rows = [f"  {key + '=' + str(f.default):<22} {f.description or ''}" for key, f in config.model_fields.items()]
    parser = argparse.ArgumentParser(
        f"python -m hornbook.recipes.{name}",
        description=(config.__doc__ or "").strip().splitlines()[0],
        epilog="\n".join(["settings, with what they are where nothing is said:", *rows]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, help="the file to learn from")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    words = parser.parse_intermixed_args(given)
    line = Line()
    try:
        print(run(words.data, words.out, read_settings(config, words.settings), line))
    except HornbookError as error:
        line.end()
        say(f"{name}: {error.what}")
        if error.remedy:
            say(f"  {error.remedy}")
        return error.exit_code
    except KeyboardInterrupt:
        line.end()
        say(f"{name}: stopped")
        return 130
    return 0


def read_settings(config: type[Config], words: Sequence[str]) -> Config:
    """``["steps=100", "rate=1e-3"]`` as a configuration. Raises UsageError."""
    said: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise UsageError(f"{word!r} is not a setting", "Write key=value; --help lists the keys.")
        if key in said:
            raise UsageError(f"{key} is set twice, to {said[key]} and {value}", "Set it once.")
        said[key] = value
    try:
        return config.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the settings"
        if first["type"] == "extra_forbidden":
            raise UsageError(f"there is no setting {key!r}", f"There are {', '.join(config.model_fields)}.") from error
        raise UsageError(f"{key}={said.get(key, '')}: {first['msg']}", "--help lists the settings.") from error


class Line:
    """How far the work is, on stderr: one line that is written over on a terminal, else a line every ten seconds."""

    def __init__(self, every: float = 10.0) -> None:
        self.on_terminal = sys.stderr.isatty()
        self.every = 0.2 if self.on_terminal else every
        self.first: tuple[float, int] | None = None  # when the first step was reported, and its number
        self.last = time.monotonic()
        self.open = False  # whether the cursor stands behind a line that will be written over

    def __call__(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        began, first = self.first = self.first or (now, done)
        if now - self.last < self.every and done < total:
            return
        self.last = now
        left = (now - began) / max(done - first, 1) * (total - done)
        text = f"  step {done:,} of {total:,}, {what}" + (f", {_duration(left)} left" if done > first else "")
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
