"""The folder of a run: what was asked for, on what it ran, how far it is, and each step's numbers.

    recipe.yaml        as it was resolved; another one is refused once there is a checkpoint
    environment.json   versions and the machine
    state.json         {"status": running|finished|failed|stopped, "recipe", "model", "step", "steps", "pid", ...}
    metrics.jsonl      a line a step, and one for each evaluation; samples.jsonl: what the model said as it learnt
    checkpoints/       see hornbook.train.resume

One process at a time: it holds the folder's lock, which the system takes back when the process ends, however it ends. Lines
are written at once and only ever behind the others; a run that goes on from a checkpoint first cuts those that came after.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import filelock
import torch
import yaml

from hornbook.errors import HornbookError, StoreError, TrainingStopped, UsageError
from hornbook.train.loop import Step

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
_COMPUTES = ("versions", "machine", "threads", "devices")  # what the last digits of a result may hang on
_EVERY = 1.0  # seconds between two writings of how far it is


class RunFolder:
    """A folder that this process trains in; to be used as a context, which writes how the run ended.

    ``begin`` comes first; then ``cut`` to where the run goes on; ``finish`` once the result is there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self._state: dict[str, Any] = {}
        self._lines: dict[str, BinaryIO] = {}
        self._written = 0.0
        self._lock = filelock.FileLock(self.path / ".lock")

    def __enter__(self) -> RunFolder:
        """Raises UsageError where another process is at it, StoreError where the folder cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0.5)  # who looks whether a run is alive holds it for a moment: see running
        except filelock.Timeout as error:
            at_it = read_state(self.path)
            raise UsageError(
                f"{self.path} is being trained in by another process ({at_it.get('pid', 'unknown')}, at step "
                f"{at_it.get('step', 0)} of {at_it.get('steps', '?')})",
                "Wait for it, stop it (Control-C saves what it has learnt), or name another folder.",
            ) from error
        except OSError as error:
            raise _refused(self.path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and self._state:
                self._ended(error)
        finally:
            for file in self._lines.values():
                file.close()
            self._lines.clear()
            self._lock.release()

    def begin(
        self,
        recipe: Mapping[str, Any],
        *,
        model: str = "",
        steps: int = 0,
        free: Collection[str] = (),
        say: Say = print,
    ) -> None:
        """Write what is asked for and on what it runs. ``recipe``: resolved, of what JSON can hold.

        ``free`` names keys ("training.keep") that may change from one beginning to the next. Raises UsageError with the
        difference where a run with a checkpoint had another recipe.
        """
        asked = json.loads(json.dumps(recipe))
        self._compare(asked, free)
        environment = describe_environment()
        before = _read_json(self.path / "environment.json")
        if before and self.has_checkpoint():
            now = {key: environment[key] for key in _COMPUTES}
            if changed := differences({key: before.get(key) for key in _COMPUTES}, now):
                say(f"the run was begun elsewhere ({'; '.join(changed)}): its last digits may differ")
        self._write("recipe.yaml", yaml.safe_dump(asked, sort_keys=False, allow_unicode=True))
        self._write_json("environment.json", environment)
        named = {"recipe": str(recipe.get("recipe", "")), "model": model}
        began = {"step": 0, "steps": steps, "pid": os.getpid(), "started": _now(), "ended": None, "error": None}
        self._state = {"status": "running", **named, **began}
        self._write_json("state.json", self._state)

    def has_checkpoint(self) -> bool:
        """Whether there is one, sound or not."""
        return any(self.checkpoints.glob("step-*"))

    def cut(self, step: int | None) -> None:
        """Drop the lines of what came after ``step``, and one that was not written to its end; None: all lines."""
        for name in (METRICS, SAMPLES):
            assert name not in self._lines, "lines are cut before new ones come"
            path = self.path / name
            if path.exists():
                keep = 0 if step is None else _length_until(path, step)
                try:
                    os.truncate(path, keep)
                except OSError as error:
                    raise _refused(path, error) from error
        if step is not None:
            self._state["step"] = step

    def step(self, step: Step) -> None:
        """Write a step's numbers, and, now and then, how far the run is."""
        self.line(METRICS, asdict(step))
        self._state["step"] = step.step
        if time.monotonic() - self._written > _EVERY:
            self._written = time.monotonic()
            self._write_json("state.json", self._state)

    def validation(self, step: int, loss: float, labels: int, seconds: float) -> None:
        """Write a line about held-out data after ``step`` steps."""
        self.line(METRICS, {"step": step, "validation": {"loss": loss, "labels": labels, "seconds": seconds}})

    def sample(self, step: int, prompt: str, reply: str) -> None:
        """Write what the model said after ``step`` steps."""
        self.line(SAMPLES, {"step": step, "prompt": prompt, "reply": reply})

    def line(self, name: str, row: Mapping[str, Any]) -> None:
        """Add a line to a file of the folder, at once. Numbers that are none become null. Raises StoreError."""
        path = self.path / name
        left = json.dumps(_finite(row), ensure_ascii=False).encode() + b"\n"
        try:
            if name not in self._lines:
                self._lines[name] = path.open(
                    "ab", buffering=0
                )  # nothing is left for closing, which could fail once more
            while left:
                left = left[self._lines[name].write(left) or 0 :]  # a disk that is nearly full takes a part
        except OSError as error:
            raise _refused(path, error) from error

    def settle(self) -> None:
        """Ask the disk to have every line, before a checkpoint says that they are there."""
        for file in self._lines.values():
            os.fsync(file.fileno())

    def finish(self) -> None:
        """The run is over and its result is in the folder."""
        self._state.update(status="finished", step=self._state["steps"], ended=_now())
        self._write_json("state.json", self._state)

    def _compare(self, asked: Mapping[str, Any], free: Collection[str]) -> None:
        path = self.path / "recipe.yaml"
        if not path.exists() or not self.has_checkpoint():
            return  # nothing has been learnt that another recipe would spoil
        try:
            before = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise StoreError(f"{path} cannot be read: {error}", "Name another folder, or mend the file.") from error
        changed = differences(before, asked, free)
        if changed:
            raise UsageError(
                f"{self.path} holds a run of another recipe: {'; '.join(changed)}",
                "Ask for the same to go on with it, name another folder for a new run, or remove this one.",
            )

    def _ended(self, error: BaseException) -> None:
        stopped = isinstance(error, TrainingStopped | KeyboardInterrupt)
        what = error.what if isinstance(error, HornbookError) else f"{type(error).__name__}: {error}"
        if isinstance(error, KeyboardInterrupt):
            what = "interrupted at once; what came after the last checkpoint is not saved"
        self._state.update(status="stopped" if stopped else "failed", ended=_now(), error=what)
        with suppress(StoreError):  # a full disk is what ``error`` says most likely: it must not be hidden
            self._write_json("state.json", self._state)

    def _write_json(self, name: str, value: object) -> None:
        self._write(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all."""
        path = self.path / name
        partial = self.path / f".{name}.partial"
        try:
            partial.write_text(text, "utf-8")
            os.replace(partial, path)
        except OSError as error:
            raise _refused(path, error) from error
        finally:
            partial.unlink(missing_ok=True)


Say = Callable[[str], object]


def read_state(path: Path) -> dict[str, Any]:
    """What state.json of a run's folder says; empty where there is none that can be read."""
    return _read_json(path / "state.json")


def running(path: Path) -> bool:
    """Whether a process is training in the folder now: a state that says "running" outlives a process that was killed."""
    lock = filelock.FileLock(path / ".lock")
    if not (path / ".lock").exists():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except (filelock.Timeout, OSError):
        return True


def differences(before: Any, now: Any, free: Collection[str] = (), at: str = "") -> list[str]:
    """What is another in two trees of JSON, "training.rate was 0.001 and is 0.002", but for the keys in ``free``."""
    if at in free:
        return []
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        found = []
        for key in [*before, *(key for key in now if key not in before)]:
            below = f"{at}.{key}" if at else str(key)
            found += differences(before.get(key), now.get(key), free, below)
        return found
    return [] if before == now else [f"{at} was {_short(before)} and is {_short(now)}"]


def describe_environment() -> dict[str, Any]:
    """Versions, the machine and the command, for who wants to do it again."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": {name: _version(name) for name in ("hornbook", "torch", "numpy", "tokenizers")}
        | {"python": platform.python_version()},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "devices": devices,
        "command": sys.argv,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _short(value: object) -> str:
    said = "not given" if value is None else json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 60 else f"{said[:57]}..."


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return value


def _length_until(path: Path, step: int) -> int:
    """How many bytes of a file of lines are about steps up to ``step``."""
    kept = 0
    for line in _whole_lines(path):
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept += len(line)
    return kept


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                return
            yield line


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _refused(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be written: {error.strerror or error}", "Check the folder's permissions and the disk's space."
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
