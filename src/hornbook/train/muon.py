"""Muon: momentum whose singular values are all brought near 1 (Keller Jordan and others, 2024, "Muon: An optimizer for hidden
layers in neural networks", kellerjordan.github.io/posts/muon).

    momentum U S V^T --5 steps of Newton-Schulz--> U S' V^T, S' from 0.7 to 1.2 --> x scale --> subtracted from the weights

A matrix n x m of orthogonal rows has entries of the size 1/sqrt(max(n, m)). "adam" multiplies by 0.2 sqrt(max(n, m)) (arXiv
2502.16982, eq. 4), so that an update is as large as Adam's and one rate serves all parameters; "shape" by sqrt(max(1, n/m)),
as its author did, and wants a rate of its own, about 0.02.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315  # of the quintic, chosen for its slope at 0 (the post, "coefficients")
_STEPS = 5
Scale = Literal["adam", "shape"]


class Muon(torch.optim.Optimizer):
    """For matrices [n, m]; ``rest`` is the optimizer of all other parameters, whose groups follow those of this one."""

    def __init__(
        self,
        matrices: Iterable[Tensor],
        *,
        rate: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        scale: Scale = "adam",
        dtype: torch.dtype | None = None,
        rest: torch.optim.Optimizer | None = None,
    ) -> None:
        """``dtype``: of Newton-Schulz's products; None: bfloat16 on an accelerator, where it is fast, else float32."""
        said = {"lr": rate, "weight_decay": weight_decay, "momentum": momentum, "scale": scale, "dtype": dtype}
        super().__init__(list(matrices), said)
        self._rest = rest
        self._own = list(self.param_groups)
        if rest is not None:
            self.param_groups += rest.param_groups  # the same dicts: a rate set here is set there
            rest.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the loss is not evaluated anew within a step"
        for group in self._own:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad.float(), **{k: v for k, v in group.items() if k in _USED})
        if self._rest is not None:
            self._rest.step()

    def _update(
        self,
        matrix: Tensor,
        gradient: Tensor,
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        scale: Scale,
        dtype: torch.dtype | None,
    ) -> None:
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        mean = state["momentum"].lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(mean, momentum)  # Nesterov's
        direction = orthogonalise(ahead, dtype or (torch.float32 if matrix.device.type == "cpu" else torch.bfloat16))
        rows, columns = matrix.shape
        size = 0.2 * math.sqrt(max(rows, columns)) if scale == "adam" else math.sqrt(max(1.0, rows / columns))
        matrix.mul_(1 - lr * weight_decay).sub_(direction.to(matrix.dtype), alpha=lr * size)


_USED = ("lr", "weight_decay", "momentum", "scale", "dtype")


def orthogonalise(matrix: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[n, m] with its singular values brought near 1: X <- aX + b(XX^T)X + c(XX^T)^2 X, from X of norm at most 1."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix  # the products are of the shorter side
    x = x.to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_STEPS):
        square = x @ x.mT
        x = torch.addmm(x, torch.addmm(square, square, square, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x
