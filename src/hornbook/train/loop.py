"""The training loop, the only one.

    batches --accumulate--> micro-batches --loss, backward--> gradients --clip--> optimizer --> Step --> on_step
                                 '-- their labels, counted first, are what every loss is divided by

A step of n micro-batches has the gradient of one batch that holds them all, whatever their lengths.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn

from hornbook.errors import TrainingError
from hornbook.model.transformer import Transformer
from hornbook.train.batch import Batch
from hornbook.train.losses import Loss
from hornbook.train.schedule import Schedule


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
    accumulate: int = 1,
    clip: float | None = None,
    schedule: Schedule | None = None,
    on_step: Sequence[Callable[[Step], object]] = (),
) -> Run:
    """Update ``model`` ``steps`` times; it is left in the mode (train or eval) in which it came.

    accumulate  batches that make one step        clip      gradients of a larger norm are scaled down to it
    schedule    multiplies the optimizer's rates  on_step   called after each step; what it raises ends the training
    Raises TrainingError where a step's loss or gradient is not finite, its batches have nothing to learn, or the
    batches end too soon: the weights are then those of the last good step.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    rates = [group["lr"] for group in optimizer.param_groups]
    source, trained, done = iter(batches), model.training, Run()
    model.train()
    try:
        for number in range(1, steps + 1):
            began = time.perf_counter()
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (1.0 if schedule is None else schedule(number))
            optimizer.zero_grad(set_to_none=True)
            parts, labels = _gradients(model, _take(source, accumulate, number, steps), loss)
            value = sum(parts.values())
            norm = nn.utils.clip_grad_norm_(parameters, torch.inf if clip is None else clip).item()
            _check_finite(number, value, norm, parts)
            optimizer.step()
            step = Step(
                number, value, parts, labels, optimizer.param_groups[0]["lr"], norm, time.perf_counter() - began
            )
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


def _gradients(model: Transformer, batches: list[Batch], loss: Loss) -> tuple[dict[str, float], int]:
    """Add up the gradients of one step's batches; -> the parts of its loss, and its labels."""
    over: Counter[str] = Counter()
    for batch in batches:
        over.update(loss.count(batch))
    sums: dict[str, Tensor] = {}
    for batch in batches:
        value, parts = loss(model, batch.to(model.device), over=over)
        torch.autograd.backward(value)
        for name, part in parts.items():
            sums[name] = sums[name] + part if name in sums else part
    return {name: part.item() for name, part in sums.items()}, over.total()


def _check_finite(number: int, loss: float, norm: float, parts: dict[str, float]) -> None:
    if torch.isfinite(torch.tensor([loss, norm])).all():
        return
    said = ", ".join(f"{name} {part:.4g}" for name, part in parts.items())
    raise TrainingError(
        f"step {number} has a loss of {loss:.4g} ({said}) and a gradient of norm {norm:.4g}",
        "The weights are those of the step before. Lower the learning rate, warm up for longer, clip gradients, or look "
        "at this step's data.",
    )
