"""A run's folder as it is read: how far the run is, each step's numbers, what it said. No torch: to look at runs is quick.

    history = read(folder)                     everything, also of a run that is going on or was killed
    summary = summarise(folder)                the last lines only: a list of runs does not read gigabytes
    tail = Tail(folder); tail.new()            what has come since; to follow a run

A last line that is not whole yet is left for later; a line that is none is counted (``damaged``) and passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import filelock
import yaml

from hornbook.errors import UsageError

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
NUMBERS = ("loss", "rate", "gradient_norm", "seconds", "tokens", "labels", "memory")
RECENT = 20  # steps over which a run's present loss is the mean
_BLOCK = 1 << 16
_FAR = 1 << 22  # bytes of the end that are searched for the last validation


class Validation(NamedTuple):
    step: int
    loss: float


class Sample(NamedTuple):
    step: int
    prompt: str
    reply: str


@dataclass(slots=True)
class History:
    """``numbers`` has a list for each name in NUMBERS, as long as ``steps``; None where a number is missing or was none."""

    folder: Path
    state: dict[str, Any]
    status: str  # running, finished, failed, stopped, or interrupted: its process is gone
    recipe: dict[str, Any]
    environment: dict[str, Any]
    account: dict[str, Any]
    steps: list[int] = field(default_factory=list)
    numbers: dict[str, list[float | None]] = field(default_factory=lambda: {name: [] for name in NUMBERS})
    parts: dict[str, list[float | None]] = field(default_factory=dict)  # of the loss, where it has several
    validations: list[Validation] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    damaged: int = 0


class Summary(NamedTuple):
    """A run in a line. ``loss``: the mean of the last steps; ``when``: it was last at work, seconds since 1970."""

    name: str
    folder: Path
    recipe: str
    model: str
    status: str
    step: int
    steps: int
    loss: float | None
    validation: Validation | None
    when: float
    error: str | None


def read(folder: Path) -> History:
    """All of a run. Raises UsageError where the folder is none of a run."""
    state = state_of(folder)
    history = History(
        folder=folder,
        state=state,
        status=status(folder, state),
        recipe=_mapping(folder / "recipe.yaml"),
        environment=_mapping(folder / "environment.json"),
        account=_mapping(folder / "data.json"),
    )
    for row in _rows(folder / METRICS, history):
        _add(history, row)
    for row in _rows(folder / SAMPLES, history):
        step, prompt, reply = row.get("step"), row.get("prompt"), row.get("reply")
        if isinstance(step, int) and isinstance(prompt, str) and isinstance(reply, str):
            history.samples.append(Sample(step, prompt, reply))
        else:
            history.damaged += 1
    return history


def _add(history: History, row: Mapping[str, Any]) -> None:
    """A line of metrics.jsonl: a step or a validation."""
    step = row.get("step")
    if not isinstance(step, int):
        history.damaged += 1
    elif isinstance(row.get("validation"), Mapping):
        if (loss := number(row["validation"].get("loss"))) is not None:
            history.validations.append(Validation(step, loss))
    else:
        parts = row.get("parts") if isinstance(row.get("parts"), Mapping) else {}
        assert isinstance(parts, Mapping)
        for name in parts:
            if name not in history.parts:
                history.parts[name] = [None] * len(history.steps)
        for name, values in history.parts.items():
            values.append(number(parts.get(name)))
        history.steps.append(step)
        for name, values in history.numbers.items():
            values.append(number(row.get(name)))


def summarise(folder: Path) -> Summary:
    """A run by its state and its last lines. Raises UsageError where the folder is none of a run."""
    state = state_of(folder)
    losses: list[float] = []
    validation, step = None, 0
    for row in _backwards(folder / METRICS):
        if not isinstance(row.get("step"), int):
            continue
        if isinstance(row.get("validation"), Mapping):
            loss = number(row["validation"].get("loss"))
            if validation is None and loss is not None:
                validation = Validation(row["step"], loss)
        else:
            step = max(step, row["step"])
            if len(losses) < RECENT and (loss := number(row.get("loss"))) is not None:
                losses.append(loss)
        if validation is not None and len(losses) == RECENT:
            break
    return Summary(
        name=folder.name,
        folder=folder,
        recipe=str(state.get("recipe") or "?"),
        model=str(state.get("model") or ""),
        status=status(folder, state),
        step=max(step, _whole(state.get("step"))),
        steps=_whole(state.get("steps")),
        loss=sum(losses) / len(losses) if losses else None,
        validation=validation,
        when=max(
            (path.stat().st_mtime for path in (folder / "state.json", folder / METRICS) if path.exists()), default=0.0
        ),
        error=str(state["error"]) if state.get("error") else None,
    )


def all_in(folder: Path) -> Iterator[Path]:
    """The runs below a folder of runs, and those one deeper: a chain of recipes has a folder of its own."""
    for path in _folders(folder):
        if (path / "state.json").is_file():
            yield path
        else:
            yield from (stage for stage in _folders(path) if (stage / "state.json").is_file())


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def state_of(folder: Path) -> dict[str, Any]:
    """What state.json says. Raises UsageError where there is none that can be read."""
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"{folder} is no run: it has no state.json", "hornbook runs lists the runs.") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", "hornbook runs lists the runs.") from error
    if not isinstance(state, dict):
        raise UsageError(f"{path} is not that of a run", "hornbook runs lists the runs.")
    return state


def status(folder: Path, state: Mapping[str, Any]) -> str:
    """What a run's state says; but "running" outlives a process that was killed, and is "interrupted" then."""
    said = str(state.get("status") or "?")
    return "interrupted" if said == "running" and not _alive(folder, state.get("pid")) else said


