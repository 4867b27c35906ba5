"""Forward and backward of what stands between the matrices of a training step, in one pass over memory each.

    norm   RMSNorm (arXiv 1910.07467, eq. 4)       keeps x and one number a row
    gated  act(gate) * up (arXiv 2002.05202)       keeps gate and up, not the activation of the one
    turn   rotary positions (arXiv 2104.09864)     keeps nothing of x
    attend causal attention of whole texts         keeps q, k, v, what comes of them, and one number a row and head

What the first two give is not kept by an adapter that reads it: it is made again in the backward pass, from what they keep
(``recipe``). Torch computes each of them in several passes, and keeps what stands between these for the backward pass. They serve
float32 on the processor while gradients are taken; ``serves`` says whether they do. Whoever asks has the plain form beside
(model/norms.py, feedforward.py, positions.py), and tests hold one to the other. The same bits with any number of threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hornbook.kernels.library import Attention, Library, library

ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}  # hb_activation
ROWS = 64  # HB_TRAIN_ROWS


def serves(*tensors: Tensor) -> bool:
    """Whether the native kernels can take these, and a gradient may be asked of them."""
    return (
        torch.is_grad_enabled()
        and all(
            t.dtype == torch.float32 and t.device.type == "cpu" and type(t) in _PLAIN and t.numel() > 0 for t in tensors
        )
        and any(t.requires_grad for t in tensors)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and native() is not None
    )


class Made:
    """Makes a tensor again from what is kept for its own backward pass anyway, so that a layer that reads it need not keep
    it. One for all its readers: what the first of them has made stays until the last has had it."""

    def __init__(self, make: Callable[..., Tensor]) -> None:
        self._make, self.readers = make, 0
        self._kept: Tensor | None = None

    def again(self, sources: Sequence[Tensor]) -> Tensor:
        made: Tensor = self._make(*sources) if self._kept is None else self._kept
        self.readers -= 1
        self._kept = made if self.readers > 0 else None
        return made


class Recipe(NamedTuple):
    """Of a tensor: what it is made of, and how."""

    sources: tuple[Tensor, ...]
    made: Made


def recipe(x: Tensor) -> Recipe | None:
    """How to make x again in a backward pass, for one more reader; None where it has to be kept."""
    found: Recipe | None = getattr(x, _RECIPE, None)
    if found is not None:
        found.made.readers += 1
    return found


def norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / rms(x) * weight over the last dimension: x [..., n], weight [n] -> [..., n]."""
    x, weight = x.contiguous(), weight.contiguous()
    out: Tensor
    out, scale = _Norm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    made = Made(lambda x, weight, scale: x * scale.view(*x.shape[:-1], 1) * weight)
    setattr(out, _RECIPE, Recipe((x, weight, scale), made))
    return out


