"""AdamW (arXiv 1711.05101) whose states take one byte a weight (arXiv 2110.02861): 2 in place of 8.

    state --blocks of 256--> / the block's largest --> the nearest of 256 values --> its number, uint8
                                                                                 |
    the next step reads the numbers, updates in float32, and writes new ones <---'

The values are dense near 0 (section 2.2, dynamic tree quantisation): of every power of ten down to 1e-7 a stretch that is cut
evenly, twice as finely as the one below it. A block has a scale of its own, so that an outlier spoils 255 others and no more
(section 2.1). Departures: tensors of fewer than 4,096 weights keep float32 states, as the authors' library has it, while
embeddings get no layer norm; and a second moment is never rounded down to 0, which would make the next update many times too
large.

The paged optimizer of arXiv 2305.14314, section 3, moves states to the host when the device is full: it is not built here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 256
SMALL = 4096  # weights
_PIECE = {"cpu": 1 << 18, "cuda": 1 << 25}  # weights that are in float32 at a time: what stays in a processor's cache


class AdamW8bit(torch.optim.Optimizer):
    def __init__(
        self,
        params: Iterable[Any],
        *,
        rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": rate, "betas": betas, "eps": epsilon, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "the loss is not evaluated anew within a step"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        state["count"] = count = state.get("count", 0) + 1
        if parameter.numel() < SMALL or not parameter.is_contiguous():
            if "mean" not in state:
                state.update(mean=torch.zeros_like(parameter, dtype=torch.float32))
                state.update(square=torch.zeros_like(parameter, dtype=torch.float32))
            _adam(parameter, gradient, state["mean"], state["square"], count, group)
            return
        blocks = math.ceil(parameter.numel() / BLOCK)
        if "mean" not in state:
            for name in ("mean", "square"):
                state[name] = torch.full(
                    (blocks * BLOCK,), values(name == "mean").zero, dtype=torch.uint8, device=parameter.device
                )
                state[f"{name}_scale"] = torch.zeros(blocks, device=parameter.device)
        weights, gradients = parameter.view(-1), gradient.reshape(-1)
        piece = _PIECE.get(parameter.device.type, _PIECE["cuda"])
        for start in range(0, len(weights), piece):
            here = slice(start, min(start + piece, len(weights)))
            _piece(weights[here], gradients[here], state, start, count, group)


def _piece(
    weights: Tensor, gradients: Tensor, state: dict[str, Any], start: int, count: int, group: dict[str, Any]
) -> None:
    """Update some whole blocks of a parameter, of which the last may be short."""
    size = len(weights)
    blocks = math.ceil(size / BLOCK)
    at = slice(start // BLOCK, start // BLOCK + blocks)
    flat = slice(start, start + blocks * BLOCK)
    means = dequantise(state["mean"][flat], state["mean_scale"][at], signed=True)
    squares = dequantise(state["square"][flat], state["square_scale"][at], signed=False)
    _adam(weights, gradients, means[:size], squares[:size], count, group)
    for name, value in (("mean", means), ("square", squares)):
        value[size:] = 0.0
        state[name][flat], state[f"{name}_scale"][at] = quantise(value, signed=name == "mean")


def _adam(
    weights: Tensor, gradients: Tensor, means: Tensor, squares: Tensor, count: int, group: dict[str, Any]
) -> None:
    """One update in place, algorithm 2 of arXiv 1711.05101; the moments are float32."""
    beta1, beta2 = group["betas"]
    gradients = gradients.float()
    means.lerp_(gradients, 1 - beta1)
    squares.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
    size = squares.sqrt().div_(math.sqrt(1 - beta2**count)).add_(group["eps"])
    weights.mul_(1 - group["lr"] * group["weight_decay"])
    weights.sub_((means / size).to(weights.dtype), alpha=group["lr"] / (1 - beta1**count))


# ------------------------------------------------------------------------------------------------------------ numbers


class Values(NamedTuple):
    """The 256 values, ascending; the middles between them, and one behind that nothing exceeds; and, by the upper 16 bits of
    a float32, the number of the value below or at the least float that has them."""

    values: Tensor  # [256]
    middles: Tensor  # [256]
    below: Tensor  # [65536] int32
    zero: int  # the number of the value 0


@cache
def values(signed: bool, device: str = "cpu") -> Values:
    """Of numbers from -1 (``signed``) or 0 up to 1."""
    found = [0.0, 1.0]
    for power in range(7):
        parts = 2**power if signed else 2 ** (power + 1)
        edges = torch.linspace(0.1, 1.0, parts + 1, dtype=torch.float64)
        middle = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (power - 6)).tolist()
        found += middle + ([-value for value in middle] if signed else [])
    ascending = torch.tensor(sorted(found), dtype=torch.float64).float()
    middles = torch.cat([(ascending[:-1] + ascending[1:]) / 2, torch.tensor([torch.inf])])
    bits = torch.arange(1 << 16, dtype=torch.int64)
    # Of a negative float the least in value has the lower bits set.
    least = torch.where(bits >= 1 << 15, (bits << 16 | 0xFFFF) - (1 << 32), bits << 16).int().view(torch.float32)
    below = torch.bucketize(least.nan_to_num(0.0, 0.0, 0.0), middles[:-1], out_int32=True)
    return Values(ascending.to(device), middles.to(device), below.to(device), ascending.tolist().index(0.0))


def quantise(x: Tensor, *, signed: bool) -> tuple[Tensor, Tensor]:
    """x [n BLOCK] float32, not below 0 unless ``signed`` -> numbers [n BLOCK] uint8, scales [n].

    The nearest value is looked up by the upper bits and put right by one comparison: no two middles share upper bits.
    """
    blocks = x.view(-1, BLOCK)
    scales = blocks.abs().amax(1)
    table = values(signed, str(x.device))
    shares = (blocks / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).view(-1)
    low = table.below.index_select(0, (shares.view(torch.int32) >> 16) & 0xFFFF)
    numbers = low + (shares > table.middles.index_select(0, low))
    if not signed:
        numbers.clamp_(min=1)  # a second moment is never nothing; where the scale is 0 it is all the same
    return numbers.to(torch.uint8), scales


def dequantise(numbers: Tensor, scales: Tensor, *, signed: bool) -> Tensor:
    """The inverse: [n BLOCK] float32."""
    found = values(signed, str(numbers.device)).values.index_select(0, numbers.int())
    return found.view(-1, BLOCK).mul_(scales[:, None]).view(-1)
