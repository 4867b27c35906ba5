"""How far a copy of a model is from the model: the same first choices, and the divergence of what it predicts.

    top-1   the share of tokens after which both would choose the same next one
    KL      sum over the vocabulary of p log(p / q), in nats, the mean over tokens: p the model's, q the copy's

Both on a text of a few paragraphs in several languages that comes with Hornbook (assets/verify.txt). A model without a
language head is compared by the direction of its states.
"""

from __future__ import annotations

import math
from importlib.resources import files
from typing import NamedTuple

import torch
from torch import Tensor

from hornbook.errors import HornbookError
from hornbook.model.transformer import Transformer
from hornbook.text.tokenizer import Tokenizer

WINDOW = 128  # tokens at a time: logits of a large vocabulary are large


class DriftError(HornbookError):
    """A copy of a model answers too differently from the model."""


class Limit(NamedTuple):
    """What a copy may lose: the least share of equal first choices, the most divergence."""

    top1: float
    kl: float


class Drift(NamedTuple):
    """What was found. ``perplexity``: of the text, by the model and by the copy; None where a token is not foretold."""

    tokens: int
    top1: float
    kl: float
    perplexity: tuple[float, float] | None = None

    def __str__(self) -> str:
        found = f"{self.top1:.1%} same first choice, KL {self.kl:.4f} over {self.tokens} tokens"
        if self.perplexity is not None:
            found += f", perplexity {self.perplexity[0]:.2f} -> {self.perplexity[1]:.2f}"
        return found

    def within(self, limit: Limit) -> bool:
        return self.top1 >= limit.top1 and self.kl <= limit.kl


def text() -> str:
    """The text that comes with Hornbook."""
    return (files("hornbook") / "assets" / "verify.txt").read_text("utf-8")


def measure(model: Transformer, copy: Transformer, ids: list[int]) -> Drift:
    """Compare two models of one configuration on ``ids``, in windows; a model that also has an encoder reads each window
    as its source and as its own past. Raises DriftError where the copy predicts what is no number."""
    if model.head is None:
        return _of_states(model, copy, ids)
    tokens, same, kl, surprise = 0, 0, 0.0, [0.0, 0.0]
    width = min(WINDOW, model.config.context_length)
    for at in range(0, len(ids), width):
        window = torch.tensor([ids[at : at + width]])
        p, q = (_logits(each, window).log_softmax(-1) for each in (model, copy))
        if not torch.isfinite(q).all():
            raise DriftError("the copy predicts numbers that are not finite", "Take a quantisation of more bits.")
        tokens += len(p)
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        kl += float((p.exp() * (p - q)).sum())
        for i, each in enumerate((p, q)):
            surprise[i] -= float(each[:-1].gather(1, window[0, 1:, None]).sum())
    foretold = max(1, tokens - math.ceil(len(ids) / width))
    # A model that never learned may be surprised beyond what a float holds.
    before, after = (math.exp(min(total / foretold, 700)) for total in surprise)
    return Drift(tokens, same / tokens, kl / tokens, (before, after) if model.config.causal else None)


@torch.inference_mode()
def _logits(model: Transformer, ids: Tensor) -> Tensor:
    """[T, V] float32 on the CPU."""
    ids = ids.to(model.device)
    memory = None if model.encoder is None else model.encode(ids)
    logits = model(ids, memory=memory).logits
    assert logits is not None
    found: Tensor = logits[0].float().cpu()
    return found


def _states(model: Transformer, ids: Tensor) -> Tensor:
    """[T, C] float32 on the CPU."""
    ids = ids.to(model.device)
    memory = None if model.encoder is None else model.encode(ids)
    found: Tensor = model(ids, memory=memory, logits="none").hidden[0].float().cpu()
    return found


@torch.inference_mode()
def _of_states(model: Transformer, copy: Transformer, ids: list[int]) -> Drift:
    """Without a language head: the share of tokens whose states point the same way (cosine above 0.99), and the mean 1 - cosine."""
    width, cosines = min(WINDOW, model.config.context_length), []
    for at in range(0, len(ids), width):
        window = torch.tensor([ids[at : at + width]])
        first, second = (_states(each, window) for each in (model, copy))
        cosines.append(torch.cosine_similarity(first, second, dim=-1))
    found = torch.cat(cosines)
    return Drift(len(ids), float((found > 0.99).float().mean()), float((1 - found).mean()))


def ids_of(tokenizer: Tokenizer) -> list[int]:
    """The text's tokens."""
    return tokenizer.encode(text())