def gated(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """activation(gate) * up, of one shape; the activation is one of ACTIVATIONS."""
    number = ACTIVATIONS[activation]
    gate, up = gate.contiguous(), up.contiguous()
    out: Tensor = _Gated.apply(gate, up, number)  # type: ignore[no-untyped-call]
    setattr(out, _RECIPE, Recipe((gate, up), Made(lambda gate, up: _gated(gate, up, number))))
    return out


def turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """x [B,H,T,D], of any strides but for the last; cos and sin [B or 1, 1, T, W/2] -> [B,H,T,D]: a view of [B,T,H,D]."""
    out: Tensor = _Turn.apply(x, cos, sin, interleaved)  # type: ignore[no-untyped-call]
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Each token looks at itself and those before it: q [B,H,T,D], k and v [B,K,T,D] -> [B,H,T,D], a view of [B,T,H,D]."""
    out: Tensor = _Attend.apply(q, k, v, scale)[0]  # type: ignore[no-untyped-call]
    return out


def attends(width: int) -> bool:
    """Whether heads of this width are served; ask ``serves`` first."""
    return bool(_library().hb_train_attend_fits(width))


@cache
def native() -> Library | None:
    """The library with the settings of the process; asked for at each layer, and looked up once."""
    return library()


_RECIPE = "hornbook_recipe"
_PLAIN = (Tensor, torch.nn.Parameter)  # no subclass: a DTensor or a fake one has no memory of its own


def _library() -> Library:
    found = native()
    assert found is not None, "ask serves() first"
    return found


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        rows, n = x.numel() // x.shape[-1], x.shape[-1]
        out, scale = torch.empty_like(x), torch.empty(rows)
        _library().hb_train_norm(x.data_ptr(), weight.data_ptr(), epsilon, rows, n, out.data_ptr(), scale.data_ptr())
        ctx.save_for_backward(x, weight, scale)
        ctx.mark_non_differentiable(scale)
        return out, scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, weight, scale = ctx.saved_tensors
        grad, n = grad.contiguous(), x.shape[-1]
        dx = torch.empty_like(x)
        parts = torch.empty(-(-len(scale) // ROWS), n) if ctx.needs_input_grad[1] else None
        _library().hb_train_norm_back(
            *(t.data_ptr() for t in (x, weight, scale, grad)),
            len(scale),
            n,
            dx.data_ptr(),
            None if parts is None else parts.data_ptr(),
        )
        return dx, None if parts is None else parts.sum(0), None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: int) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return _gated(gate, up, activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        grad, n = grad.contiguous(), gate.shape[-1]
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        _library().hb_train_gate_back(
            *(t.data_ptr() for t in (gate, up, grad)),
            ctx.activation,
            gate.numel() // n,
            n,
            dgate.data_ptr(),
            dup.data_ptr(),
        )
        return dgate, dup, None


def _gated(gate: Tensor, up: Tensor, activation: int) -> Tensor:
    out, n = torch.empty_like(gate), gate.shape[-1]
    _library().hb_train_gate(gate.data_ptr(), up.data_ptr(), activation, gate.numel() // n, n, out.data_ptr())
    return out


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.cos, ctx.sin, ctx.interleaved = cos.contiguous(), sin.contiguous(), interleaved
        return _turned(x, ctx.cos, ctx.sin, 1.0, interleaved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _turned(grad, ctx.cos, ctx.sin, -1.0, ctx.interleaved), None, None, None


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        o, lse = attend_forward(q, k, v, scale)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.mark_non_differentiable(lse)
        ctx.scale = scale
        return o.transpose(1, 2), lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, o, lse = ctx.saved_tensors
        dq, dk, dv = attend_backward(q, k, v, o, lse, grad, ctx.scale)
        return dq.transpose(1, 2), dk.transpose(1, 2), dv.transpose(1, 2), None


def attend_forward(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """q [B,H,T,D], k and v [B,K,T,D], their last dimension dense -> what is seen [B,T,H,D], and a number a row and head."""
    rows, heads, tokens, width = q.shape
    o, lse = torch.empty(rows, tokens, heads, width), torch.empty(rows, heads, tokens)
    _library().hb_train_attend(ctypes.byref(_attention(q, k, v, o, lse, scale)), 0)
    return o, lse


def attend_backward(
    q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, grad: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """grad [B,H,T,D] of what was seen -> of q [B,T,H,D], of k and v [B,T,K,D]."""
    grad = grad if grad.stride(-1) == 1 else grad.contiguous()
    dq = torch.empty_like(o)
    dk, dv = (torch.empty(k.shape[0], k.shape[2], k.shape[1], k.shape[3]) for _ in range(2))
    asked = _attention(q, k, v, o, lse, scale)
    asked.grad, asked.grad_strides[:] = grad.data_ptr(), grad.stride()[:3]
    asked.dq, asked.dk, asked.dv = dq.data_ptr(), dk.data_ptr(), dv.data_ptr()
    _library().hb_train_attend(ctypes.byref(asked), 1)
    return dq, dk, dv


def _attention(q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, scale: float) -> Attention:
    rows, heads, tokens, width = q.shape
    asked = Attention(rows=rows, heads=heads, key_heads=k.shape[1], tokens=tokens, n=width, scale=scale)
    asked.q, asked.k, asked.v, asked.o, asked.lse = (x.data_ptr() for x in (q, k, v, o, lse))
    for name, x in (("q", q), ("k", k), ("v", v)):
        getattr(asked, f"{name}_strides")[:] = x.stride()[:3]
    return asked


def _turned(x: Tensor, cos: Tensor, sin: Tensor, sign: float, interleaved: bool) -> Tensor:
    if x.stride(-1) != 1:
        x = x.contiguous()
    rows, heads, tokens, width = x.shape
    out = torch.empty(rows, tokens, heads, width)
    strides = (ctypes.c_int64 * 3)(*x.stride()[:3])
    _library().hb_train_turn(
        x.data_ptr(),
        ctypes.addressof(strides),
        cos.data_ptr(),
        sin.data_ptr(),
        sign,
        *(rows, tokens, heads, width, 2 * cos.shape[-1]),
        int(cos.shape[0] == 1),
        int(interleaved),
        out.data_ptr(),
    )
    return out.transpose(1, 2)
