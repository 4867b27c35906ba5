"""What a model is trained for. An Objective is one pass of the model and the terms that are taken of its states:

    ids --model--> States --next_token-->  sum over its labels / their number --+
                          '--balance---->  sum over its tokens / their number --+--> loss

A term is a *sum* and the number of labels that it is over, so that a step cut into micro-batches of unequal length has
the gradient of the whole: each micro-batch's sum is divided by the labels of all of them (``over``). States without a
label never reach the language head: a masked language model scores one place in seven. Those that do reach it a few at a
time (train/cross_entropy.py), where label smoothing and the z-loss are told too; both count in the loss that is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hornbook.errors import TrainingError
from hornbook.model.feedforward import load_balance
from hornbook.model.transformer import Transformer
from hornbook.train.batch import IGNORED, Batch
from hornbook.train.cross_entropy import cross_entropy, head_cross_entropy

Counts: TypeAlias = Mapping[str, int]  # term -> labels
Metrics: TypeAlias = dict[str, Tensor]  # term -> its share of the loss, which add up over micro-batches


class Loss(Protocol):
    """What `hornbook.train.loop.train` makes smaller."""

    def count(self, batch: Batch) -> Counts:
        """How many labels each term has in a batch."""
        ...

    def __call__(self, model: Transformer, batch: Batch, *, over: Counts | None = None) -> tuple[Tensor, Metrics]:
        """The loss, a scalar, and its parts, detached. ``over``: the labels of the step that this batch is a part of;
        None: the batch is all of it."""
        ...


class States(NamedTuple):
    """One pass over a batch: hidden [B,T,C], and the routers' scores [B,T,E] of sparse layers where they are asked for."""

    hidden: Tensor
    routing: list[Tensor]


@dataclass(frozen=True, slots=True)
class Term:
    """A part of a loss: ``total`` is its sum over as many labels as ``count`` says."""

    name: str
    count: Callable[[Batch], int]
    total: Callable[[Transformer, States, Batch], Tensor]
    weight: float = 1.0
    routes: bool = False  # it looks at the routers' scores


@dataclass(frozen=True, slots=True)
class Objective:
    """A Loss: the weighted sum of terms over one pass."""

    terms: tuple[Term, ...]

    def count(self, batch: Batch) -> Counts:
        return {term.name: term.count(batch) for term in self.terms}

    def __call__(self, model: Transformer, batch: Batch, *, over: Counts | None = None) -> tuple[Tensor, Metrics]:
        """See Loss. Raises TrainingError where a term has no label at all: its mean is 0/0."""
        over = self.count(batch) if over is None else over
        for name, labels in over.items():
            if labels == 0:
                raise TrainingError(
                    f"the step has no label for the loss {name!r}, of {len(batch.ids)} rows of {batch.ids.shape[1]} tokens",
                    f"Look at how the labels are made: {IGNORED} marks a place of which nothing is learnt.",
                )
        states = run(model, batch, routes=any(term.routes for term in self.terms))
        parts = {term.name: term.weight * term.total(model, states, batch) / over[term.name] for term in self.terms}
        loss = torch.stack(list(parts.values())).sum()
        return loss, {name: part.detach() for name, part in parts.items()}


def run(model: Transformer, batch: Batch, *, routes: bool = False) -> States:
    """The model's states of a batch, its source read first where it has an encoder."""
    memory = None
    if model.encoder is not None:
        if batch.source is None:
            raise ValueError("a model with an encoder needs a batch with a source")
        memory = model.encode(batch.source, batch.source_mask)
    routing: list[Tensor] = []
    out = model(
        batch.ids,
        mask=batch.mask,
        segments=batch.segments,
        openings=batch.openings,
        prompts=_prompts(batch) if model.config.causal and model.attached and batch.openings is None else None,
        positions=batch.positions,
        token_types=batch.token_types,
        memory=memory,
        logits="none",
        routing=routing if routes else None,
    )
    return States(out.hidden, routing)


def _prompts(batch: Batch) -> Tensor | None:
    """How many tokens of each row [B], or packed document [D], stand before its first label; None where the labels are of
    whole texts. Adapters that act on a prompt's ends go by it."""
    if batch.labels.shape != batch.ids.shape:
        return None
    learnt = (batch.labels != IGNORED).cumsum(-1)
    real = torch.ones_like(learnt, dtype=torch.bool) if batch.mask is None else batch.mask
    if batch.segments is None:
        return (real & (learnt == 0)).sum(-1)
    starts = batch.segments[:-1].to(learnt.device).long()
    sizes = batch.segments.diff().to(learnt.device)
    document = torch.repeat_interleave(
        torch.arange(len(starts), device=learnt.device), sizes, output_size=learnt.shape[1]
    )
    before = F.pad(learnt[0], (1, 0))[starts]  # labels of the documents before
    unlearnt = (learnt[0] == before[document]).long()
    return torch.zeros_like(starts).index_add_(0, document, unlearnt)


# ------------------------------------------------------------------------------------------------------ objectives


