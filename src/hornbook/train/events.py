"""A run's numbers as TensorBoard reads them, beside metrics.jsonl: FOLDER/events/. Needs the optional package tensorboard.

A run that goes on from a checkpoint writes a file of its own there, and drops those that came after the checkpoint, as
metrics.jsonl does: what is shown is what led to the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from hornbook.errors import StoreError, UsageError
from hornbook.train.history import NUMBERS, number, read
from hornbook.train.loop import Step

NAME = "events"


def require() -> None:
    """Raises UsageError where TensorBoard's package is not installed: before a training that asks for it begins."""
    if find_spec("tensorboard") is None:
        raise UsageError(
            "event files for TensorBoard are asked for, and the package tensorboard is not installed",
            'Install it (pip install "hornbook[tensorboard]"), or do not ask for them: report.html shows the same.',
        )


class Events:
    """A hook for ``train``'s on_step; to be used as a context.

    Files are begun with the first number: what metrics.jsonl has from before it is written again first.
    Raises UsageError where TensorBoard is not installed; once it writes, StoreError where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        require()
        self.run, self.folder = folder, folder / NAME
        self._writer: Any = None

    def _begin(self, start: int) -> None:
        from tensorboard.summary import Writer

        try:
            self.folder.mkdir(exist_ok=True)
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._writer = Writer(str(self.folder))
        except OSError as error:
            raise _refused(self.folder, error) from error
        if start:
            history = read(self.run)
            for at, step in enumerate(history.steps):
                if step <= start:
                    self._write(step, {name: values[at] for name, values in history.numbers.items()})
            for step, loss in history.validations:
                if step <= start:
                    self._scalar("held-out/loss", loss, step)

    def __call__(self, step: Step) -> None:
        if self._writer is None:
            self._begin(step.step - 1)
        self._write(step.step, asdict(step))

    def validation(self, step: int, loss: float) -> None:
        if self._writer is None:
            self._begin(0)  # before the first step
        self._scalar("held-out/loss", loss, step)

    def _write(self, step: int, numbers: Mapping[str, Any]) -> None:
        for name in NUMBERS:
            if (value := number(numbers.get(name))) is not None:
                self._scalar(f"train/{name}", value, step)

    def _scalar(self, name: str, value: float, step: int) -> None:
        try:
            self._writer.add_scalar(name, value, step)
        except OSError as error:
            raise _refused(self.folder, error) from error

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


def _refused(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path} cannot be written: {error.strerror or error}", "Check the folder's permissions and the disk's space."
    )
