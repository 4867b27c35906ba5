"""Weights of four bits on any device: kept packed, made whole for each product, x = minimum + scale * q, q of 0 to 15.

    codes [out, in/2] uint8      two to a byte: dimension j of a group in the low half, j + 16 in the high one
    scale, minimum [out, in/32]  float16, of each group of 32

The blocks of GGUF's Q4_0 and Q4_1 are such groups already, and are taken over without loss; other weights are rounded,
where somebody asks for it. A product unpacks its weight, piece by piece, in the type of its input. That saves memory
(five bits a weight instead of sixteen) and not time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hornbook.errors import UnsupportedModel

GROUP = 32
PIECE = 1 << 24  # weights that are made whole at a time


class FourBit(NamedTuple):
    """A weight [out, in]."""

    codes: Tensor
    scale: Tensor
    minimum: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], 2 * self.codes.shape[1]

    @property
    def nbytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in self)

    def to(self, device: torch.device) -> FourBit:
        return FourBit(*(part.to(device) for part in self))

    def whole(self, dtype: torch.dtype) -> Tensor:
        """[out, in], in ``dtype``."""
        packed = self.codes.view(len(self.codes), -1, GROUP // 2)
        codes = torch.cat((packed & 15, packed >> 4), dim=-1)
        return (codes * self.scale[..., None].float() + self.minimum[..., None].float()).flatten(1).to(dtype)

    def rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Of a table, the rows ``index`` [T]: [T, in]."""
        return FourBit(*(part[index] for part in self)).whole(dtype)

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """[T, in] -> [T, out]."""
        step = max(1, PIECE // self.shape[1])
        pieces = [FourBit(*(part[row : row + step] for part in self)) for row in range(0, len(self.codes), step)]
        y = torch.cat([F.linear(x, piece.whole(x.dtype)) for piece in pieces], dim=-1)
        return y if bias is None else y.add_(bias)


def stacked(weights: list[FourBit]) -> FourBit:
    """Rows of several weights, one after another."""
    return FourBit(*(torch.cat(parts) for parts in zip(*weights, strict=True)))


def rounded(weight: Tensor) -> FourBit:
    """The nearest of 16 even steps between each group's least and largest value; weight [out, in].

    Raises UnsupportedModel where the groups do not divide the input.
    """
    _check(weight.shape[1])
    groups = weight.float().reshape(len(weight), -1, GROUP)
    low = groups.amin(-1).half()
    scale = ((groups.amax(-1) - low) / 15).half()
    if not bool((low.isfinite() & scale.isfinite()).all()):
        raise UnsupportedModel("a weight's numbers do not fit in half precision", "Keep this model's weights whole.")
    steps = (groups - low[..., None].float()) / torch.where(scale == 0, 1.0, scale.float())[..., None]
    return FourBit(_pack(steps.round_().clamp_(0, 15).to(torch.uint8)), scale, low)


def from_blocks(kind: str, blocks: np.ndarray[Any, Any], shape: tuple[int, int]) -> FourBit:
    """The uint8 bytes of a GGUF tensor of the type ``kind``, "Q4_0" or "Q4_1", [out, in]: without loss.

    Raises UnsupportedModel for other types.
    """
    if kind not in ("Q4_0", "Q4_1"):
        raise UnsupportedModel(f"blocks of the type {kind} are not groups of four bits", "Q4_0 and Q4_1 are.")
    _check(shape[1])
    head = 2 if kind == "Q4_0" else 4
    rows = np.ascontiguousarray(blocks).reshape(shape[0], shape[1] // GROUP, head + GROUP // 2)
    numbers = torch.from_numpy(np.ascontiguousarray(rows[..., :head]).view(np.float16).copy())
    scale = numbers[..., 0].contiguous()
    minimum = -8 * scale if kind == "Q4_0" else numbers[..., 1].contiguous()
    codes = torch.from_numpy(np.ascontiguousarray(rows[..., head:]).reshape(shape[0], -1))
    return FourBit(codes, scale, minimum)


def _pack(codes: Tensor) -> Tensor:
    """[out, groups, 32] of 0 to 15 -> [out, in/2]."""
    low, high = codes.chunk(2, dim=-1)
    return (low | high << 4).flatten(1)


def _check(width: int) -> None:
    if width % GROUP:
        raise UnsupportedModel(
            f"a weight of {width} inputs cannot be kept in groups of {GROUP}", "Keep this model's weights whole."
        )
