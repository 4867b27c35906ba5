"""Weights of four bits on any device: kept packed, made whole for each product, x = minimum + scale * q, q of 0 to 15.

    codes [out, in/2] uint8      two to a byte: dimension j of a group in the low half, j + 16 in the high one
    scale, minimum [out, in/32]  float16, or float32 where a file's are finer, of each group of 32

The blocks of GGUF's Q4_0, Q4_1 and Q4_K are such groups already, and are taken over without loss; other weights are
rounded, where somebody asks for it. A product unpacks its weight, piece by piece, in the type of its input. That saves memory
(five or six bits a weight instead of sixteen) and not time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hornbook.checkpoint.dequantize import BY_NAME, four_bit_groups
from hornbook.checkpoint.packed import FLOATS, PackedTensor
from hornbook.engine.plan import Linear, Plan
from hornbook.errors import UnsupportedModel

KINDS = ("Q4_0", "Q4_1", "Q4_K")
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


def taken_over(tensor: PackedTensor) -> FourBit:
    """The blocks of a file, of one of KINDS, without loss."""
    format, (rows, width) = BY_NAME[tensor.type], tensor.shape
    stored = np.asarray(tensor.raw).reshape(-1, width // format.block * format.nbytes)
    stored = stored[:rows] if tensor.order is None else stored[tensor.order]
    codes, scale, minimum = four_bit_groups(np.ascontiguousarray(stored).reshape(-1, format.nbytes), tensor.type)
    packed = _pack(torch.from_numpy(codes).view(rows, -1, GROUP))
    return FourBit(packed, *(_narrowest(torch.from_numpy(part).view(rows, -1)) for part in (scale, minimum)))


def four_bit_weights(
    plan: Plan, tensors: Mapping[str, PackedTensor], device: torch.device, dtype: torch.dtype
) -> dict[str, Tensor | FourBit]:
    """All parameters on the device: matrices of four bits as they are; those that the file holds in floats rounded, but
    for the tables of tokens; the rest, which its maker has kept finer on purpose, whole in ``dtype``."""
    linear = {name for op in plan.ops if isinstance(op, Linear) for name in op.weights}
    weights: dict[str, Tensor | FourBit] = {}
    for name, tensor in tensors.items():
        tables = name in ("embed.tokens.weight", "head.tokens.weight")
        if tensor.type in KINDS and (name in linear or tables):
            weights[name] = taken_over(tensor).to(device)
        else:
            whole = torch.from_numpy(tensor.values())
            if name in linear and not tables and tensor.type in FLOATS and whole.shape[1] % GROUP == 0:
                weights[name] = rounded(whole.to(device))
            else:
                weights[name] = whole.to(device, dtype)
        tensor.release()
    return weights


def _narrowest(numbers: Tensor) -> Tensor:
    """In half precision where that loses nothing."""
    half = numbers.half()
    return half if torch.equal(half.float(), numbers) else numbers


def _pack(codes: Tensor) -> Tensor:
    """[out, groups, 32] of 0 to 15 -> [out, in/2]."""
    low, high = codes.chunk(2, dim=-1)
    return (low | high << 4).flatten(1)


def _check(width: int) -> None:
    if width % GROUP:
        raise UnsupportedModel(
            f"a weight of {width} inputs cannot be kept in groups of {GROUP}", "Keep this model's weights whole."
        )
