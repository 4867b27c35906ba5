"""A model as a flat list of operations: what an executor runs, with nothing left to decide.

    ModelConfig --lower--> Plan: Embed, Norm, Linear, Rotary, Attend, Linear, Add, ... Select, Norm, Linear, Cap

The plan names weights as the Transformer of ``model/`` does ("blocks.0.attention.query.weight") and holds none, so it is made
without torch and before anything is read. Two executors run it: native kernels (native.py) and torch (torch_executor.py);
a test holds each, op by op, to the Transformer.

Each op reads and writes *registers*, float arrays [tokens, width] with names; T tokens of a batch stand one after another,
whichever sequences they belong to. From Select on there are R rows, those whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hornbook.model.config import Experts, ModelConfig, Rotary


@dataclass(frozen=True, slots=True)
class Embed:
    """out = tokens[id] * scale + positions[position + offset] + types[0]; what the model does not have is left out."""

    out: str
    tokens: str
    scale: float = 1.0
    positions: str | Literal["sinusoidal"] | None = None
    offset: int = 0
    types: str | None = None


@dataclass(frozen=True, slots=True)
class Norm:
    """out = norm(a) * (weight + shift) + bias."""

    out: str
    a: str
    kind: Literal["rms", "layer"]
    weight: str
    bias: str | None
    epsilon: float
    shift: float = 0.0


@dataclass(frozen=True, slots=True)
class Add:
    out: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Linear:
    """out = [a W0' + b0, a W1' + b1, ...]: up to three weights read the same register. ``site`` counts the Linears, for adapters."""

    out: str
    a: str
    weights: tuple[str, ...]
    biases: tuple[str | None, ...]
    site: int


@dataclass(frozen=True, slots=True)
class Gate:
    """out = act(a[:, :F]) * a[:, F:]."""

    out: str
    a: str
    activation: str


@dataclass(frozen=True, slots=True)
class Act:
    out: str
    a: str
    activation: str


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """RMSNorm in place of ``groups`` groups of ``width`` dimensions of ``a``, the first at ``start``."""

    a: str
    start: int
    groups: int
    width: int
    weight: str
    epsilon: float
    shift: float = 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """Rotary positions in place: ``heads`` heads of ``width`` dimensions of ``a``, the first at ``start``."""

    a: str
    start: int
    heads: int
    width: int
    rotary: Rotary


@dataclass(frozen=True, slots=True)
class Attend:
    """out [T, H*D] = attention of a = [q | k | v] to all that its sequence has in ``layer`` of the cache, itself included."""

    out: str
    a: str
    layer: int
    heads: int
    kv_heads: int
    head_width: int
    scale: float
    window: int | None
    causal: bool
    softcap: float | None
    alibi: float | None


@dataclass(frozen=True, slots=True)
class Mix:
    """out = the mixture of experts of ``a``; ``prefix``: of its weights ("blocks.0.feedforward")."""

    out: str
    a: str
    prefix: str
    experts: Experts
    activation: str


@dataclass(frozen=True, slots=True)
class Select:
    """out [R, width] = the wanted rows of ``a``."""

    out: str
    a: str


@dataclass(frozen=True, slots=True)
class Cap:
    """out = cap * tanh(a * scale / cap), or a * scale without a cap."""

    out: str
    a: str
    scale: float
    cap: float | None


Op: TypeAlias = Embed | Norm | Add | Linear | Gate | Act | HeadNorm | Turn | Attend | Mix | Select | Cap


@dataclass(frozen=True, slots=True)
class Plan:
    """``ops`` in order; ``widths`` of the registers by name; the last op's ``out`` is the answer."""

    config: ModelConfig
    ops: tuple[Op, ...]
    widths: Mapping[str, int]

    @property
    def causal(self) -> bool:
        return self.config.causal
