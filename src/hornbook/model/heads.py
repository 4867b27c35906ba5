"""What is made of the last layer's states: scores of the vocabulary, of labels, or one vector of a text."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from hornbook.model.config import Classifier, ModelConfig
from hornbook.model.feedforward import ACTIVATIONS
from hornbook.model.norms import make_norm
from hornbook.model.positions import order


class Pooler(nn.Module):
    """BERT's summary of a text: tanh(W h + b) of its first token (arXiv 1810.04805). [B,T,C] -> [B,C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.tanh(self.dense(pool(hidden, mask, "first")))


class LanguageHead(nn.Module):
    """Scores of the vocabulary from states of width C; ``table`` [V,E] is the token embedding, for a head that is tied.

    What the configuration does not have is None and holds no weight: ``dense`` and ``norm`` before, ``tokens``, ``bias``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.width if config.embedding_width is None else config.embedding_width
        changed = config.head_transform
        self.dense = nn.Linear(config.width, width) if changed else None
        self.norm = make_norm(config, width) if changed else None
        self.activation = ACTIVATIONS[config.activation]
        self.tokens = None
        if not config.tied_head:
            self.tokens = nn.Linear(width if changed else config.width, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if config.head_bias else None
        self.scale, self.cap = config.logit_scale, config.logit_softcap

    def states(self, hidden: Tensor) -> Tensor:
        """[..., C] -> [..., E]: what the matrix of the vocabulary is multiplied with."""
        if self.dense is not None and self.norm is not None:
            hidden = self.norm(self.activation(self.dense(hidden)))
        return hidden if self.scale == 1.0 else hidden * self.scale

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """[..., C] -> [..., V]."""
        hidden = self.states(hidden)
        weight = table if self.tokens is None else self.tokens.weight
        logits = nn.functional.linear(hidden, weight.to(hidden.dtype), self.bias)
        return logits if self.cap is None else softcap(logits, self.cap)


class ClassifierHead(nn.Module):
    """Scores of labels: of each text [B,n], or of each token [B,T,n]."""

    def __init__(self, config: ModelConfig, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(config.width, len(classifier.labels), bias=classifier.bias)

    def forward(self, hidden: Tensor, mask: Tensor | None, pooler: Pooler | None) -> Tensor:
        """hidden [B,T,C], mask [B,T]."""
        summary = self.classifier.summary
        if self.classifier.over == "sequence" and summary != "pooler":
            hidden = pool(hidden, mask, summary)
        elif self.classifier.over == "sequence":
            assert pooler is not None, "the configuration names a pooler that the model does not have"
            hidden = pooler(hidden, mask)
        scores: Tensor = self.linear(self.dropout(hidden))
        return scores


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
