"""x + f(norm(x)) as one function of the graph: what a small model's step spends between its products is mostly such seams.

    attended   x + output(attend(query(n), key(n), value(n))),  n = LayerNorm(x): causal attention of whole texts, no positions
    fed        x + down(act(up(n))),                            n = LayerNorm(x)

Both halves of a layer of GPT-2 (norms before, the residual stream beside). The arithmetic is that of kernels/products.py and
kernels/training.py to the bit; what is saved are a dozen nodes and views a layer, and passes over memory for the sums. Whoever
asks has the plain form beside (model/block.py), and tests hold one to the other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hornbook.kernels import training
from hornbook.kernels.products import (
    bare,
    centre_backward,
    centre_forward,
    linear_backward,
    linear_forward,
    mlp_backward,
    mlp_forward,
    served,
)
from hornbook.kernels.training import ACTIVATIONS, attend_backward, attend_forward


def serves(x: Tensor, norm: nn.LayerNorm, *layers: nn.Linear, head_width: int | None = None) -> bool:
    """Whether a half with these layers can be taken as one; ``head_width``: that it attends with."""
    plain = bare(norm) and x.is_contiguous() and norm.weight.is_contiguous() and training.serves(x, norm.weight)
    return plain and served(x, *layers) and (head_width is None or training.attends(head_width))


def attended(
    x: Tensor, norm: nn.LayerNorm, query: nn.Linear, key: nn.Linear, value: nn.Linear, output: nn.Linear,
    head_width: int, scale: float,
) -> Tensor:  # fmt: skip
    """x [B,T,C] -> [B,T,C]."""
    layers = (query, key, value, output)
    given = [layer.weight for layer in layers] + [layer.bias for layer in layers]
    out: Tensor = _Attended.apply(x, norm.weight, norm.bias, *given, norm.eps, head_width, scale)  # type: ignore[no-untyped-call]
    return out


def fed(x: Tensor, norm: nn.LayerNorm, up: nn.Linear, down: nn.Linear, activation: str) -> Tensor:
    """x [..., C] -> [..., C]; the activation is one of ACTIVATIONS."""
    number = ACTIVATIONS[activation]
    given = (up.weight, up.bias, down.weight, down.bias)
    out: Tensor = _Fed.apply(x, norm.weight, norm.bias, *given, norm.eps, number)  # type: ignore[no-untyped-call]
    return out


class _Attended(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *given: Any) -> Tensor:
        weights, biases, (epsilon, width, scale) = given[:4], given[4:8], given[8:]
        n, kept = centre_forward(x, weight, bias, epsilon)
        q, k, v = (_heads(one, width) for one in linear_forward(n, weights[:3], biases[:3]))
        seen, lse = attend_forward(q, k, v, scale)
        (out,) = linear_forward(seen.flatten(2), weights[3:], biases[3:], beside=x)
        ctx.save_for_backward(x, weight, n, kept, q, k, v, seen, lse, *weights)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, n, kept, q, k, v, seen, lse, *weights = ctx.saved_tensors
        needs, grad = ctx.needs_input_grad, grad.contiguous()
        back, (d_out,), (d_out_bias,) = linear_backward(
            seen.flatten(2), weights[3:], [grad], (True, needs[6], needs[10])
        )
        assert back is not None
        apart = attend_backward(q, k, v, seen, lse, back.view(seen.shape).transpose(1, 2), ctx.scale)
        of_inputs = [one.flatten(2) for one in apart]
        dn, dws, dbs = linear_backward(n, weights[:3], of_inputs, (True, *needs[3:6], *needs[7:10]))
        assert dn is not None
        dx, dw, db = centre_backward(x, weight, kept, dn, needs[1:3], beside=grad)
        return dx, dw, db, *dws, d_out, *dbs, d_out_bias, None, None, None


class _Fed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, up: Tensor, up_bias: Tensor | None, down: Tensor,
        down_bias: Tensor | None, epsilon: float, activation: int,
    ) -> Tensor:  # fmt: skip
        n, kept = centre_forward(x, weight, bias, epsilon)
        out, inner = mlp_forward(n, up, up_bias, down, down_bias, activation, beside=x)
        ctx.save_for_backward(x, weight, n, kept, up, down, inner)
        ctx.activation = activation
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, n, kept, up, down, inner = ctx.saved_tensors
        needs, grad = ctx.needs_input_grad, grad.contiguous()
        dn, *of_layers = mlp_backward(n, up, down, inner, grad, ctx.activation, (True, *needs[3:7]))
        assert dn is not None
        dx, dw, db = centre_backward(x, weight, kept, dn, needs[1:3], beside=grad)
        return dx, dw, db, *of_layers, None, None


def _heads(x: Tensor, width: int) -> Tensor:
    """[B,T,N*D] -> [B,N,T,D]."""
    return x.view(*x.shape[:2], -1, width).transpose(1, 2)
