"""Small matrices in a training step: a model of a few hundred dimensions spends a third of its time between its products.

    linear   several layers that read the same x: their outputs at once, and one gradient of x
    mlp      down(act(up(x))), a block of rows through both products; of what stands between them only up(x) is kept
    centred  LayerNorm (arXiv 1607.06450, eq. 3), one pass over memory each way

A general library's product of matrices of this size is mostly choosing, packing and waiting for threads. These serve float32 on
the processor while gradients are taken, layers that are plain nn.Linear and no larger than ``LARGEST``; beyond it a library
multiplies faster. The plain form stands beside (model/attention.py, feedforward.py, norms.py), and tests hold one to the
other. The same bits with any number of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hornbook.kernels.library import MLP, Library, Product
from hornbook.kernels.training import ACTIVATIONS, ROWS, native, serves

LARGEST = 512 * 512  # elements of a weight
MOST = 3  # layers at once: hb_product has as many terms


def served(x: Tensor, *layers: nn.Module | None) -> bool:
    """Whether all of these are layers that the kernels can take, with x as it is."""
    for layer in layers:
        if type(layer) is not nn.Linear or layer.weight.numel() > LARGEST or not bare(layer):
            return False
        if layer.in_features % _columns() or layer.out_features % _columns():
            return False
    return serves(x, *(layer.weight for layer in layers))  # type: ignore[union-attr, arg-type]


def linear(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """x [..., C] through up to ``MOST`` layers C -> N: [..., N] each."""
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    found: tuple[Tensor, ...] = _Linear.apply(x.contiguous(), len(layers), *weights, *biases)  # type: ignore[no-untyped-call]
    return found


def mlp(x: Tensor, up: nn.Linear, down: nn.Linear, activation: str) -> Tensor:
    """x [..., C] -> [..., C]; the activation is one of ACTIVATIONS."""
    number = ACTIVATIONS[activation]
    out: Tensor = _MLP.apply(x.contiguous(), up.weight, up.bias, down.weight, down.bias, number)  # type: ignore[no-untyped-call]
    return out


def centred(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> Tensor:
    """(x - mean) / deviation * weight + bias over the last dimension: x [..., n], weight and bias [n] -> [..., n]."""
    out: Tensor = _Centred.apply(x.contiguous(), weight.contiguous(), bias, epsilon)[0]  # type: ignore[no-untyped-call]
    return out


def bare(layer: nn.Module) -> bool:
    """Whether nothing listens to the layer's calls, which do not happen here."""
    return not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks)


def _library() -> Library:
    found = native()
    assert found is not None, "ask served() first"
    return found


@cache
def _columns() -> int:
    """By how many columns the kernels go; 0 % it is never 0 without them."""
    found = native()
    return int(found.hb_train_product_columns()) if found is not None else 1


