"""Weight maps as data: which tensor of a file is which of ours, and how one becomes the other, both ways.

    theirs ("blk.0.attn_q.weight",)  --transform.ours-->    ours ("blocks.0.attention.query.weight",)
                                     <--transform.theirs--

A family is written as Maps, which name whole modules and all layers at once; ``expand`` makes of them the Rules for one
model. One list of Rules serves loading and saving, tensors of torch and arrays of numpy: what is said here never imports
torch, so that a file may be read without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from hornbook.model.config import ModelConfig

Tensor: TypeAlias = Any  # of torch or of numpy: all of one call alike, and the answers as they are
Tensors: TypeAlias = tuple[Tensor, ...]


def joined(parts: Tensors, axis: int = 0) -> Tensor:
    """One behind the other."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis)
    import torch

    return torch.cat(parts, dim=axis)


def stacked(parts: Tensors) -> Tensor:
    """As the rows of one with a dimension in front."""
    if isinstance(parts[0], np.ndarray):
        return np.stack(parts)
    import torch

    return torch.stack(parts)


def zeros(rows: int, like: Tensor) -> Tensor:
    """Rows of nothing, as wide as the rows of ``like``."""
    if isinstance(like, np.ndarray):
        return np.zeros((rows, *like.shape[1:]), like.dtype)
    return like.new_zeros(rows, *like.shape[1:])


class Transform(Protocol):
    """An invertible change of tensors: ``theirs(ours(x))`` is x, bit for bit."""

    def ours(self, theirs: Tensors) -> Tensors: ...

    def theirs(self, ours: Tensors) -> Tensors: ...


@dataclass(frozen=True, slots=True)
class Same:
    """The tensors as they are."""

    def ours(self, theirs: Tensors) -> Tensors:
        return theirs

    def theirs(self, ours: Tensors) -> Tensors:
        return ours


@dataclass(frozen=True, slots=True)
class Shift:
    """They store what we store plus ``by``: a norm's weight that counts from one. Exact where they added it exactly."""

    by: float

    def ours(self, theirs: Tensors) -> Tensors:
        return tuple(x - self.by for x in theirs)

    def theirs(self, ours: Tensors) -> Tensors:
        return tuple(x + self.by for x in ours)


@dataclass(frozen=True, slots=True)
class Interleaved:
    """Their rotary pairs are neighbours (0,1) (2,3) ..., ours are halves (0,D/2) (1,D/2+1) ...: rows of each head move.

    For a projection [heads * D, ...] into queries or keys, weight or bias. ``turned``: how many of the D rows of a head
    turn, the first ones; 0: all.
    """

    heads: int
    turned: int = 0

    def ours(self, theirs: Tensors) -> Tensors:
        return tuple(self._swap(x, -1, 2) for x in theirs)

    def theirs(self, ours: Tensors) -> Tensors:
        return tuple(self._swap(x, 2, -1) for x in ours)

    def _swap(self, x: Tensor, outer: int, inner: int) -> Tensor:
        """Rows [heads, outer * inner, ...] -> [heads, inner * outer, ...]."""
        heads = x.reshape(self.heads, -1, *x.shape[1:])
        count = self.turned or heads.shape[1]
        turned, rest = heads[:, :count], heads[:, count:]
        moved = turned.reshape(self.heads, outer, inner, *x.shape[1:]).swapaxes(1, 2).reshape(turned.shape)
        if not rest.shape[1]:  # nothing to add; and torch.cat without memory costs torch seconds and 80 MB of imports
            return moved.reshape(x.shape)
        return joined((moved, rest), axis=1).reshape(x.shape)


@dataclass(frozen=True, slots=True)
class Transposed:
    """Their matrices are [in, out], ours [out, in]; vectors stay."""

    def ours(self, theirs: Tensors) -> Tensors:
        return tuple(x.swapaxes(0, 1) if x.ndim == 2 else x for x in theirs)

    def theirs(self, ours: Tensors) -> Tensors:
        return self.ours(ours)


@dataclass(frozen=True, slots=True)
class Split:
    """One tensor of theirs holds the rows of several of ours, one behind the other."""

    sizes: tuple[int, ...]

    def ours(self, theirs: Tensors) -> Tensors:
        (x,) = theirs
        ends = tuple(accumulate(self.sizes))
        return tuple(x[end - size : end] for end, size in zip(ends, self.sizes, strict=True))

    def theirs(self, ours: Tensors) -> Tensors:
        return (joined(ours),)


@dataclass(frozen=True, slots=True)
class Grouped:
    """One tensor of theirs holds queries, keys and values group by group: of each key head its queries, the key, the value.

    [kv_heads * (queries + 2) * D, ...] -> [kv_heads * queries * D, ...] and twice [kv_heads * D, ...]
    """

    kv_heads: int
    queries: int  # heads that share a key head

    def ours(self, theirs: Tensors) -> Tensors:
        (x,) = theirs
        groups = x.reshape(self.kv_heads, self.queries + 2, -1, *x.shape[1:])
        parts = (groups[:, : self.queries], groups[:, self.queries : -1], groups[:, -1:])
        return tuple(part.reshape(-1, *x.shape[1:]) for part in parts)

    def theirs(self, ours: Tensors) -> Tensors:
        rest = ours[0].shape[1:]
        counts = (self.queries, 1, 1)
        parts = [x.reshape(self.kv_heads, n, -1, *rest) for x, n in zip(ours, counts, strict=True)]
        return (joined(tuple(parts), axis=1).reshape(-1, *rest),)


