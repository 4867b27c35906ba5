"""Normalisation: RMSNorm (arXiv 1910.07467), with an offset where the weight counts from zero, and LayerNorm (1607.06450)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.kernels import products, training
from hornbook.model.config import ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) * (offset + weight) over the last dimension, computed in float32 whatever x is."""

    def __init__(self, width: int, epsilon: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset))
        self.epsilon = epsilon
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.float() + self.offset if self.offset else self.weight.float()
        if training.serves(x, weight):
            return training.norm(x, weight, self.epsilon)
        return F.rms_norm(x.float(), weight.shape, weight, self.epsilon).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """(x - mean) / deviation * weight + bias over the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        if training.serves(x, self.weight):
            return products.centred(x, self.weight, self.bias, self.eps)
        return super().forward(x)


def make_norm(config: ModelConfig, width: int | None = None) -> nn.Module:
    """A norm over ``width`` dimensions, the model's where none is given."""
    width = width or config.width
    if config.norm == "layer":
        return LayerNorm(width, config.norm_epsilon, bias=config.norm_bias)
    return RMSNorm(width, config.norm_epsilon, config.norm_offset)
