"""NormalFloat, four bits a weight: codes whose steps hold equally many of normally distributed weights (arXiv 2305.14314).

    weights [n] -> blocks of 64, each divided by its largest |w| -> the nearest of 16 codes, two to a byte
                   largest |w| of each block - their mean -> blocks of 256 -> one of 256 codes      (double quantisation)

4.127 bits a weight instead of 32. Nothing is computed in four bits: a matrix is made whole, some rows at a time, where it is
multiplied, forward and again backward, and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Appendix E: quantiles of the normal distribution, half of them above zero and one of them zero.
CODES = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
BLOCK = 64  # weights that share a scale
SCALE_BLOCK = 256  # scales that share a scale
PIECE = 1 << 21  # weights of a matrix that are whole at a time while it is multiplied
CHUNK = 1 << 18  # weights made whole at a time: what they take on the way stays in a processor's cache


@cache
def dynamic_codes() -> tuple[float, ...]:
    """The 256 values of eight bits with a moving exponent (arXiv 2110.02861, section 2.1), signed, from -0.993 to 1.

    The exponent counts leading zeros, from 1e-6 to 1; what bits are left divide [0.1, 1] evenly.
    """
    found = [0.0, 1.0]
    for zeros in range(7):
        steps = 2 ** (6 - zeros)
        edges = [0.1 + 0.9 * i / steps for i in range(steps + 1)]
        middles = [(low + high) / 2 * 10.0**-zeros for low, high in zip(edges, edges[1:], strict=False)]
        found += [sign * value for value in middles for sign in (1, -1)]
    return tuple(sorted(found))


class NF4(nn.Module):
    """A matrix of ``shape`` in four bits; ``dense()`` makes it whole."""

    codes: Tensor  # [n / 2] uint8, the first of two in the high bits
    scales: Tensor  # [blocks] uint8, numbers of dynamic_codes
    scale_scales: Tensor  # [blocks of blocks] float32
    offset: Tensor  # [] float32, the mean of the scales

    def __init__(self, shape: tuple[int, ...], device: torch.device | str | None = None) -> None:
        super().__init__()
        self.shape = shape
        blocks = -(-torch.Size(shape).numel() // BLOCK)
        kept: dict[str, Any] = {"device": device, "dtype": torch.uint8}
        self.register_buffer("codes", torch.empty(blocks * BLOCK // 2, **kept))
        self.register_buffer("scales", torch.empty(blocks, **kept))
        self.register_buffer("scale_scales", torch.empty(-(-blocks // SCALE_BLOCK), device=device))
        self.register_buffer("offset", torch.empty((), device=device))

    @classmethod
    @torch.no_grad()
    def of(cls, weight: Tensor) -> NF4:
        """Quantise, a part at a time."""
        found = cls(tuple(weight.shape), "meta")
        flat, count = weight.detach().reshape(-1), -(-weight.numel() // BLOCK)
        edges = _edges(CODES, weight.device)
        codes, largest = [], []
        for start in range(0, len(flat), CHUNK):
            part = flat[start : start + CHUNK].float()
            blocks = F.pad(part, (0, -len(part) % BLOCK)).view(-1, BLOCK)
            most = blocks.abs().amax(1)
            unit = blocks / most.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
            numbers = torch.zeros(unit.shape, dtype=torch.uint8, device=unit.device)
            for edge in edges.tolist():  # ten times as fast as a search, for so few
                numbers += unit > edge
            numbers = numbers.view(-1, 2)
            codes.append((numbers[:, 0] << 4) | numbers[:, 1])
            largest.append(most)
        scales = torch.cat(largest)
        offset = scales.mean()
        above = F.pad(scales - offset, (0, -count % SCALE_BLOCK)).view(-1, SCALE_BLOCK)
        most = above.abs().amax(1)
        unit = above / most.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        numbers = torch.bucketize(unit, _edges(dynamic_codes(), weight.device)).to(torch.uint8)
        found.codes, found.scales = torch.cat(codes), numbers.view(-1)[:count].clone()
        found.scale_scales, found.offset = most, offset
        return found

    @torch.no_grad()
    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """The matrix, float32 where no dtype is said."""
        blocks = self._blocks(0, len(self.scales), self.block_scales(), dtype or torch.float32)
        return blocks.view(-1)[: torch.Size(self.shape).numel()].view(self.shape)

    @torch.no_grad()
    def pieces(self, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """The matrix [out, in] by its rows, about PIECE weights at a time; at once where blocks and rows do not agree."""
        out, width = self.shape
        if width % BLOCK:
            yield slice(0, out), self.dense(dtype)
            return
        scales, step = self.block_scales(), max(1, PIECE // width)
        for start in range(0, out, step):
            rows, each = min(step, out - start), width // BLOCK
            blocks = self._blocks(start * each, (start + rows) * each, scales, dtype)
            yield slice(start, start + rows), blocks.view(rows, width)

    def _blocks(self, first: int, last: int, scales: Tensor, dtype: torch.dtype) -> Tensor:
        """Some of the blocks [last - first, BLOCK]."""
        out = torch.empty(last - first, BLOCK, dtype=dtype, device=self.codes.device)
        pairs, step = _pairs(self.codes.device), CHUNK // BLOCK
        for start in range(first, last, step):
            end = min(start + step, last)
            codes = self.codes[start * BLOCK // 2 : end * BLOCK // 2]
            values = F.embedding(codes.to(torch.int32), pairs).view(-1, BLOCK)
            torch.mul(values, scales[start:end, None], out=out[start - first : end - first])
        return out

    def block_scales(self) -> Tensor:
        """The largest |w| of each block, as they were kept: float32 [blocks]."""
        codes = torch.tensor(dynamic_codes(), device=self.scales.device)[self.scales.to(torch.int32)]
        return codes * self.scale_scales.repeat_interleave(SCALE_BLOCK)[: len(codes)] + self.offset

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers())


class NF4Linear(NF4):
    """x [..., in] -> x W' + b [..., out], with a frozen W of four bits. The gradient of x makes W anew."""

    def __init__(self, in_features: int, out_features: int, bias: nn.Parameter | None = None) -> None:
        super().__init__((out_features, in_features), "meta")
        self.in_features, self.out_features = in_features, out_features
        self.bias = bias

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> NF4Linear:
        made = cls(linear.in_features, linear.out_features, linear.bias)
        made.take(linear.weight)
        return made

    def take(self, weight: Tensor) -> None:
        """Keep ``weight`` [out, in], quantised."""
        for name, buffer in NF4.of(weight).named_buffers():
            setattr(self, name, buffer)

    def times(self, x: Tensor) -> Tensor:
        """x [N, in] -> x W' [N, out], without a gradient."""
        y = x.new_empty(len(x), self.out_features)
        for rows, part in self.pieces(x.dtype):
            y[:, rows] = x @ part.T
        return y

    def back(self, dy: Tensor) -> Tensor:
        """dy [N, out] -> dy W [N, in], without a gradient."""
        dx = dy.new_zeros(len(dy), self.in_features)
        for rows, part in self.pieces(dy.dtype):
            dx.addmm_(dy[:, rows], part)
        return dx

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias.to(y.dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: NF4Linear) -> Tensor:
        ctx.linear = linear
        return linear.times(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], linear.out_features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        dy = gradients[0]
        return ctx.linear.back(dy.reshape(-1, dy.shape[-1])).view(*dy.shape[:-1], ctx.linear.in_features), None


def _edges(codes: tuple[float, ...], device: torch.device) -> Tensor:
    """Where one code becomes nearer than the one before it."""
    values = torch.tensor(codes, device=device)
    return (values[1:] + values[:-1]) / 2


@cache
def _pairs(device: torch.device) -> Tensor:
    """Byte -> the two codes in it, float32 [256, 2]."""
    codes = torch.tensor(CODES, device=device)
    return torch.stack((codes.repeat_interleave(16), codes.repeat(16)), dim=1)
