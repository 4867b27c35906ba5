"""From logits to the next token: biases, penalties, temperature, top-k, top-p, min-p, and one draw.

    logits [B, V] -> biases -> penalties -> temperature -> top-k -> top-p -> min-p -> draw -> id

Each filter is a pure function of logits [B, V] and returns new logits; what it removes becomes -inf. A filter bound to
its numbers is a LogitsProcessor, and a request's processors are a list: a grammar or a watermark is one more entry.

Sources: repetition penalty, Keskar et al. 2019 (CTRL, arXiv 1909.05858, section 4.1; a negative logit is multiplied, as
everyone does since, because dividing it would *raise* it); frequency and presence penalties, OpenAI's API reference;
top-k, Fan et al. 2018 (arXiv 1805.04833); top-p, Holtzman et al. 2020 (arXiv 1904.09751, equation 2); min-p, Nguyen et
al. 2024 (arXiv 2407.01082, section 3).

The engine chooses without torch, in the same way and with the same random numbers: engine/choose.py.

Legend: B rows, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from hornbook.engine.uniforms import fresh_seed, uniform
from hornbook.errors import GenerationError
from hornbook.types import SamplingParams

# (the tokens of each of the B rows so far, prompt first; logits [B, V]) -> logits [B, V]
LogitsProcessor: TypeAlias = Callable[[Sequence[Sequence[int]], Tensor], Tensor]


# -------------------------------------------------------------------------------------------------------- filters


def repetition_penalty(ids: Sequence[Sequence[int]], logits: Tensor, penalty: float, window: int = -1) -> Tensor:
    """Divide the positive logits of every token seen (prompt included) by ``penalty``, multiply the negative ones.

    window: how many of a row's last tokens count; -1: all.
    """
    out = logits.clone()
    for row, seen in enumerate(ids):
        if not len(seen):
            continue
        index = torch.tensor(
            sorted(set(seen[-window:] if window > 0 else seen)), dtype=torch.long, device=logits.device
        )
        score = out[row, index]
        out[row, index] = torch.where(score < 0, score * penalty, score / penalty)
    return out


def count_penalty(
    ids: Sequence[Sequence[int]], logits: Tensor, frequency: float, presence: float, start: int
) -> Tensor:
    """Subtract ``frequency`` x count + ``presence`` for each token of the output, which begins at ``ids[row][start]``."""
    out = logits.clone()
    for row, seen in enumerate(ids):
        counts = Counter(seen[start:])
        if not counts:
            continue
        index = torch.tensor(list(counts), dtype=torch.long, device=logits.device)
        count = torch.tensor(list(counts.values()), dtype=out.dtype, device=logits.device)
        out[row, index] -= frequency * count + presence
    return out


def temperature(logits: Tensor, value: float) -> Tensor:
    """Divide by ``value`` > 0, measured from the row's maximum, so that a tiny temperature cannot overflow."""
    return (logits - logits.amax(-1, keepdim=True)) / value


