"""A model in four bits to train a LoRA on: QLoRA (arXiv 2305.14314), which needs no more than that and a LoRA.

    checkpoint = qlora.load(folder)                 every linear layer of the blocks an NF4Linear; peak memory: the result
    attached = LoRA(rank=16).attach(checkpoint.model)

Tables of tokens and the language head stay in bfloat16, as the paper's own code keeps them: a rare token's row has no
neighbours to share a scale with, and they are a small part of a large model. Norms and biases stay in the dtype that is
computed in. Tensors are quantised as they come from the file, so the whole model is never there in floats.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.adapt.nf4 import NF4Linear
from hornbook.adapt.targets import ROUTING
from hornbook.checkpoint import loading
from hornbook.checkpoint.loading import Checkpoint
from hornbook.model.transformer import Transformer

KEPT = torch.bfloat16


class Table(nn.Module):
    """A table [rows, width] in bfloat16, looked up in the dtype that the model computes in."""

    weight: Tensor

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.register_buffer("weight", torch.empty(0, device="meta"))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight).to(self.dtype)


def load(
    path: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    stretch: str | None = None,
) -> Checkpoint:
    """As ``checkpoint.loading.load``; ``dtype``: what is computed in."""
    where = loading.pick_device(device)
    computed = loading.pick_dtype(dtype, where)
    return loading.load(
        path, dtype=computed, device=where, stretch=stretch, into=lambda model: four_bits(model, computed, where)
    )


def four_bits(model: Transformer, dtype: torch.dtype, device: torch.device) -> Callable[[str, Tensor], bool]:
    """Make room in an empty model: -> what takes a parameter by its name, and says whether it did."""
    wanted: dict[str, NF4Linear | Table] = {}
    for path, module in list(model.named_modules()):
        made: NF4Linear | Table | None = None
        inside = re.search(r"(^|\.)blocks\.\d+\.", path) and path.rpartition(".")[2] not in ROUTING
        if isinstance(module, nn.Linear) and inside:
            made = NF4Linear(module.in_features, module.out_features, module.bias)
        elif path.endswith(("embed.tokens", "head.tokens")):
            made = Table(dtype)
        if made is not None:
            above, _, last = path.rpartition(".")
            setattr(model.get_submodule(above), last, made)
            wanted[f"{path}.weight"] = made

    def take(name: str, tensor: Tensor) -> bool:
        place = wanted.get(name)
        if isinstance(place, NF4Linear):
            place.take(tensor.to(device))
        elif place is not None:
            place.weight = tensor.to(device=device, dtype=KEPT).contiguous()
        return place is not None

    return take
