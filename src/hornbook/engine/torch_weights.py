"""What a plan reads when torch runs it: the weights of its Linears side by side, and adapters beside them.

    Linear qkv      [ query | key | value ]'  one product, [T, in] -> [T, H D + 2 K D]
    its adapters    + scale (x A') B'         for the tokens that ask for them, in the columns of the part they change

Low-rank adapters: arXiv 2106.09685.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hornbook.checkpoint.machine import give_back
from hornbook.engine.executor import Floats
from hornbook.engine.four_bit import FourBit, stacked
from hornbook.engine.plan import Linear, Mix, Plan
from hornbook.errors import ModelFileError, UsageError

Weight: TypeAlias = Tensor | FourBit


@dataclass(slots=True)
class Stacked:
    """One Linear's weights as one; ``columns``: where each part's output begins and ends."""

    weight: Weight
    bias: Tensor | None
    columns: list[tuple[int, int]]

    def __call__(self, x: Tensor) -> Tensor:
        return (
            self.weight.linear(x, self.bias)
            if isinstance(self.weight, FourBit)
            else F.linear(x, self.weight, self.bias)
        )


class Parameters:
    """A model's parameters by name, on the device and in the type that they are used in; what has to be moved is moved once."""

    def __init__(self, given: Mapping[str, Weight], device: torch.device, dtype: torch.dtype) -> None:
        self._given, self._device, self.dtype = given, device, dtype
        self._moved: dict[str, Weight] = {}

    def weight(self, name: str) -> Weight:
        """[out, in]; packed where it was given so."""
        if name not in self._moved:
            self._moved[name] = self.moved(name)
        return self._moved[name]

    def tensor(self, name: str) -> Tensor:
        weight = self.weight(name)
        return weight.whole(self.dtype) if isinstance(weight, FourBit) else weight

    def moved(self, name: str) -> Weight:
        """The same, not kept."""
        weight = self._find(name)
        return weight.to(self._device) if isinstance(weight, FourBit) else weight.detach().to(self._device, self.dtype)

    def rows(self, name: str) -> int:
        return self._find(name).shape[0]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """All that begin with ``prefix``, by the rest of their names."""
        return {name.removeprefix(prefix): self.tensor(name) for name in self._given if name.startswith(prefix)}

    def forget(self) -> None:
        self._given, self._moved = {}, {}

    def stack(self, names: tuple[str, ...]) -> Weight:
        """Rows of several weights, one after another. Where these are on the device already, in the type, they become
        views of what is made here, so that a model and the executor that is made from it share their memory."""
        if len(names) == 1:
            return self.weight(names[0])
        parts = [self.moved(name) for name in names]
        packed = [part for part in parts if isinstance(part, FourBit)]
        if len(packed) == len(parts):
            return stacked(packed)
        if not packed and (whole := _side_by_side([part for part in parts if isinstance(part, Tensor)])) is not None:
            return whole
        weight = torch.cat([part.whole(self.dtype) if isinstance(part, FourBit) else part for part in parts])
        start = 0
        for name, part in zip(names, parts, strict=True):
            given = self._given[name]
            if isinstance(given, Tensor) and given.device == weight.device and given.dtype == weight.dtype:
                given.data = weight[start : start + part.shape[0]]
            start += part.shape[0]
        del parts, part, given
        # The parts lie between others that stay: an allocator keeps such holes, and of all layers together they are half a model.
        if weight.device.type == "cpu":
            give_back()
        return weight

    def _find(self, name: str) -> Weight:
        if name not in self._given:
            raise ModelFileError(f"the model has no weight {name}", "Its file is incomplete, or its description wrong.")
        return self._given[name]


def _side_by_side(parts: list[Tensor]) -> Tensor | None:
    """The tensor whose rows the parts [n, in] are, one behind the other; None where they lie elsewhere."""
    first, rows = parts[0], 0
    for part in parts:
        same = part.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and part.dtype == first.dtype
        place = first.storage_offset() + rows * first.stride(0)
        if not (same and part.is_contiguous() and part.storage_offset() == place and part.shape[1] == first.shape[1]):
            return None
        rows += len(part)
    return first.as_strided((rows, first.shape[1]), first.stride())


