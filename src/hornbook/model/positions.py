"""Where a token stands, in each of the ways that a model may be told.

sinusoidal   a fixed vector for each position, added to the token             arXiv 1706.03762, section 3.5
rotary       queries and keys turn by an angle that grows with the position   arXiv 2104.09864, eq. 34
relative     a learned bias on the score, by buckets of distance              arXiv 1910.10683, section 2.1
ALiBi        a bias that falls with the distance, steeper for some heads      arXiv 2108.12409, section 3
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hornbook.kernels import training
from hornbook.model import position_tables
from hornbook.model.config import Relative, Rotary


class Turn(NamedTuple):
    """The rotation of each token: cosine and sine [B, 1, T, W/2] float32, for the first W dimensions of a head."""

    cos: Tensor
    sin: Tensor
    interleaved: bool = False


class Bias(Protocol):
    """What distances add to the scores: key's place minus query's, [B,T,S] long -> [B,H,T,S]."""

    def __call__(self, distance: Tensor) -> Tensor: ...


def order(mask: Tensor) -> Tensor:
    """The place of each real token among its row's real tokens, from 0; padding gets its neighbour's. [B, T] long."""
    return (mask.long().cumsum(-1) - 1).clamp_(min=0)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """positions [B, T] -> [B, T, width] float32: the sines of all frequencies, then the cosines.

    The paper sets them alternately; here they stand in halves, as in its authors' own code and in Marian.
    """
    on = torch.from_numpy(position_tables.sinusoid_frequencies(width)).to(positions.device)
    angles = positions[..., None].float() * on
    return torch.cat((angles.sin(), angles.cos()[..., : width // 2]), dim=-1)


# ---------------------------------------------------------------------------------------------------------- rotary


def frequencies(rotary: Rotary, width: int, length: int = 1) -> Tensor:
    """``position_tables.frequencies`` as torch has it, [width/2] float32 on the CPU."""
    return torch.from_numpy(position_tables.frequencies(rotary, width, length))


def turn(positions: Tensor, frequencies: Tensor, rotary: Rotary) -> Turn:
    """The rotation of each position: positions [B, T], frequencies [W/2]; float32 always, because a bfloat16 angle
    would confuse neighbours from a few hundred tokens on."""
    angles = positions[:, None, :, None].float() * frequencies
    cos, sin = angles.cos(), angles.sin()
    if rotary.scaling is not None and rotary.scaling.magnitude != 1.0:
        cos, sin = cos * rotary.scaling.magnitude, sin * rotary.scaling.magnitude
    return Turn(cos, sin, rotary.interleaved)


def rotate(x: Tensor, by: Turn) -> Tensor:
    """Turn each pair of the first W dimensions of [B, H, T, D] by its angle; the others stay."""
    if training.serves(x):
        return training.turn(x, by.cos, by.sin, by.interleaved)
    width = 2 * by.cos.shape[-1]
    turned, rest = x[..., :width].float(), x[..., width:]
    if by.interleaved:
        first, second = turned[..., 0::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, dim=-1)
    parts = first * by.cos - second * by.sin, second * by.cos + first * by.sin
    out = (torch.stack(parts, dim=-1).flatten(-2) if by.interleaved else torch.cat(parts, dim=-1)).to(x.dtype)
    return out if width == x.shape[-1] else torch.cat((out, rest), dim=-1)


# ---------------------------------------------------------------------------------------------------------- biases


class RelativeBias(nn.Module):
    """A learned number for each bucket of distance and each head; one table serves all layers of a stack."""

    def __init__(self, relative: Relative, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.relative, self.causal = relative, causal
        self.weight = nn.Parameter(torch.zeros(relative.buckets, heads))

    def forward(self, distance: Tensor) -> Tensor:
        """[B,T,S] long -> [B,H,T,S]."""
        return self.weight[bucket(distance, self.relative, self.causal)].permute(0, 3, 1, 2)


def bucket(distance: Tensor, relative: Relative, causal: bool) -> Tensor:
    """Half of the buckets hold one distance each, the rest ever wider ranges up to ``relative.distance``.

    Where both directions are seen, each has half of the buckets, the keys ahead the second half.
    """
    buckets = relative.buckets if causal else relative.buckets // 2
    ahead = 0 if causal else (distance > 0).long() * buckets
    back = (-distance).clamp(min=0) if causal else distance.abs()
    exact = buckets // 2
    far = torch.log(back.clamp(min=1).float() / exact) / math.log(relative.distance / exact) * (buckets - exact)
    wide = (exact + far.long()).clamp(max=buckets - 1)
    return ahead + torch.where(back < exact, back, wide)


class Alibi:
    """-slope * distance, with the slopes of ``position_tables.alibi_slopes``."""

    def __init__(self, heads: int, scale: float) -> None:
        self.slopes = torch.from_numpy(position_tables.alibi_slopes(heads, scale))

    def __call__(self, distance: Tensor) -> Tensor:
        """[B,T,S] long -> [B,H,T,S]; written for a causal model, where no key is ahead."""
        slopes = self.slopes.to(distance.device)
        return slopes[:, None, None] * distance[:, None].float()
