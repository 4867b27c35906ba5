"""Every answer of a model, written down as it comes, so that nothing is asked twice, whatever ended the run before.

    {"form": 1, "hornbook": "...", "model": {...}}          whose answers these are; another model's are refused
    {"key": "5f2c...", "task": "boolq", "item": "val-7", "answers": [[-3.25, true, 1], [-4.5, false, 1]]}
    {"key": "09ab...", "task": "gsm8k", "item": "test-3", "answers": ["... #### 42"]}

A key is a digest of all that the answer depends on, so that another prompt, or another version of a task's prompts, is another
question, and so that what two tasks ask alike is asked once. A line is appended as soon as its answer is there: the system has it
then, whatever becomes of the process, and at the latest SYNC seconds of answers later the disk. A line that was not written to
its end is taken for not written.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import filelock

from hornbook.errors import StoreError, UsageError
from hornbook.evals.outcome import Identity
from hornbook.evals.task import Answer, Item, Likelihood, Question, Request, Rolling, Setting, Task, Writing
from hornbook.types import Score

FORM = 1
FILE = "answers.jsonl"
SYNC = 1.0  # seconds; against a loss of power


class Ledger:
    """The answers in a folder; without one they are kept in memory alone. To be used as a context: it holds the folder's lock.

    ``damaged`` lines could not be read and count as not written.
    """

    def __init__(self, folder: Path | None, model: Identity) -> None:
        self.folder, self.model = folder, model
        self.damaged = 0
        self._answers: dict[str, list[Any]] = {}
        self._file: BinaryIO | None = None
        self._synced = 0.0
        self._lock = None if folder is None else filelock.FileLock(folder / ".lock")

    def __enter__(self) -> Ledger:
        """Raises UsageError where another process writes here or the answers are another model's, StoreError."""
        if self.folder is None or self._lock is None:
            return self
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0.5)
        except filelock.Timeout as error:
            raise UsageError(
                f"another process is writing answers into {self.folder}",
                "Wait for it, stop it (its answers are kept), or name another folder with --out.",
            ) from error
        except OSError as error:
            raise self._refused(error) from error
        try:
            self._open(self.folder / FILE)
        except BaseException as error:
            self._close()
            if isinstance(error, OSError):
                raise self._refused(error) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def get(self, key: str) -> list[Any]:
        """As `kept` made it. Raises KeyError."""
        return self._answers[key]

    def put(self, lines: Iterable[tuple[str, Task, Item, list[Any]]]) -> None:
        """(key, task, item, answers as `kept` makes them) each. Written when this returns. Raises StoreError."""
        written = []
        for key, task, item, answers in lines:
            self._answers[key] = answers
            written.append(_line({"key": key, "task": task.name, "item": item.id, "answers": answers}))
        if self._file is not None and written:
            try:
                self._file.write(b"".join(written))
                self._file.flush()
                if time.monotonic() - self._synced > SYNC:
                    os.fsync(self._file.fileno())
                    self._synced = time.monotonic()
            except OSError as error:
                raise self._refused(error) from error

    def _open(self, path: Path) -> None:
        head = _line({"form": FORM, "hornbook": _version(), "model": self.model.to_json()})
        whole = self._read(path) if path.exists() else 0
        self._file = path.open("ab")
        self._file.truncate(whole)
        if not whole:
            self._file.write(head)
            self._file.flush()

    def _read(self, path: Path) -> int:
        """Take what is there; -> how many bytes of it are lines that were written to their end."""
        whole = 0
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if not line.endswith(b"\n"):
                    break
                try:
                    value = json.loads(line)
                    if number:
                        self._answers[str(value["key"])] = list(value["answers"])
                except (ValueError, KeyError, TypeError) as error:
                    if not number:
                        raise UsageError(
                            f"{path} holds no answers of an evaluation", "Name another folder with --out."
                        ) from error
                    self.damaged += 1
                else:
                    if not number:
                        self._same(path, value)
                whole += len(line)
        return whole

    def _same(self, path: Path, head: Any) -> None:
        """Raises UsageError where the answers were not given by this model, as this Hornbook runs it."""
        there = head if isinstance(head, dict) else {}
        here = {"form": FORM, "hornbook": _version(), **self.model.to_json()}
        had = {"form": there.get("form"), "hornbook": there.get("hornbook"), **(there.get("model") or {})}
        free = {"source", "name"} if self.model.fingerprint else {"source"}  # the same weights may go by two names
        differ = [key for key in here if here[key] != had.get(key) and key not in free]
        if differ:
            told = ", ".join(f"{key} {had.get(key) or 'none'}, not {here[key] or 'none'}" for key in differ)
            raise UsageError(
                f"the answers in {path.parent} were not given by this model as it runs now: {told}",
                "Name another folder with --out, or remove this one.",
            )

    def _refused(self, error: OSError) -> StoreError:
        return StoreError(
            f"answers cannot be written into {self.folder}: {error.strerror or error}",
            "Free some space or give another folder with --out; the same command then goes on where it stopped.",
        )

    def _close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what failed here was told by put()
                os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
        if self._lock is not None:
            self._lock.release()


# ------------------------------------------------------------------------------------------------------------- keys


def key_of(task: Task, item: Item, request: Request) -> str:
    """Of a request: by its content, so that tasks which ask the same share the answer. What is drawn at random is each
    item's own: two items with one prompt must not be given the same luck."""
    if isinstance(request, Likelihood):
        return _digest("likelihood", _question(request.context), list(request.continuations))
    if isinstance(request, Rolling):
        return _digest("rolling", request.text)
    own = [task.name, task.version, item.id] if request.sampling.temperature > 0 else []
    sampling = {name: value for name, value in asdict(request.sampling).items() if "logprobs" not in name}
    return _digest("writing", _question(request.prompt), sampling, *own)


def trial_key(task: Task, item: Item, setting: Setting) -> str:
    """Of an item that the task works on with the model itself."""
    return _digest("trial", task.name, task.version, item.id, item.group, item.data, asdict(setting))


def grade_key(task: Task, item: Item, answers: Sequence[Any]) -> str:
    """Of a grade that somebody else gives."""
    return _digest("grade", task.name, task.version, task.graded_by, item.id, item.data, answers)


def kept(answer: Answer) -> list[Any]:
    """An answer as JSON keeps it: [logprob, is_greedy, tokens] of a Score, or a text. The numbers come back to the bit."""
    return [[one.logprob, one.is_greedy, one.tokens] if isinstance(one, Score) else one for one in answer]


def restored(request: Request, answers: Sequence[Any]) -> Answer:
    if isinstance(request, Writing):
        return tuple(str(one) for one in answers)
    return tuple(Score(float(logprob), bool(greedy), int(tokens)) for logprob, greedy, tokens in answers)


def _question(question: Question) -> Any:
    return question if isinstance(question, str) else [[turn.role, turn.content] for turn in question]


def _digest(*parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _version() -> str:
    from hornbook import __version__

    return __version__
