"""Where a token stands: rotary angles (arXiv 2104.09864, eq. 34, in the half-split layout) and their scalings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hornbook.errors import ModelFileError
from hornbook.model.config import Rotary, RotaryScaling

Turn = tuple[Tensor, Tensor]  # cos and sin, each [B, 1, T, D/2] float32


def frequencies(rotary: Rotary, head_width: int) -> Tensor:
    """Radians per position of each pair of dimensions, [D/2] float32 on the CPU."""
    exponent = torch.arange(0, head_width, 2, dtype=torch.float32, device="cpu") / head_width
    plain = 1.0 / rotary.base**exponent
    return plain if rotary.scaling is None else _scaled(plain, rotary.scaling)


def _scaled(plain: Tensor, scaling: RotaryScaling) -> Tensor:
    if scaling.kind == "linear":
        return plain / scaling.factor
    if scaling.kind == "factors":
        if len(scaling.factors) != len(plain):
            raise ModelFileError(
                f"{len(scaling.factors)} rotary factors for {len(plain)} frequencies",
                "The model's file contradicts itself: get it again or use another.",
            )
        return plain / torch.tensor(scaling.factors, dtype=torch.float32, device="cpu")
    # Llama 3.1: by how often a frequency turned within the context of the first training
    turns = scaling.original_context * plain / (2 * math.pi)
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return kept * plain + (1 - kept) * plain / scaling.factor


def turn(positions: Tensor, frequencies: Tensor) -> Turn:
    """The rotation of each position: positions [B, T], frequencies [D/2] -> cos, sin [B, 1, T, D/2], float32 always,

    because a bfloat16 angle would confuse neighbours from a few hundred tokens on.
    """
    angles = positions[:, None, :, None].float() * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, by: Turn) -> Tensor:
    """Turn each pair (x_i, x_{i + D/2}) of [B, H, T, D] by its angle."""
    cos, sin = by
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def order(mask: Tensor) -> Tensor:
    """The place of each real token among its row's real tokens, from 0; padding gets its neighbour's. [B, T] long."""
    return (mask.long().cumsum(-1) - 1).clamp_(min=0)
