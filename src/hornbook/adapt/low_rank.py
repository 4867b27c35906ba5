"""y = x W' + b + s (x A') B' with W frozen: two wide products a step, and as little kept as can be.

                   forward                              backward, dy [N, out]
    wide           x W'                                 dy W
    thin           h = s x A'   y += h B'               g = s dy B   dx += g A   dA = g' x   dB = dy' h
    kept           h [N, r], and x, or what it is made of again (kernels/training.py), which is kept anyway

A weight that is stored in few bits is made whole for each product and forgotten.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.adapt.inject import Below
from hornbook.adapt.nf4 import NF4Linear
from hornbook.kernels import training
from hornbook.kernels.training import Made


def weight_of(base: nn.Module, dtype: torch.dtype | None = None) -> Tensor:
    """The weight [out, in] of a linear layer, made whole where it is stored in fewer bits. ``dtype``: its own where None."""
    if isinstance(base, NF4Linear):
        return base.dense(dtype)
    weight: Tensor = base.get_parameter("weight")
    return weight if dtype is None else weight.to(dtype)


def beside(
    below: Below, x: Tensor, down: Tensor, up: Tensor, scale: float, dropout: float, *, bias: bool = True
) -> Tensor:
    """below(x) + s (x A') B': x [..., in], down [r, in], up [out, r] -> [..., out].

    ``bias``: False leaves out that of a ``below`` that is the layer itself.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    frozen = isinstance(below, NF4Linear) or (type(below) is nn.Linear and not below.weight.requires_grad)
    if frozen and dropout == 0.0:
        found = training.recipe(x)
        sources, made = ((), None) if found is None else found
        wide: Tensor = _Beside.apply(x, down, up, below, scale, bias, made, *sources)  # type: ignore[no-untyped-call]
        return wide
    assert bias, "only a layer itself can leave out its bias"
    y = below(x)
    thin = F.linear(F.dropout(x, dropout) if dropout else x, down.to(x.dtype))
    flat = torch.addmm(y.flatten(0, -2), thin.flatten(0, -2), up.to(x.dtype).T, alpha=scale)
    return flat.view(y.shape)


def _times(base: nn.Module, x: Tensor, bias: bool) -> Tensor:
    """x [N, in] -> x W' + b [N, out], a tensor of its own."""
    own: Any = base.bias if bias else None
    if isinstance(base, NF4Linear):
        y = base.times(x)
        return y if own is None else y.add_(own.to(y.dtype))
    return F.linear(x, weight_of(base, x.dtype), None if own is None else own.to(x.dtype))


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, down: Tensor, up: Tensor, base: nn.Module, scale: float, bias: bool, made: Made | None,
        *sources: Tensor,
    ) -> Tensor:  # fmt: skip
        flat = x.reshape(-1, x.shape[-1])
        y = _times(base, flat, bias)
        h = (flat @ down.to(x.dtype).T).mul_(scale)
        y.addmm_(h, up.to(x.dtype).T)
        ctx.save_for_backward(h, down, up, *(sources if made else [x]))
        ctx.base, ctx.scale, ctx.made = base, scale, made
        return y.view(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        h, down, up, *sources = ctx.saved_tensors
        x = sources[0] if ctx.made is None else ctx.made.again(sources)
        dy = gradients[0].reshape(-1, gradients[0].shape[-1])
        flat = x.reshape(-1, x.shape[-1])
        g = (dy @ up.to(dy.dtype)).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = ctx.base.back(dy) if isinstance(ctx.base, NF4Linear) else dy @ weight_of(ctx.base, dy.dtype)
            dx = dx.addmm_(g, down.to(dy.dtype)).view(x.shape)
        return (
            dx,
            (g.T @ flat).to(down.dtype),
            (dy.T @ h).to(up.dtype),
            None,
            None,
            None,
            None,
            *[None] * (len(ctx.needs_input_grad) - 7),
        )
