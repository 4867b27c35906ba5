"""What is made of the last layer's states: scores of the vocabulary, or one vector of a text."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hornbook.model.positions import order


class Pooler(nn.Module):
    """BERT's summary of a text: tanh(W h + b) of its first token (arXiv 1810.04805). [B,T,C] -> [B,C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.tanh(self.dense(pool(hidden, mask, "first")))


def softcap(logits: Tensor, cap: float) -> Tensor:
    """c * tanh(logits / c): logits that cannot pass +-c (Gemma 2, arXiv 2408.00118)."""
    return cap * torch.tanh(logits / cap)


def last(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """The state of each row's last real token: hidden [B,T,C], mask [B,T] -> [B,C]."""
    if mask is None:
        return hidden[:, -1]
    place = torch.arange(mask.shape[1], device=mask.device)
    return hidden[torch.arange(len(mask), device=mask.device), (place * mask).argmax(-1)]


def pool(hidden: Tensor, mask: Tensor | None, how: Literal["mean", "first", "last"]) -> Tensor:
    """One vector per text from the states of its real tokens: hidden [B,T,C], mask [B,T] -> [B,C]."""
    if mask is None:
        return {"mean": hidden.mean(1), "first": hidden[:, 0], "last": hidden[:, -1]}[how]
    if how == "last":
        return last(hidden, mask)
    if how == "first":
        real = mask & (order(mask) == 0)
        return hidden[torch.arange(len(mask), device=mask.device), real.long().argmax(-1)]
    weight = mask[..., None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
