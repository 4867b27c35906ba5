"""Adafactor (arXiv 1804.04235): of a matrix's second moments it keeps the means of the rows and of the columns.

    V ~ R C^T / mean(R)      R [..., n], C [..., m] in place of V [..., n, m]      (algorithm 4, lines 5 to 7)

A rate is relative to the size of the weights it moves, max(1e-3, rms(weights)) (algorithm 4, line 4): with 1e-2 and the
schedule "inverse-sqrt" it is the paper's. There is no first moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class Adafactor(torch.optim.Optimizer):
    """``decay``: the mean over steps forgets by 1 - t^-decay (eq. in section 7.2); ``longest``: the root mean square that an
    update is clipped to (section 6); ``relative``: whether the rate is multiplied by the size of the weights."""

    def __init__(
        self,
        params: Iterable[Any],
        *,
        rate: float = 1e-2,
        weight_decay: float = 0.0,
        decay: float = 0.8,
        longest: float = 1.0,
        epsilons: tuple[float, float] = (1e-30, 1e-3),
        relative: bool = True,
    ) -> None:
        said = {"lr": rate, "weight_decay": weight_decay, "decay": decay, "longest": longest, "epsilons": epsilons}
        super().__init__(params, {**said, "relative": relative})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the loss is not evaluated anew within a step"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad.float(), group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        state["step"] = step = state.get("step", 0) + 1
        forget = step ** -group["decay"]
        smallest, least_size = group["epsilons"]
        square = gradient.square().add_(smallest)
        if gradient.ndim >= 2:
            rows, columns = (
                _mean(state, "rows", square.mean(-1), forget),
                _mean(state, "columns", square.mean(-2), forget),
            )
            update = (rows / rows.mean(-1, keepdim=True)).rsqrt_().unsqueeze(-1) * columns.rsqrt().unsqueeze(-2)
            update.mul_(gradient)
        else:
            update = _mean(state, "squares", square, forget).rsqrt().mul_(gradient)
        update.div_((_rms(update) / group["longest"]).clamp_(min=1.0))
        rate = group["lr"] * (_rms(parameter.float()).clamp(min=least_size) if group["relative"] else 1.0)
        if group["weight_decay"]:
            parameter.mul_(1 - group["weight_decay"] * rate)
        parameter.sub_(update.mul_(rate))


def _mean(state: dict[str, Any], name: str, value: Tensor, forget: float) -> Tensor:
    """The running mean of ``value``, kept in ``state``: the first one is the value itself, for then ``forget`` is 1."""
    if name not in state:
        state[name] = torch.zeros_like(value)
    mean: Tensor = state[name].lerp_(value, forget)
    return mean


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()