# ------------------------------------------------------------------------------------------------- products, described


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, beside: Tensor | None = None) -> Product:
    """out = x weight' + bias + beside: x [..., C], weight [N,C], out and beside [..., N]."""
    width = weight.shape[1]
    asked = Product(count=1, activation=-1, m=x.numel() // width, n=weight.shape[0], c=out.data_ptr())
    _term(asked, 0, x.data_ptr(), weight.data_ptr(), width, (width, 1), (1, width))
    if bias is not None:
        asked.bias = bias.data_ptr()
    if beside is not None:
        asked.beside = beside.data_ptr()
    return asked


def _to_input(pairs: Sequence[tuple[Tensor, Tensor]], out: Tensor) -> Product:
    """out = the sum of grad weight: grad [..., N], weight [N,C], out [..., C]."""
    width = out.shape[-1]
    asked = Product(count=len(pairs), activation=-1, m=out.numel() // width, n=width, c=out.data_ptr())
    for place, (grad, weight) in enumerate(pairs):
        _term(asked, place, grad.data_ptr(), weight.data_ptr(), len(weight), (len(weight), 1), (width, 1))
    return asked


def _to_weight(grad: Tensor, x: Tensor, out: Tensor, sums: Tensor | None) -> Product:
    """out [N,C] = grad' x, and sums [N] = grad added up over its rows: grad [..., N], x [..., C]."""
    high, width = out.shape
    asked = Product(count=1, activation=-1, m=high, n=width, c=out.data_ptr())
    _term(asked, 0, grad.data_ptr(), x.data_ptr(), grad.numel() // high, (1, high), (width, 1))
    if sums is not None:
        asked.sums = sums.data_ptr()
    return asked


def _term(
    asked: Product, place: int, a: int, b: int, depth: int, steps_a: tuple[int, int], steps_b: tuple[int, int]
) -> None:
    term = asked.terms[place]
    term.a, term.b, term.depth = a, b, depth
    (term.a_down, term.a_along), (term.b_down, term.b_along) = steps_a, steps_b


def _multiply(asked: Sequence[Product]) -> None:
    if asked:
        _library().hb_train_products((Product * len(asked))(*asked), len(asked))


# ------------------------------------------------------------------------------------------------- without a graph

Gradients = list[Tensor | None]  # of those that are wanted


def linear_forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], beside: Tensor | None = None
) -> tuple[Tensor, ...]:
    """x [..., C] through layers of weights [N,C] each: [..., N] each, plus ``beside`` where it is given."""
    outs = tuple(x.new_empty(*x.shape[:-1], len(weight)) for weight in weights)
    _multiply([_forward(x, w, b, out, beside) for w, b, out in zip(weights, biases, outs, strict=True)])
    return outs


def linear_backward(
    x: Tensor, weights: Sequence[Tensor], grads: Sequence[Tensor], needs: Sequence[bool]
) -> tuple[Tensor | None, Gradients, Gradients]:
    """-> gradients of x, the weights, the biases. ``needs``: which of (x, weight, ..., bias, ...) have one."""
    count, grads = len(weights), [grad.contiguous() for grad in grads]
    asked, dx = [], None
    if needs[0]:
        dx = torch.empty_like(x)
        asked.append(_to_input(list(zip(grads, weights, strict=True)), dx))
    dws, dbs = _parameters(asked, grads, [x] * count, weights, needs[1 : 1 + count], needs[1 + count :])
    _multiply(asked)
    return dx, dws, dbs


def mlp_forward(
    x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, activation: int,
    beside: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """-> down(act(up(x))) of x's shape, plus ``beside`` where it is given; and up(x) [..., I]."""
    inner, out = x.new_empty(*x.shape[:-1], len(up)), torch.empty_like(x)
    asked = MLP(rows=x.numel() // len(down), n=len(down), inner=len(up), activation=activation)
    asked.x, asked.up, asked.down, asked.h, asked.y = (t.data_ptr() for t in (x, up, down, inner, out))
    asked.up_bias, asked.down_bias, asked.beside = (
        None if b is None else b.data_ptr() for b in (up_bias, down_bias, beside)
    )
    _library().hb_train_mlp(ctypes.byref(asked))
    return out, inner


def mlp_backward(
    x: Tensor, up: Tensor, down: Tensor, inner: Tensor, grad: Tensor, activation: int, needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """-> gradients of (x, up's weight and bias, down's weight and bias), those of ``needs``."""
    grad, back = grad.contiguous(), torch.empty_like(inner)
    dx = torch.empty_like(x) if needs[0] else None
    asked = MLP(rows=x.numel() // len(down), n=len(down), inner=len(up), activation=activation)
    asked.dy, asked.up, asked.down, asked.h, asked.dh = (t.data_ptr() for t in (grad, up, down, inner, back))
    asked.dx = None if dx is None else dx.data_ptr()
    _library().hb_train_mlp(ctypes.byref(asked))
    products: list[Product] = []
    (down_grad,), (down_bias,) = _parameters(products, [grad], [inner], [down], needs[3:4], needs[4:5])
    for product in products:
        product.activation = activation
    (up_grad,), (up_bias,) = _parameters(products, [back], [x], [up], needs[1:2], needs[2:3])
    _multiply(products)
    return dx, up_grad, up_bias, down_grad, down_bias


def centre_forward(x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor]:
    """-> LayerNorm of x [..., n], and what its backward pass needs of each row."""
    n = x.shape[-1]
    rows = x.numel() // n
    out, kept = torch.empty_like(x), x.new_empty(rows, 2)
    _library().hb_train_centre(
        x.data_ptr(), weight.data_ptr(), None if bias is None else bias.data_ptr(), epsilon, rows, n, out.data_ptr(),
        kept.data_ptr(),
    )  # fmt: skip
    return out, kept


def centre_backward(
    x: Tensor, weight: Tensor, kept: Tensor, grad: Tensor, needs: Sequence[bool], beside: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """-> gradients of x, plus ``beside`` where it is given, of the weight and the bias; ``needs``: of (weight, bias)."""
    grad, n = grad.contiguous(), x.shape[-1]
    dx, pieces = torch.empty_like(x), -(-len(kept) // ROWS)
    parts, bias_parts = (x.new_empty(pieces, n) if wanted else None for wanted in needs)
    _library().hb_train_centre_back(
        x.data_ptr(), weight.data_ptr(), kept.data_ptr(), grad.data_ptr(), len(kept), n,
        *(None if one is None else one.data_ptr() for one in (beside, dx, parts, bias_parts)),
    )  # fmt: skip
    of_weight, of_bias = (None if part is None else part.sum(0) for part in (parts, bias_parts))
    return dx, of_weight, of_bias


def _parameters(
    asked: list[Product], grads: Sequence[Tensor], read: Sequence[Tensor], weights: Sequence[Tensor],
    of_weight: Sequence[bool], of_bias: Sequence[bool],
) -> tuple[Gradients, Gradients]:  # fmt: skip
    """The gradients of weights and biases that are wanted; what computes them is added to ``asked``."""
    dws: Gradients = []
    dbs: Gradients = []
    for grad, x, weight, wanted, with_bias in zip(grads, read, weights, of_weight, of_bias, strict=True):
        bias = weight.new_empty(len(weight)) if with_bias and wanted else None
        dw = torch.empty_like(weight) if wanted else None
        if dw is not None:
            asked.append(_to_weight(grad, x, dw, bias))
        dws.append(dw)
        dbs.append(grad.flatten(0, -2).sum(0) if with_bias and not wanted else bias)
    return dws, dbs


# ------------------------------------------------------------------------------------------------------------ autograd


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, *given: Any) -> tuple[Tensor, ...]:
        weights, biases = given[:count], given[count:]
        ctx.save_for_backward(x, *weights)
        return linear_forward(x, weights, biases)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        needs = ctx.needs_input_grad
        dx, dws, dbs = linear_backward(x, weights, grads, (needs[0], *needs[2:]))
        return dx, None, *dws, *dbs


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None, activation: int
    ) -> Tensor:
        out, inner = mlp_forward(x, up, up_bias, down, down_bias, activation)
        ctx.save_for_backward(x, up, down, inner)
        ctx.activation = activation
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, up, down, inner = ctx.saved_tensors
        return *mlp_backward(x, up, down, inner, grad, ctx.activation, ctx.needs_input_grad), None


class _Centred(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor]:
        out, kept = centre_forward(x, weight, bias, epsilon)
        ctx.save_for_backward(x, weight, kept)
        ctx.mark_non_differentiable(kept)
        return out, kept

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, kept = ctx.saved_tensors
        return *centre_backward(x, weight, kept, grad, ctx.needs_input_grad[1:3]), None
