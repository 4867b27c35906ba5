"""To follow a run: its curve drawn anew as it grows where there is a terminal, a line for what has come elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from hornbook.cli import console
from hornbook.cli.curve import can_braille, cropped, draw, plain
from hornbook.errors import TrainingError
from hornbook.train import history
from hornbook.train.history import Tail

_WAIT = 1.0  # seconds between two looks
# (state, status, whether what came before is to be forgotten, new rows of the metrics)
Show: TypeAlias = Callable[[dict[str, Any], str, bool, list[dict[str, Any]]], None]


def follow(folder: Path, *, as_json: bool = False) -> None:
    """Until the run ends. Raises TrainingError where it failed, or its process is gone."""
    if sys.stdout.isatty() and not as_json:
        with _Drawing(folder) as drawing:
            _watch(folder, drawing.show)
    else:
        _watch(folder, _Lines(as_json).show)
    state = history.state_of(folder)
    status = history.status(folder, state)
    if status == "interrupted":
        raise TrainingError(
            f"{plain(folder.name)} was interrupted at step {history.summarise(folder).step}: its process is gone",
            "Give the same command again: it goes on from the last checkpoint.",
        )
    if status == "failed":
        raise TrainingError(f"{plain(folder.name)} failed: {plain(str(state.get('error')))}", "hornbook runs shows it.")
    console.say(f"  {plain(folder.name)} {status}")


def _watch(folder: Path, show: Show) -> None:
    tail = Tail(folder)
    while True:
        state = history.state_of(folder)
        status = history.status(folder, state)  # before the lines: those that were written last are not missed
        anew, rows = tail.new()
        show(state, status, anew, rows)
        if status != "running":
            return
        time.sleep(_WAIT)


class _Lines:
    """The last step since the last look, and every validation; as JSON: every row."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def show(self, state: dict[str, Any], status: str, anew: bool, rows: list[dict[str, Any]]) -> None:
        if anew:
            console.say("the run goes on from its last checkpoint")
        steps = [row for row in rows if "validation" not in row]
        for row in rows:
            if self.as_json:
                print(json.dumps(row, ensure_ascii=False), flush=True)
            elif "validation" in row or row is steps[-1]:
                print(line_of(row, state.get("steps")), flush=True)


def line_of(row: dict[str, Any], steps: Any) -> str:
    """A row of the metrics in a line."""
    said = [f"step {row.get('step')}/{steps}"]
    if isinstance(row.get("validation"), dict):
        loss = history.number(row["validation"].get("loss"))
        return "  ".join([*said, f"held-out loss {'none' if loss is None else f'{loss:.4f}'}"])
    loss, rate = history.number(row.get("loss")), history.number(row.get("rate"))
    tokens, seconds = history.number(row.get("tokens")), history.number(row.get("seconds"))
    said.append(f"loss {'none' if loss is None else f'{loss:.4f}'}")
    if rate is not None:
        said.append(f"rate {rate:.2e}")
    if tokens and seconds:
        said.append(f"{tokens / seconds:,.0f} tokens/s")
    return "  ".join(said)


class _Drawing:
    """The curve and the last numbers, in place."""

    def __init__(self, folder: Path) -> None:
        from rich.console import Console
        from rich.live import Live

        self.folder = folder
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._braille = can_braille(self._console.encoding)
        self._live = Live(console=self._console, auto_refresh=False)
        self._forget()

    def _forget(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float | None] = []
        self.validations: list[tuple[int, float]] = []
        self.last: dict[str, Any] = {}

    def __enter__(self) -> _Drawing:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, state: dict[str, Any], status: str, anew: bool, rows: list[dict[str, Any]]) -> None:
        from rich.text import Text

        if anew:
            self._forget()
        for row in rows:
            self._take(row)
        lines = self.frame(state, status, self._console.width, self._console.height)
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)

    def _take(self, row: dict[str, Any]) -> None:
        if not isinstance(row.get("step"), int):
            return
        if isinstance(row.get("validation"), dict):
            if (loss := history.number(row["validation"].get("loss"))) is not None:
                self.validations.append((row["step"], loss))
        else:
            self.steps.append(row["step"])
            self.losses.append(history.number(row.get("loss")))
            self.last = row

    def frame(self, state: dict[str, Any], status: str, width: int, height: int) -> list[str]:
        """The lines of one picture, none wider than the terminal."""
        about = f"{self.folder.name} · {state.get('recipe')} · {state.get('model')} · {status}"
        lines = [cropped(about, width)]
        rows = max(4, min(16, height - 5))
        lines += draw(self.steps, self.losses, self.validations, width=width, height=rows, braille=self._braille)
        if self.last:
            said = line_of(self.last, state.get("steps"))
            if self.validations:
                said += f"  held-out loss {self.validations[-1][1]:.4f} at {self.validations[-1][0]}"
            lines.append(cropped(said, width))
        return lines
