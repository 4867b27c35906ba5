"""Means of the weights over the steps, which are often better than the weights of any one step.

    Average        of the last few snapshots (arXiv 1706.03762, section 6.1)
    MovingAverage  of all steps, each weighing ``decay`` of the next one (arXiv 1412.6980, section 7.2)

Both are kept in float32, are called after each step, and are written into checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from hornbook.train.loop import Step


class WeightMean(Protocol):
    """What `hornbook.train.fit.fit` asks of a mean of weights."""

    def __call__(self, step: Step) -> None:
        """Take the weights after a step."""
        ...

    def settle(self) -> None:
        """Give the weights the mean's values; before anything was taken they keep their own."""
        ...

    def in_place(self) -> AbstractContextManager[None]:
        """A context in which the weights have the mean's values, and afterwards their own again, bit by bit."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        ...

    def restore(self, tensors: Mapping[str, Tensor]) -> None: ...


class MovingAverage:
    """mean <- d mean + (1 - d) weights after each step, d = min(``decay``, (1 + step) / (10 + step)): early on, when the
    weights still change much, it forgets faster.

    ``weights`` by name: those that the optimizer changes; ``changed`` is called when they were set to others (a
    Precision's ``settle``).
    """

    def __init__(
        self, weights: Mapping[str, Tensor], *, decay: float = 0.999, changed: Callable[[], object] | None = None
    ) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the decay of a moving average lies from 0 to below 1, it is {decay}")
        self.decay = decay
        self._weights, self._changed = weights, changed
        self._mean = {name: weight.detach().float().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def __call__(self, step: Step) -> None:
        decay = min(self.decay, (1 + step.step) / (10 + step.step))
        for name, weight in self._weights.items():
            self._mean[name].lerp_(weight.float(), 1 - decay)

    def settle(self) -> None:
        _give(self._weights, self._mean, self._changed)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        with _given(self._weights, self._mean, self._changed):
            yield

    def tensors(self) -> dict[str, Tensor]:
        return self._mean

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, mean in self._mean.items():
            mean.copy_(tensors[name])


class Average:
    """The mean of ``snapshots`` that are ``apart`` steps apart, the last one taken at step ``last``."""

    def __init__(self, model: nn.Module, *, last: int, snapshots: int, apart: int) -> None:
        self.at = {last - i * apart for i in range(snapshots)}
        self.taken = 0
        self._weights = dict(model.named_parameters())
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, step: Step) -> None:
        if step.step not in self.at:
            return
        for name, weight in self._weights.items():
            if name in self._sums:
                self._sums[name] += weight
            else:
                self._sums[name] = weight.detach().float().clone()
        self.taken += 1

    def settle(self) -> None:
        _give(self._weights, self._mean(), None)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        with _given(self._weights, self._mean(), None):
            yield

    def tensors(self) -> dict[str, Tensor]:
        return {**self._sums, _TAKEN: torch.tensor(self.taken)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.taken = int(tensors[_TAKEN])
        self._sums = {
            name: tensors[name].to(weight.device) for name, weight in self._weights.items() if name in tensors
        }

    def _mean(self) -> dict[str, Tensor]:
        return {name: total / self.taken for name, total in self._sums.items()}


_TAKEN = "snapshots taken"


@torch.no_grad()
def _give(weights: Mapping[str, Tensor], values: Mapping[str, Tensor], changed: Callable[[], object] | None) -> None:
    for name, value in values.items():
        weights[name].copy_(value)
    if changed is not None:
        changed()


@contextmanager
def _given(
    weights: Mapping[str, Tensor], values: Mapping[str, Tensor], changed: Callable[[], object] | None
) -> Iterator[None]:
    own = {name: weights[name].detach().clone() for name in values}
    _give(weights, values, changed)
    try:
        yield
    finally:
        _give(weights, own, changed)
