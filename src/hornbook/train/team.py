"""The processes that train one model together, and the one that trains alone.

    each process: its micro-batches --gradients--> summed over all --> the same step everywhere

The loop asks its team for whatever a step needs to know of the others; ``Alone`` is the answer of a single process.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor, nn


class Team(Protocol):
    """All processes call the same methods in the same order: each may wait for the others."""

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once: metrics, messages, the state of the run."""
        ...

    @property
    def size(self) -> int:
        """Of how many processes."""
        ...

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each value added up over the processes, all of which have the same keys: labels, tokens, parts of a loss."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process: a signal that reached one stops all after the same step."""
        ...

    def share(self, loss: Tensor) -> Tensor:
        """What a micro-batch's loss is backwards, so that the gradients of all processes add up (an average over n
        processes asks for n times the loss)."""
        ...

    def micro(self, model: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        """Around the work on one micro-batch of a step: gradients are exchanged in the last one only."""
        ...

    def norm(self, parameters: Iterable[Tensor], longest: float) -> float:
        """The norm of the whole gradient, which is scaled down to ``longest`` where it is longer."""
        ...


class Alone:
    """A team of one."""

    first = True
    size = 1

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        return dict(values)

    def any(self, flag: bool) -> bool:
        return flag

    def share(self, loss: Tensor) -> Tensor:
        return loss

    def micro(self, model: nn.Module, *, last: bool) -> AbstractContextManager[object]:
        return nullcontext()

    def norm(self, parameters: Iterable[Tensor], longest: float) -> float:
        parameters = [p for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if norm > longest:  # only then are all gradients touched once more
            nn.utils.clip_grads_with_norm_(parameters, longest, norm)
        return norm.item()


ALONE: Team = Alone()