def stack_linears(plan: Plan, parameters: Parameters) -> list[Stacked]:
    """One for each site of the plan; Linears that name the same weights share one."""
    made: dict[tuple[str, ...], Stacked] = {}
    sites = []
    for op in plan.ops:
        if not isinstance(op, Linear):
            continue
        if op.weights not in made:
            ends = np.cumsum([parameters.rows(name) for name in op.weights]).tolist()
            columns = list(zip([0, *ends], ends, strict=False))
            weight, bias = parameters.stack(op.weights), None
            if any(op.biases):
                device = weight.codes.device if isinstance(weight, FourBit) else weight.device
                bias = torch.zeros(ends[-1], dtype=parameters.dtype, device=device)
                for name, (start, end) in zip(op.biases, columns, strict=True):
                    if name is not None:
                        bias[start:end] = parameters.tensor(name)
            made[op.weights] = Stacked(weight, bias, columns)
        sites.append(made[op.weights])
    return sites


@dataclass(frozen=True, slots=True)
class Change:
    """What an adapter adds to one part of one Linear: y[:, start : start + n] += scale * (x A') B'."""

    down: Tensor  # A [r, in]
    up: Tensor  # B [n, r], the scale in it
    start: int


class Adapters:
    """The adapters that an executor holds, by number; numbers are never given twice."""

    def __init__(self, plan: Plan, linears: list[Stacked], device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._linears = linears
        self._tied = plan.config.tied_head
        self._mixed = tuple(f"{op.prefix}." for op in plan.ops if isinstance(op, Mix))
        self._places: dict[str, list[tuple[int, int]]] = {}  # weight -> (site, part); blocks may serve several layers
        for op in plan.ops:
            if isinstance(op, Linear):
                for part, name in enumerate(op.weights):
                    self._places.setdefault(name, []).append((op.site, part))
        self._changes: dict[int, dict[int, list[Change]]] = {}  # number -> site -> changes
        self._next = 0

    def add(self, weights: Mapping[str, tuple[Floats, Floats, float]]) -> int:
        """See Executor.add_adapter. Raises UsageError, before anything is kept, for what is not of this model."""
        sites: dict[int, list[Change]] = {}
        for name, (down, up, scale) in weights.items():
            self._check(name, down, up, scale)
            a = torch.from_numpy(np.ascontiguousarray(down, np.float32)).to(self._device, self._dtype)
            b = (scale * torch.from_numpy(np.ascontiguousarray(up, np.float32))).to(self._device, self._dtype)
            for site, part in self._places[name]:
                start, _ = self._linears[site].columns[part]
                sites.setdefault(site, []).append(Change(a, b, start))
        number, self._next = self._next, self._next + 1
        self._changes[number] = sites
        return number

    def remove(self, number: int) -> None:
        if self._changes.pop(number, None) is None:
            raise UsageError(f"there is no adapter {number}", "It was removed before, or never added.")

    def check(self, numbers: set[int]) -> None:
        """Raises UsageError for a number that no adapter has."""
        if unknown := sorted(numbers - self._changes.keys()):
            raise UsageError(f"there is no adapter {unknown[0]}", "It was removed before, or never added.")

    def apply(self, y: Tensor, x: Tensor, site: int, rows: Mapping[int, Tensor]) -> None:
        """Change y [T, out] in place; ``rows``: of each adapter in use, which tokens are its own."""
        for number, own in rows.items():
            for change in self._changes[number].get(site, ()):
                part = y[:, change.start : change.start + len(change.up)]
                part.index_add_(0, own, F.linear(F.linear(x[own], change.down), change.up))

    def _check(self, name: str, down: Floats, up: Floats, scale: float) -> None:
        if name not in self._places:
            why = (
                "holds experts, which adapters do not reach"
                if name.startswith(self._mixed)
                else "is no linear layer of it"
            )
            raise UsageError(f"the adapter changes {name}, which {why}", "It was made for another model.")
        if self._tied and name == "embed.tokens.weight":
            raise UsageError(
                f"the adapter changes {name}, which is both the table of tokens and the head",
                "Merge this adapter into the model's weights.",
            )
        site, part = self._places[name][0]
        start, end = self._linears[site].columns[part]
        rank, expected = len(down), (end - start, self._linears[site].weight.shape[1])
        if (
            down.ndim != 2
            or up.ndim != 2
            or rank < 1
            or (up.shape[0], down.shape[1]) != expected
            or up.shape[1] != rank
        ):
            raise UsageError(
                f"the adapter's matrices for {name} are {list(down.shape)} and {list(up.shape)}, and the weight is "
                f"{list(expected)}",
                "It was made for another model.",
            )
        if not (np.isfinite(scale) and np.isfinite(down).all() and np.isfinite(up).all()):
            raise UsageError(f"the adapter's numbers for {name} are not all finite", "Its file is damaged.")