def top_k(logits: Tensor, k: int) -> Tensor:
    """Keep the ``k`` likeliest tokens (and those that tie with the last of them)."""
    if k >= logits.shape[-1]:
        return logits
    worst = torch.topk(logits, k).values[:, -1:]
    return logits.masked_fill(logits < worst, -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens whose probabilities sum to at least ``p``; never fewer than one."""
    ordered, order = logits.sort(-1, descending=True)
    probability = ordered.softmax(-1)
    before = probability.cumsum(-1) - probability  # the mass of all likelier tokens
    drop = before >= p
    drop[:, 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -torch.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens whose probability is at least ``p`` times that of the likeliest."""
    probability = logits.softmax(-1)
    return logits.masked_fill(probability < p * probability.amax(-1, keepdim=True), -torch.inf)


def bias(logits: Tensor, added: Sequence[tuple[int, float]]) -> Tensor:
    """Add a number to the logit of each (id, number)."""
    out = logits.clone()
    out[:, [id for id, _ in added]] += torch.tensor([value for _, value in added], dtype=out.dtype, device=out.device)
    return out


def allow(logits: Tensor, bits: np.ndarray[Any, np.dtype[np.uint32]]) -> Tensor:
    """Keep the tokens whose bit is set, 32 a word: what a grammar allows (engine/grammar.py)."""
    kept = np.unpackbits(bits.view(np.uint8), count=logits.shape[-1], bitorder="little").astype(bool)
    return logits.masked_fill(~torch.from_numpy(kept).to(logits.device), -torch.inf)


def _ignoring_ids(filter_: Callable[[Tensor, float], Tensor], value: float) -> LogitsProcessor:
    return lambda ids, logits: filter_(logits, value)


def processors(params: SamplingParams, prompt_length: int) -> list[LogitsProcessor]:
    """The filters that ``params`` asks for, in their fixed order; an empty list leaves the logits alone.

    At temperature 0 only biases and penalties matter: no other filter can remove the likeliest token.
    """
    chosen: list[LogitsProcessor] = []
    if params.logit_bias:
        added = tuple(dict(params.logit_bias).items())
        chosen.append(lambda ids, logits: bias(logits, added))
    if params.repetition_penalty != 1.0 and params.repetition_window:
        chosen.append(partial(repetition_penalty, penalty=params.repetition_penalty, window=params.repetition_window))
    if params.frequency_penalty or params.presence_penalty:
        chosen.append(
            partial(
                count_penalty,
                frequency=params.frequency_penalty,
                presence=params.presence_penalty,
                start=prompt_length,
            )
        )
    if params.temperature == 0:
        return chosen
    if params.temperature != 1.0:
        chosen.append(_ignoring_ids(temperature, params.temperature))
    if params.top_k:
        chosen.append(lambda ids, logits: top_k(logits, params.top_k))
    if params.top_p < 1.0:
        chosen.append(_ignoring_ids(top_p, params.top_p))
    if params.min_p > 0.0:
        chosen.append(_ignoring_ids(min_p, params.min_p))
    return chosen


# ----------------------------------------------------------------------------------------------------------- draw


class Sampler:
    """Chooses the tokens of one request: its processors and, unless it is greedy, random numbers of its own.

    Token number n takes the number that ``uniform(seed, 0, n)`` is. So a seed gives the same text whatever runs in the
    same batch, and on whatever device.
    """

    def __init__(self, params: SamplingParams, prompt_length: int, extra: Sequence[LogitsProcessor] = ()) -> None:
        self.processors = [*extra, *processors(params, prompt_length)]
        self._greedy = params.temperature == 0
        self._seed = fresh_seed() if params.seed is None else params.seed
        self._drawn = 0

    @property
    def is_plain_greedy(self) -> bool:
        """True where the choice is the argmax of the logits as they are, so that many rows can share one call."""
        return self._greedy and not self.processors

    def choose(self, ids: Sequence[int], logits: Tensor) -> int:
        """The next token after ``ids``, from logits [V]. Raises GenerationError where no token can be chosen."""
        scores = logits[None].float()
        for process in self.processors:
            scores = process([ids], scores)
        check(scores[0])
        if self._greedy:
            return int(scores.argmax(-1))
        self._drawn += 1
        return draw(scores[0], uniform(self._seed, 0, self._drawn - 1))


def draw(logits: Tensor, number: float) -> int:
    """One token from softmax(logits [V]), by inverting the cumulative distribution in float64 on the CPU.

    number: in [0, 1). A token of probability 0 is never drawn: the answer is the first index at which the running sum
    *exceeds* that share of the whole.
    """
    cumulative = logits.cpu().double().softmax(-1).cumsum(-1)
    target = cumulative[-1] * number
    chosen = torch.searchsorted(cumulative, target, right=True)
    # The product may round up to the total itself; then the last token that has any probability is meant.
    last = torch.searchsorted(cumulative, cumulative[-1])
    return int(torch.minimum(chosen, last))


def check(logits: Tensor) -> None:
    """Raise GenerationError unless the best logit of ``logits`` [V] is a finite number (a NaN anywhere is the best)."""
    best = float(logits.max())
    if best != best or best in (float("inf"), float("-inf")):
        bad = int((~torch.isfinite(logits)).sum())
        raise GenerationError(
            f"the model gave no usable next token: {bad} of {logits.numel()} logits are not finite numbers",
            "The model file may be damaged, or the dtype too narrow: try dtype='float32', or pull the model again.",
        )
