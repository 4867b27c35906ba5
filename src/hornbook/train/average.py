"""The mean of the last few snapshots of the weights, which is better than any of them (arXiv 1706.03762, section 6.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from hornbook.model.transformer import Transformer
from hornbook.train.loop import Step


class Average:
    """Adds up a model's weights in float32 as it is trained; a hook for ``train``'s on_step.

    The ``snapshots`` are ``apart`` steps apart, the last one taken at step ``last``.
    """

    def __init__(self, model: Transformer, *, last: int, snapshots: int, apart: int) -> None:
        self.model = model
        self.at = {last - i * apart for i in range(snapshots)}
        self.taken = 0
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(self, step: Step) -> None:
        if step.step not in self.at:
            return
        for name, weight in self.model.named_parameters():
            if name in self._sums:
                self._sums[name] += weight
            else:
                self._sums[name] = weight.detach().float().clone()
        self.taken += 1

    @torch.no_grad()
    def settle(self) -> None:
        """Give the model the mean of what was taken; where nothing was, it keeps its weights."""
        for name, weight in self.model.named_parameters():
            if name in self._sums:
                weight.copy_(self._sums[name] / self.taken)