@dataclass(frozen=True, slots=True)
class Stacked:
    """Many tensors of theirs, all of one shape, are one of ours with a dimension in front."""

    def ours(self, theirs: Tensors) -> Tensors:
        return (stacked(theirs),)

    def theirs(self, ours: Tensors) -> Tensors:
        return tuple(ours[0])


@dataclass(frozen=True, slots=True)
class Reshaped:
    """They write the same numbers in another shape: [1, n] for our [n] where nothing else is said."""

    our_shape: tuple[int, ...] = (-1,)
    their_shape: tuple[int, ...] = (1, -1)

    def ours(self, theirs: Tensors) -> Tensors:
        return tuple(x.reshape(self.our_shape) for x in theirs)

    def theirs(self, ours: Tensors) -> Tensors:
        return tuple(x.reshape(self.their_shape) for x in ours)


@dataclass(frozen=True, slots=True)
class Behind:
    """They leave out the first ``rows`` of a table, which no one reads."""

    rows: int

    def ours(self, theirs: Tensors) -> Tensors:
        return tuple(joined((zeros(self.rows, x), x)) for x in theirs)

    def theirs(self, ours: Tensors) -> Tensors:
        return tuple(x[self.rows :] for x in ours)


@dataclass(frozen=True, slots=True)
class Chain:
    """One after the other, from theirs to ours."""

    steps: tuple[Transform, ...]

    def ours(self, theirs: Tensors) -> Tensors:
        for step in self.steps:
            theirs = step.ours(theirs)
        return theirs

    def theirs(self, ours: Tensors) -> Tensors:
        for step in reversed(self.steps):
            ours = step.theirs(ours)
        return ours


SAME = Same()


class Rule(NamedTuple):
    """``theirs`` and ``ours`` are names; the transform maps the tensors of one to those of the other, in this order."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    transform: Transform = SAME


class TensorSource(Protocol):
    """An open model file: GGUF or safetensors."""

    @property
    def tensors(self) -> Mapping[str, Any]:
        """name -> .shape, as torch has it"""
        ...

    def tensor(self, name: str) -> np.ndarray[Any, Any]:
        """The values, dequantised; floats as float32."""
        ...


# ------------------------------------------------------------------------------------------- whole modules, all layers


class Map(NamedTuple):
    """``ours`` <-> ``theirs``: modules, whose weight and bias go together where the model has them, or single tensors,
    of which one name at least ends in .weight or .bias.

    "{i}" stands for a layer's number in both, "{e}" in theirs for every expert's. A name of theirs that begins with a dot
    stands under the family's prefix. What the model does not have is passed over, so one table serves all variants.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    transform: Transform | Callable[[ModelConfig], Transform] = SAME


Table = tuple[Map, ...]
KINDS = (".weight", ".bias")


def table(names: Mapping[str, str]) -> Table:
    """The common Maps: one module of ours, one of theirs."""
    return tuple(Map((ours,), (theirs,)) for ours, theirs in names.items())


def layer(theirs: str, names: Mapping[str, str], ours: str = "blocks.{i}.") -> dict[str, str]:
    """``names`` of modules in a layer, with what stands before them in a model."""
    return {ours + name: theirs + theirs_name for name, theirs_name in names.items()}


def override(base: Table, *changes: Map) -> Table:
    """``base`` without the Maps of any module that ``changes`` speaks of, and ``changes``."""
    spoken = {ours for change in changes for ours in change.ours}
    return (*(old for old in base if not spoken & set(old.ours)), *changes)


def expand(maps: Table, config: ModelConfig, wanted: Iterable[str]) -> list[Rule]:
    """The Rules for a model whose parameters are ``wanted``.

    Every parameter is filled by exactly one: an AssertionError says which are not, for it is the family's fault.
    """
    names = set(wanted)
    rules: list[Rule] = []
    for ours, theirs, transform in maps:
        change: Transform = transform(config) if callable(transform) else transform
        # A name that ends in .weight or .bias is a tensor's, and not a module's that may have both.
        single = ours[0].endswith(KINDS) or theirs[0].endswith(KINDS)
        kinds = "" if single else "|".join(map(re.escape, KINDS))
        pattern = re.compile(re.escape(ours[0]).replace(r"\{i\}", r"(?P<i>\d+)") + f"(?P<kind>{kinds})")
        for match in filter(None, map(pattern.fullmatch, names)):
            i, kind = match.groupdict().get("i") or "", match["kind"]
            here = tuple(name.replace("{i}", i) + kind for name in ours)
            there = tuple(
                name.replace("{i}", i).replace("{e}", str(expert)) + kind
                for name in theirs
                for expert in range(config.experts.count if "{e}" in name and config.experts else 1)
            )
            assert set(here) <= names, f"{here} are not all parameters of the model"
            rules.append(Rule(there, here, change))
    filled = [name for rule in rules for name in rule.ours]
    assert sorted(filled) == sorted(names), f"the family's maps do not fit the model: {set(filled) ^ names}"
    return rules
