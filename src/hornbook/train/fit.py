"""A whole training in a run's folder: from its latest checkpoint to its last step, whatever happens in between.

    latest checkpoint --> train: step -> mean of weights -> metrics -> on_step -> validation -> checkpoint -> asked to end?
                                                                                                |
    killed at any moment, the same call again ends with the same bytes and the same lines <-----'

All that a step depends on is in the checkpoint before it: weights, the optimizer's states, the place in the data, random
generators; what is left is arithmetic, which on a processor is the same each time and on a GPU nearly. So is what the step
left behind: its lines are on the disk before the checkpoint that says so.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hornbook.errors import StoreError, TrainingStopped
from hornbook.model.transformer import Transformer
from hornbook.train import resume
from hornbook.train.average import WeightMean
from hornbook.train.batch import Batch
from hornbook.train.evaluate import Validation, evaluate
from hornbook.train.folder import RunFolder
from hornbook.train.guard import Signals
from hornbook.train.loop import Run, Step, train
from hornbook.train.losses import Loss
from hornbook.train.precision import Plain, Precision
from hornbook.train.schedule import Schedule
from hornbook.train.team import ALONE, Team


class Feed(Protocol):
    """Endless batches that know where they are. ``state`` is of the batches that were taken, not of those read ahead."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class Checkpoints(Protocol):
    """How checkpoints are written: `Whole` by one process, or in parts by several."""

    def save(self, step: int, feed: Mapping[str, Any], more: Mapping[str, Any], average: WeightMean | None) -> None: ...

    def load(self, say: Callable[[str], object]) -> resume.Restored | None:
        """Bring everything to where the newest sound one was taken; None where there is none."""
        ...

    def prune(self, keep: int, best: int | None) -> None: ...


class Whole:
    """Checkpoints of a training in one process, in ``folder``: see `hornbook.train.resume`."""

    def __init__(self, folder: Path, trained: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        self.folder, self.trained, self.optimizer = folder, trained, optimizer

    def save(self, step: int, feed: Mapping[str, Any], more: Mapping[str, Any], average: WeightMean | None) -> None:
        means = None if average is None else average.tensors()
        resume.save(self.folder, step, self.trained, self.optimizer, feed, more, average=means)

    def load(self, say: Callable[[str], object]) -> resume.Restored | None:
        path = resume.latest(self.folder, say)
        return None if path is None else resume.restore(path, self.trained, self.optimizer)

    def prune(self, keep: int, best: int | None) -> None:
        resume.prune(self.folder, keep, () if best is None else (best,))


def fit(
    model: Transformer,
    feed: Feed,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    *,
    folder: RunFolder,
    checkpoints: Checkpoints,
    steps: int,
    accumulate: int = 1,
    clip: float | None = None,
    schedule: Schedule | None = None,
    precision: Precision | None = None,
    average: WeightMean | None = None,
    seed: int = 0,
    save_every: int = 100,
    keep: int = 2,
    validate: Callable[[], Iterable[Batch]] | None = None,
    validate_every: int = 0,
    keep_best: bool = False,
    on_step: Sequence[Callable[[Step], object]] = (),
    on_validation: Callable[[int, Validation], object] | None = None,
    say: Callable[[str], object] = print,
    team: Team = ALONE,
) -> Run:
    """Train in ``folder``, which has begun, and go on where it stopped; -> the steps that were done now.

    seed        of dropout and all else that is drawn, where there is no checkpoint yet
    save_every  steps between checkpoints, of which the last ``keep`` stay; the last step has one always
    validate    gives the held-out batches anew each time: before the first step, each ``validate_every`` (0: never) and at
                the end, with the mean of the weights where there is one; ``keep_best`` saves and keeps the best step's
    on_step     called once the step's line is written and before its checkpoint: lines that it adds (samples) are cut too
    say         is told what a person should know that is no error
    At the end the weights are the mean's where there is one. Raises as `train`; TrainingStopped where SIGINT or SIGTERM
    came, once the step was done and saved; StoreError where the disk is full: the checkpoints that were there are whole.
    """
    precision = Plain() if precision is None else precision
    _seed(seed)
    restored = checkpoints.load(say)
    if restored is not None:
        feed.restore(restored.feed)
        precision.restore(restored.more["precision"])
        precision.settle()
        if average is not None:
            average.restore(restored.average)
    start = 0 if restored is None else restored.step
    best: dict[str, Any] | None = None if restored is None else restored.more["best"]
    last_saved = start
    if team.first:
        folder.cut(None if restored is None else start)

    def look(step: int) -> bool:
        """Validate; -> whether it was the best so far."""
        nonlocal best
        assert validate is not None
        with nullcontext() if average is None else average.in_place():
            found = evaluate(model, validate(), loss, precision=precision, team=team)
        if team.first:
            folder.validation(step, found.loss, found.labels, found.seconds)
        if on_validation is not None:
            on_validation(step, found)
        if best is not None and not found.loss < best["loss"]:
            return False
        best = {"step": step, "loss": found.loss}
        return True

    def save(step: int) -> None:
        nonlocal last_saved
        if team.first:
            folder.settle()
        more = {"precision": precision.state(), "best": best}
        try:
            checkpoints.save(step, feed.state(), more, average)
        except StoreError as error:
            whole = f"The checkpoint of step {last_saved} is whole" if last_saved else "There is no checkpoint yet"
            raise StoreError(
                f"step {step} cannot be saved: {error.what}",
                f"{whole}; make room on the disk and give the same command again, which goes on from there.",
            ) from error
        last_saved = step
        checkpoints.prune(keep, best["step"] if keep_best and best is not None and best["step"] else None)

    with Signals() as signals:

        def after(step: Step) -> None:
            if average is not None:
                average(step)
            if team.first:
                folder.step(step)
            for call in on_step:
                call(step)
            number, last = step.step, step.step == steps
            due = validate is not None and (last or bool(validate_every and number % validate_every == 0))
            better = look(number) if due else False
            asked = team.any(signals.asked is not None)
            if last or asked or number % save_every == 0 or (better and keep_best):
                save(number)
            if asked and not last:
                raise _stopped(number, steps, signals.asked)

        if start == 0 and validate is not None:
            look(0)
        done = train(
            model,
            feed,
            loss,
            optimizer,
            steps=steps,
            start=start,
            accumulate=accumulate,
            clip=clip,
            schedule=schedule,
            precision=precision,
            team=team,
            on_step=[after],
        )
    if average is not None:
        average.settle()
    return done


def _stopped(step: int, steps: int, signal: int | None) -> TrainingStopped:
    return TrainingStopped(
        f"stopped after step {step:,} of {steps:,}, as it was asked to",
        "It is saved: the same command goes on from there.",
        exit_code=128 + (15 if signal is None else signal),
    )


def _seed(seed: int) -> None:
    torch.manual_seed(seed)  # of every device
    np.random.seed(seed % 2**32)
    random.seed(seed)
