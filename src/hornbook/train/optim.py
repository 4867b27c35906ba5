"""Optimizers by name, and which parameters weight decay leaves alone.

                states, bytes a weight
    adamw       8           arXiv 1711.05101: torch's, fused into one pass over the memory
    adamw8bit   2.03        the same with states of one byte (arXiv 2110.02861); small tensors keep theirs whole
    adafactor   hardly any  a row and a column of second moments for each matrix (arXiv 1804.04235)
    muon        4           orthogonalised momentum for the blocks' matrices, adamw for all else

Weight decay pulls matrices towards nothing. Norms and biases, which scale and shift, and tables of embeddings, of which a
step touches a few rows, are left alone unless ``decay_all`` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hornbook.errors import UsageError
from hornbook.train.adafactor import Adafactor
from hornbook.train.adamw8bit import AdamW8bit
from hornbook.train.muon import Muon


class Numbers(NamedTuple):
    """What all optimizers are told; ``betas``: of the means of gradients and of their squares."""

    rate: float
    weight_decay: float
    betas: tuple[float, float]
    epsilon: float


def make(
    name: str,
    named: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    *,
    rate: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    decay_all: bool = False,
) -> torch.optim.Optimizer:
    """The optimizer ``name`` of OPTIMIZERS for what a Precision's ``take`` gave; its rate is what a schedule multiplies.

    Adafactor has its own moments and takes neither ``betas`` nor ``epsilon``. Raises UsageError for an unknown name and
    where there is nothing to train.
    """
    if name not in OPTIMIZERS:
        raise UsageError(f"there is no optimizer {name!r}", f"There are: {', '.join(OPTIMIZERS)}.")
    parameters = dict(named)
    if not parameters:
        raise UsageError("there is nothing to train: no parameter was given", "Look at what the recipe freezes.")
    return OPTIMIZERS[name](parameters, Numbers(rate, weight_decay, betas, epsilon), decay_all)


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay is for a parameter: a matrix that is no table of embeddings."""
    return parameter.ndim >= 2 and not _TABLES & set(name.split("."))


_TABLES = {"embed", "relative"}  # the parts of a Transformer that hold rows by number


def is_block_matrix(name: str, parameter: Tensor) -> bool:
    """Whether Muon is for a parameter: a matrix inside a block; embeddings and heads are none (Keller Jordan, 2024)."""
    return parameter.ndim == 2 and "blocks" in name.split(".")


def _groups(named: Mapping[str, Tensor], weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    with_decay = [p for name, p in named.items() if decay_all or decays(name, p)]
    without = [p for name, p in named.items() if not (decay_all or decays(name, p))]
    groups = [{"params": with_decay, "weight_decay": weight_decay}, {"params": without, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _adamw(named: Mapping[str, Tensor], numbers: Numbers, decay_all: bool) -> torch.optim.Optimizer:
    rate, weight_decay, betas, epsilon = numbers
    groups = _groups(named, weight_decay, decay_all)
    fused = all(p.device.type in ("cpu", "cuda") for p in named.values())
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=epsilon, fused=fused)


def _adamw8bit(named: Mapping[str, Tensor], numbers: Numbers, decay_all: bool) -> torch.optim.Optimizer:
    rate, weight_decay, betas, epsilon = numbers
    return AdamW8bit(_groups(named, weight_decay, decay_all), rate=rate, betas=betas, epsilon=epsilon)


def _adafactor(named: Mapping[str, Tensor], numbers: Numbers, decay_all: bool) -> torch.optim.Optimizer:
    return Adafactor(_groups(named, numbers.weight_decay, decay_all), rate=numbers.rate)


def _muon(named: Mapping[str, Tensor], numbers: Numbers, decay_all: bool) -> torch.optim.Optimizer:
    matrices = [p for name, p in named.items() if is_block_matrix(name, p)]
    rest = {name: p for name, p in named.items() if not is_block_matrix(name, p)}
    if not matrices:
        raise UsageError("muon is for the matrices of blocks, and none is trained", "Take adamw.")
    other = _adamw(rest, numbers, decay_all) if rest else None
    return Muon(matrices, rate=numbers.rate, weight_decay=numbers.weight_decay, rest=other)


OPTIMIZERS: dict[str, Callable[[Mapping[str, Tensor], Numbers, bool], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "adafactor": _adafactor,
    "muon": _muon,
}
