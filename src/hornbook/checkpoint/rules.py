"""Weight maps as data: which tensor of a file is which of ours, and how one becomes the other, both ways.

    theirs ("blk.0.attn_q.weight",)  --transform.ours-->    ours ("blocks.0.attention.query.weight",)
                                     <--transform.theirs--

One list of Rules serves loading and saving. A Family is that list and the same for the configuration; it is data,
and a new one is one small file in families/.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.model.config import ModelConfig

Tensors = tuple[Tensor, ...]


class Transform(Protocol):
    """An invertible change of tensors: ``theirs(ours(x))`` is x, bit for bit."""

    def ours(self, theirs: Tensors) -> Tensors: ...

    def theirs(self, ours: Tensors) -> Tensors: ...


class Same:
    """The tensor as it is."""

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

    For a projection [heads * D, ...] into queries or keys, weight or bias.
    """

    heads: int

    def ours(self, theirs: Tensors) -> Tensors:
        return tuple(_swap(x, self.heads, -1, 2) for x in theirs)

    def theirs(self, ours: Tensors) -> Tensors:
        return tuple(_swap(x, self.heads, 2, -1) for x in ours)


def _swap(x: Tensor, heads: int, outer: int, inner: int) -> Tensor:
    """Rows [heads * outer * inner, ...] -> [heads * inner * outer, ...]."""
    return x.reshape(heads, outer, inner, *x.shape[1:]).transpose(1, 2).reshape(x.shape)


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

    def torch(self, name: str) -> Tensor: ...


class Family(NamedTuple):
    """How one architecture is written in one format."""

    read_config: Callable[[Mapping[str, Any], TensorSource], ModelConfig]
    write_config: Callable[[ModelConfig], dict[str, Any]]
    rules: Callable[[ModelConfig], list[Rule]]
    prefix: str = ""  # what some files put before the names
    unused: tuple[str, ...] = ()  # regular expressions of names that hold nothing of ours


def one(theirs: str, ours: str, transform: Transform = SAME) -> Rule:
    """The common rule: one tensor, one name."""
    return Rule((theirs,), (ours,), transform)


def linear(theirs: str, ours: str, transform: Transform = SAME, *, bias: bool = True) -> list[Rule]:
    """A module with a weight and, where it has one, a bias, both changed alike."""
    return [one(f"{theirs}.{kind}", f"{ours}.{kind}", transform) for kind in ("weight", "bias")[: 1 + bias]]


# -------------------------------------------------------------------------------------------------- configurations

REQUIRED = object()


class Key(NamedTuple):
    """A value of their configuration that is a field of ours. Without a default it must be there."""

    theirs: str
    ours: str
    type: type
    default: Any = REQUIRED


def read_key(raw: Mapping[str, Any], name: str, kind: type, default: Any = REQUIRED) -> Any:
    """``raw[name]``, an int, float, bool or str as asked for. Raises ModelFileError where it is missing or of another type."""
    value = raw.get(name)
    if value is None:
        if default is REQUIRED:
            raise ModelFileError(f"the model's configuration has no {name}", "The file is incomplete: fetch it again.")
        return default
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ModelFileError(
            f"{name} of the model's configuration is {value!r:.60}, which is not of type {kind.__name__}",
            "Fetch the model again, or take another file of it.",
        )
    return value


def read_keys(raw: Mapping[str, Any], keys: Iterable[Key]) -> dict[str, Any]:
    """The fields of ModelConfig that ``keys`` name."""
    return {key.ours: read_key(raw, key.theirs, key.type, key.default) for key in keys}


def write_keys(config: ModelConfig, keys: Iterable[Key]) -> dict[str, Any]:
    """The inverse of ``read_keys``."""
    return {key.theirs: getattr(config, key.ours) for key in keys}


def choose(table: Mapping[Any, Any], name: str | int, what: str) -> Any:
    """``table[name]``. Raises UnsupportedModel, the nearest of the known first, where it is not there."""
    if name in table:
        return table[name]
    names = [str(known) for known in table]
    near = get_close_matches(str(name), names, n=3, cutoff=0.4)
    known = [*near, *sorted(set(names) - set(near))]
    raise UnsupportedModel(f"{what} {name!r} is not known", f"Known: {', '.join(known)}.")
