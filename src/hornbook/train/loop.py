"""The training loop, the only one.

    batches --accumulate--> micro-batches --loss, backward--> gradients --clip--> optimizer --> Step --> on_step
                                 '-- their labels, counted first, are what every loss is divided by

A step of n micro-batches has the gradient of one batch that holds them all, whatever their lengths and in however many
processes they are (`hornbook.train.team`). What belongs to a run besides its steps (checkpoints, signals, the folder) is in
`hornbook.train.fit`, which calls this.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from hornbook.errors import TrainingError
from hornbook.model.transformer import Transformer
from hornbook.train.batch import Batch
from hornbook.train.losses import Loss
from hornbook.train.memory import explained, peak
from hornbook.train.precision import Plain, Precision
from hornbook.train.schedule import Schedule
from hornbook.train.team import ALONE, Team


@dataclass(frozen=True, slots=True)
class Step:
    """What one update of the weights was like. ``loss``: before it, the mean over the step's labels."""

    step: int  # from 1
    loss: float
    parts: dict[str, float]  # the loss's terms, weighted: they add up to it
    labels: int  # of all terms together
    rate: float  # of the first group of parameters
    gradient_norm: float  # before clipping
    seconds: float
    tokens: int = 0  # that were read, padding not counted
    memory: int = 0  # bytes, the most so far: see hornbook.train.memory.peak


@dataclass(slots=True)
class Run:
    """A training: its steps in order."""

    steps: list[Step] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)


def train(
    model: Transformer,
    batches: Iterable[Batch],
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    start: int = 0,
    accumulate: int = 1,
    clip: float | None = None,
    schedule: Schedule | None = None,
    precision: Precision | None = None,
    team: Team = ALONE,
    on_step: Sequence[Callable[[Step], object]] = (),
) -> Run:
    """Update ``model`` until ``steps`` steps are done, ``start`` of which were done before; it is left in the mode (train
    or eval) in which it came.

    accumulate  batches that make one step        clip      gradients of a larger norm are scaled down to it
    schedule    multiplies the optimizer's rates  on_step   called after each step; what it raises ends the training
    precision   None: float32; another one's ``take`` has given what the optimizer was made for
    Raises TrainingError where a step's loss or gradient is not finite, its batches have nothing to learn, they end too
    soon or memory does: the weights are then those of the last good step.
    """
    precision = Plain() if precision is None else precision
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    rates = [group["lr"] for group in optimizer.param_groups]
    source, trained, done = iter(batches), model.training, Run()
    model.train()
    try:
        for number in range(start + 1, steps + 1):
            began = time.perf_counter()
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1.0 if schedule is None else schedule(number))
            taken = _take(source, accumulate, number, steps)
            with explained(optimizer, taken, number):
                while True:
                    optimizer.zero_grad(set_to_none=True)
                    made = _gradients(model, taken, loss, precision, team)
                    precision.unscale(parameters)
                    norm = team.norm(parameters, math.inf if clip is None else clip)
                    value = sum(made.parts.values())
                    if not math.isfinite(value) or precision.accepts(norm):
                        break
                _check_finite(number, value, norm, made.parts, taken, made.each)
                optimizer.step()
                precision.settle()
                optimizer.zero_grad(set_to_none=True)  # what comes between two steps has their room
            rate, seconds = optimizer.param_groups[0]["lr"], time.perf_counter() - began
            step = Step(number, value, made.parts, made.labels, rate, norm, seconds, made.tokens, peak(model.device))
            done.steps.append(step)
            for call in on_step:
                call(step)
    finally:
        optimizer.zero_grad(set_to_none=True)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        model.train(trained)
    return done


def _take(source: Iterator[Batch], accumulate: int, number: int, steps: int) -> list[Batch]:
    taken = list(islice(source, accumulate))
    if len(taken) < accumulate:
        raise TrainingError(
            f"the batches ended in step {number} of {steps}",
            "Give more data, ask for fewer steps, or go through the data several times.",
        )
    return taken


@dataclass(frozen=True, slots=True)
class _Made:
    """The gradients of a step were made, and with them: the parts of its loss, over all processes, its labels and tokens;
    and each micro-batch's own share of the loss."""

    parts: dict[str, float]
    labels: int
    tokens: int
    each: list[Tensor]


def _gradients(model: Transformer, batches: list[Batch], loss: Loss, precision: Precision, team: Team) -> _Made:
    """Add up the gradients of one step's batches."""
    counted: Counter[str] = Counter()
    for batch in batches:
        counted.update(loss.count(batch))
    own = {**counted, _TOKENS: sum(batch.tokens for batch in batches)}
    over = {name: int(count) for name, count in team.sum(own).items()}
    tokens = over.pop(_TOKENS)
    sums: dict[str, Tensor] = {}
    each: list[Tensor] = []
    for batch in batches:
        with team.micro(model, last=batch is batches[-1]):
            with precision.passes(model.device):
                value, parts = loss(model, batch.to(model.device), over=over)
            precision.backward(team.share(value))
        each.append(value.detach())
        del value  # and with it what is left of its graph, before the next one is made
        for name, part in parts.items():
            sums[name] = sums[name] + part if name in sums else part
    parts_of_all = team.sum({name: part.item() for name, part in sums.items()})
    return _Made(parts_of_all, sum(over.values()), tokens, each)


_TOKENS = ""  # the name, which no term has, under which a step's tokens are added up over processes


def _check_finite(
    number: int, loss: float, norm: float, parts: dict[str, float], batches: list[Batch], each: list[Tensor]
) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    said = ", ".join(f"{name} {part:.4g}" for name, part in parts.items())
    bad = [i for i, value in enumerate(each) if not value.isfinite()]
    raise TrainingError(
        f"step {number} has a loss of {loss:.4g} ({said}) and a gradient of norm {norm:.4g}"
        + _whose([batches[i] for i in bad or range(len(batches))], bad, len(batches)),
        "The weights are those of the step before. Lower the learning rate, warm up for longer, clip gradients, or look "
        "at this step's data.",
    )


def _whose(batches: list[Batch], bad: list[int], of: int) -> str:
    """Which micro-batches it was, counted from 1, and where they say so their examples, which count from 0."""
    said = f", from micro-batch {', '.join(str(i + 1) for i in bad)} of {of}" if bad and of > 1 else ""
    rows = [row for batch in batches for row in batch.rows or ()]
    if rows:
        more = f" and {len(rows) - 20} more" if len(rows) > 20 else ""
        said += f", of the examples {', '.join(map(str, rows[:20]))}{more}"
    return said