def _alive(folder: Path, pid: object) -> bool:
    """Whether a run's process is there: it holds the lock, which the system takes back when it ends."""
    lock = folder / ".lock"
    if lock.exists():
        try:
            with filelock.FileLock(lock, timeout=0):
                return False
        except filelock.Timeout:
            return True
        except (OSError, NotImplementedError):  # not ours to lock, or a file system without locks
            pass
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another person's process
        return True
    return True


class Tail:
    """The lines of a run's metrics as they come; begins anew where the file was cut, as a run that goes on cuts it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS
        self._at = 0

    def new(self) -> tuple[bool, list[dict[str, Any]]]:
        """-> whether all lines before are to be forgotten, and the rows that have come since the last call."""
        try:
            size = self.path.stat().st_size
        except OSError:
            size = 0
        anew = size < self._at
        if anew:
            self._at = 0
        if size == self._at:
            return anew, []
        with self.path.open("rb") as file:
            file.seek(self._at)
            come = file.read()
        whole = come[: come.rfind(b"\n") + 1]
        self._at += len(whole)
        return anew, [row for row in map(_row, whole.splitlines()) if row is not None]


# ---------------------------------------------------------------------------------------------------------- lines


def _rows(path: Path, history: History) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as lines:
            for line in lines:
                row = _row(line)
                if row is not None:
                    yield row
                elif line.endswith(b"\n"):
                    history.damaged += 1
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", "Check the folder's permissions.") from error


def _backwards(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file from its end, as far back as is worth while."""
    try:
        with path.open("rb") as file:
            left = file.seek(0, os.SEEK_END)
            nearest, rest = max(0, left - _FAR), b""
            while left > nearest:
                count = min(_BLOCK, left)
                left -= count
                file.seek(left)
                first, *whole = (file.read(count) + rest).split(b"\n")
                rest = first
                yield from _found(reversed(whole))
            if not left:
                yield from _found([rest])
    except OSError:
        return


def _found(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    return (row for row in map(_row, lines) if row is not None)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def number(value: Any) -> float | None:
    """A finite number of a size that a picture can be made of, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e100 else None  # also of NaN


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _mapping(path: Path) -> dict[str, Any]:
    """A file of JSON or YAML; empty where there is none that can be read."""
    try:
        text = path.read_text("utf-8")
        value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}