def causal_lm(*, balance: float = 0.0, smoothing: float = 0.0, z_loss: float = 0.0) -> Objective:
    """Each token from those before it. ``balance``: the weight of the load-balancing term of a mixture of experts."""

    def total(model: Transformer, states: States, batch: Batch) -> Tensor:
        return _tokens(model, states.hidden[:, :-1], batch.labels[:, 1:], smoothing, z_loss)

    terms = (Term("next token", _labels_after_first, total),)
    return Objective((*terms, balanced(balance)) if balance else terms)


def masked_lm() -> Objective:
    """The tokens that were hidden, from all others (arXiv 1810.04805, task 1)."""
    return Objective((MASKED_TOKEN,))


def next_sentence() -> Objective:
    """Whether the second sentence follows the first (arXiv 1810.04805, task 2)."""
    return Objective((NEXT_SENTENCE,))


def masked_lm_and_next_sentence() -> Objective:
    """The sum of both means, as BERT was trained (arXiv 1810.04805, appendix A.2)."""
    return Objective((MASKED_TOKEN, NEXT_SENTENCE))


def seq2seq(*, smoothing: float = 0.0, z_loss: float = 0.0) -> Objective:
    """The target given the source."""

    def total(model: Transformer, states: States, batch: Batch) -> Tensor:
        return _tokens(model, states.hidden, batch.labels, smoothing, z_loss)

    return Objective((Term("token", _labels, total),))


def sequence_classification() -> Objective:
    """The class of a text; labels [B]."""
    return Objective((Term("label", _labels, _texts),))


def token_classification() -> Objective:
    """The class of each token; labels [B,T]."""
    return Objective((Term("label", _labels, _each_token),))


def span() -> Objective:
    """The first and the last token of an answer (arXiv 1810.04805, section 4.2), the mean of both; labels [B,2].

    A place outside the text teaches nothing, and no padding competes to be the answer.
    """
    return Objective((_edge("start", 0), _edge("end", 1)))


def balanced(weight: float) -> Term:
    """The load-balancing term of a mixture of experts (arXiv 2101.03961, eq. 4; see feedforward.load_balance).

    It is no mean over tokens: of a step in micro-batches it takes each one's own balance, weighted by real tokens.
    """
    return Term("balance", _real_tokens, _balance, weight, routes=True)


# ------------------------------------------------------------------------------------------------------------ terms


def _labels(batch: Batch) -> int:
    return int((batch.labels != IGNORED).sum())


def _labels_after_first(batch: Batch) -> int:
    return int((batch.labels[:, 1:] != IGNORED).sum())


def _real_tokens(batch: Batch) -> int:
    return batch.ids.numel() if batch.mask is None else int(batch.mask.sum())


def _tokens(model: Transformer, hidden: Tensor, labels: Tensor, smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    """Of the places that have a label: hidden [B,T,C], labels [B,T]."""
    learnt = labels != IGNORED
    states, labels = hidden[learnt], labels[learnt]
    head, table = model.head, model.embed.tokens
    plain = head is not None and table is not None and (head.tokens is None or type(head.tokens) is nn.Linear)
    if head is None or table is None or not plain:  # the head's matrix is an adapter's, which multiplies by itself
        return cross_entropy(model.scores(states), labels, smoothing=smoothing, z_loss=z_loss)
    return head_cross_entropy(head, states, table.weight, labels, smoothing=smoothing, z_loss=z_loss)


def _follows(model: Transformer, states: States, batch: Batch) -> Tensor:
    assert batch.follows is not None, "the batch does not say which sentences follow each other"
    return _known(model.follows(states.hidden, batch.mask), batch.follows)


def _texts(model: Transformer, states: States, batch: Batch) -> Tensor:
    return _known(model.classify(states.hidden, batch.mask), batch.labels)


def _each_token(model: Transformer, states: States, batch: Batch) -> Tensor:
    return _known(model.classify(states.hidden, batch.mask).flatten(0, 1), batch.labels.flatten())


def _edge(name: str, which: int) -> Term:
    def places(batch: Batch) -> Tensor:
        place = batch.labels[:, which]
        inside = (place >= 0) & (place < batch.ids.shape[1])
        if batch.mask is not None:
            at = place.clamp(0, batch.ids.shape[1] - 1)[:, None]
            inside &= batch.mask.gather(1, at)[:, 0]
        return place.masked_fill(~inside, IGNORED)

    def total(model: Transformer, states: States, batch: Batch) -> Tensor:
        scores = model.classify(states.hidden, batch.mask)[..., which]
        if batch.mask is not None:
            scores = scores.masked_fill(~batch.mask, -torch.inf)
        return _known(scores, places(batch))

    return Term(name, lambda batch: int((places(batch) != IGNORED).sum()), total, 0.5)


def _balance(model: Transformer, states: States, batch: Batch) -> Tensor:
    if model.config.experts is None:
        raise ValueError("a model without experts has nothing to balance")
    return load_balance(states.routing, model.config.experts, batch.mask) * _real_tokens(batch)


def _known(scores: Tensor, labels: Tensor) -> Tensor:
    """The sum of -log p(label) over those that are known."""
    known = labels != IGNORED
    return cross_entropy(scores[known], labels[known])


MASKED_TOKEN = Term("masked token", _labels, lambda model, states, batch: _tokens(model, states.hidden, batch.labels))
NEXT_SENTENCE = Term(
    "next sentence", lambda batch: 0 if batch.follows is None else int((batch.follows != IGNORED).sum()), _follows
)
