"""Every operation of a plan in plain torch, slow where slow is obvious: what the native kernels are held to by tests.

Legend: T tokens of S sequences, packed one after another; R of them wanted; H query heads, K key heads, D head width.
Arithmetic is done in the type of what is given: float64 in, float64 out. ``pages`` hold keys and values as hb_cache_read
gives them, [pages, layers, 2, K, 16, D]; which tokens of a sequence lie in which page is what engine/executor.py says.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hornbook.model.config import Experts, Rotary
from hornbook.model.feedforward import ACTIVATIONS
from hornbook.model.positions import frequencies as rotary_frequencies
from hornbook.model.positions import sinusoids

PAGE = 16  # tokens in a page


def embed(
    ids: Tensor,
    at: Tensor,
    tokens: Tensor,
    *,
    scale: float = 1.0,
    positions: Tensor | None = None,
    sinusoidal: bool = False,
    offset: int = 0,
    types: Tensor | None = None,
) -> Tensor:
    """ids and their positions ``at`` [T]; tables tokens [V,E], positions [P,E], types [n,E]; -> [T,E]."""
    x = tokens[ids]
    x = x if scale == 1.0 else x * scale
    x = x if types is None else x + types[0]
    if sinusoidal:
        return x + sinusoids(at[None], x.shape[-1])[0].to(x.dtype)
    return x if positions is None else x + positions[at + offset]


def norm(a: Tensor, weight: Tensor, bias: Tensor | None, kind: str, epsilon: float) -> Tensor:
    """RMSNorm ("rms", arXiv 1910.07467) or LayerNorm (1607.06450) over the last dimension, [T,C] -> [T,C]."""
    if kind == "layer":
        a = a - a.mean(-1, keepdim=True)
    out = a * torch.rsqrt(a.square().mean(-1, keepdim=True) + epsilon) * weight
    return out if bias is None else out + bias


def linear(a: Tensor, weights: tuple[Tensor, ...], biases: tuple[Tensor | None, ...]) -> Tensor:
    """[T, in] times each weight [out, in], side by side: [T, sum of out]."""
    return torch.cat([F.linear(a, weight, bias) for weight, bias in zip(weights, biases, strict=True)], dim=-1)


def adapted(y: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float, chosen: Tensor, start: int = 0) -> Tensor:
    """y [T, out] with a low-rank change (arXiv 2106.09685, eq. 3) of the tokens ``chosen`` [T] bool, which begins at column
    ``start``: y += scale * (x A') B', A = ``down`` [r, in], B = ``up`` [n, r]."""
    y = y.clone()
    y[chosen, start : start + len(up)] += scale * ((x[chosen] @ down.T) @ up.T)
    return y


def act(a: Tensor, activation: str) -> Tensor:
    return ACTIVATIONS[activation](a)


def gate(a: Tensor, activation: str) -> Tensor:
    """[T, 2F] -> [T, F] (arXiv 2002.05202)."""
    first, second = a.chunk(2, dim=-1)
    return act(first, activation) * second


def head_norm(a: Tensor, start: int, groups: int, width: int, weight: Tensor, epsilon: float) -> Tensor:
    """``a`` with RMSNorm of each of ``groups`` groups of ``width`` columns from ``start`` on."""
    a = a.clone()
    part = a[:, start : start + groups * width]
    part.copy_(norm(part.reshape(len(a), groups, width), weight, None, "rms", epsilon).flatten(1))
    return a


def turn(a: Tensor, start: int, heads: int, width: int, rotary: Rotary, at: Tensor, context_length: int) -> Tensor:
    """``a`` with its heads turned by their positions ``at`` [T] (arXiv 2104.09864, eq. 34), one pair after another.

    ``context_length``: of the text that scalings which follow the length are made for.
    """
    a = a.clone()
    turned = width if rotary.width is None else rotary.width
    magnitude = 1.0 if rotary.scaling is None else rotary.scaling.magnitude
    for pair, frequency in enumerate(rotary_frequencies(rotary, turned, context_length)):
        angle = at.float() * frequency
        cos, sin = (angle.cos() * magnitude).to(a.dtype), (angle.sin() * magnitude).to(a.dtype)
        i, j = (2 * pair, 2 * pair + 1) if rotary.interleaved else (pair, pair + turned // 2)
        for head in range(heads):
            first, second = a[:, start + head * width + i].clone(), a[:, start + head * width + j].clone()
            a[:, start + head * width + i] = first * cos - second * sin
            a[:, start + head * width + j] = second * cos + first * sin
    return a


def attend(
    a: Tensor,
    at: Tensor,
    sequence: Tensor,
    *,
    heads: int,
    kv_heads: int,
    head_width: int,
    scale: float,
    window: int | None = None,
    causal: bool = True,
    softcap: float | None = None,
    slopes: Tensor | None = None,
    cache: tuple[Tensor, int, Tensor] | None = None,
) -> Tensor:
    """Attention of a = [q | k | v], [T, (H + 2K) D], to what each token's sequence holds; -> [T, H D].

    at, sequence: [T] position and sequence of each token.  slopes: [H] of ALiBi (arXiv 2108.12409), times distances.
    cache: (pages, layer, table [S, P]): the batch's keys and values are written to their pages, and read from there;
    without one, each sequence is whole in the batch.
    """
    inner, shared = heads * head_width, kv_heads * head_width
    q = a[:, :inner].view(-1, heads, head_width)
    k, v = (part.reshape(-1, kv_heads, head_width) for part in torch.split(a[:, inner:], shared, dim=-1))
    if cache is not None:
        pages, layer, table = cache
        for t, (s, p) in enumerate(zip(sequence.tolist(), at.tolist(), strict=True)):
            pages[int(table[s, p // PAGE]), layer, :, :, p % PAGE] = torch.stack((k[t], v[t])).to(pages.dtype)
    out = torch.empty_like(a[:, :inner])
    for s in dict.fromkeys(sequence.tolist()):
        own = (sequence == s).nonzero()[:, 0]
        keys, values, places = k[own], v[own], at[own]
        if cache is not None:
            pages, layer, table = cache
            length = int(at[own].max()) + 1
            held = pages[table[s, : -(-length // PAGE)].long(), layer].transpose(0, 1)  # [2, pages, K, 16, D]
            keys, values = held.transpose(2, 3).flatten(1, 2)[:, :length].to(a.dtype)
            places = torch.arange(length)
        for t in own.tolist():
            back = at[t] - places
            visible = back >= 0 if causal else torch.ones_like(back, dtype=torch.bool)
            if window is not None:
                visible = visible & (back.abs() < window)
            for head in range(heads):
                group = head * kv_heads // heads
                scores = scale * (keys[visible, group] @ q[t, head])
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                if slopes is not None:
                    scores = scores - slopes[head] * back[visible]
                mixed = scores.softmax(0) @ values[visible, group]
                out[t, head * head_width : (head + 1) * head_width] = mixed
    return out


def mix(a: Tensor, weights: Mapping[str, Tensor], experts: Experts, activation: str) -> Tensor:
    """A mixture of gated experts (arXiv 2401.04088, section 2.1), one token at a time, [T,C] -> [T,C].

    weights: router.weight [E,C], gate and up [E,I,C], down [E,C,I], and of the expert that all tokens pass, where there
    is one, shared.{gate,up,down}.weight and shared_gate.weight.
    """
    out = torch.zeros_like(a)
    for t, token in enumerate(a):
        share, chosen = (weights["router.weight"] @ token).softmax(0).topk(experts.top)
        share = share / share.sum() if experts.renormalise else share
        for part, e in zip(share, chosen.tolist(), strict=True):
            inner = act(weights["gate"][e] @ token, activation) * (weights["up"][e] @ token)
            out[t] += part * (weights["down"][e] @ inner)
        if experts.shared_width:
            first, second = (weights[f"shared.{name}.weight"] @ token for name in ("gate", "up"))
            common = weights["shared.down.weight"] @ (act(first, activation) * second)
            if experts.shared_gate:
                common = torch.sigmoid(weights["shared_gate.weight"] @ token) * common
            out[t] += common
    return out


def select(a: Tensor, rows: Tensor) -> Tensor:
    """[T,C], rows [R] -> [R,C]."""
    return a[rows]


def cap(a: Tensor, scale: float, limit: float | None) -> Tensor:
    """limit * tanh(a * scale / limit) (arXiv 2408.00118); a * scale without a limit."""
    return a * scale if limit is None else limit * torch.tanh(a * scale / limit)
