"""The next token of one answer, without torch: the filters of sampling.py over one row, and the same random numbers.

    logits [V] -> processors -> biases -> penalties -+-> allowed, temperature, top-k, top-p, min-p, draw -> id
                                                     |        native hb_sample (rows side by side), or its numpy twin
                                                     +-> log softmax of the model's own logits -> logprob

What the tokens before have done is counted as they come, not anew at every token. Ties go to the lowest id.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from hornbook.engine.executor import Floats
from hornbook.engine.grammar import Bits, Matcher
from hornbook.engine.requests import Processor
from hornbook.engine.speculative import Probabilities, kept_or_replaced
from hornbook.engine.uniforms import uniform
from hornbook.errors import GenerationError
from hornbook.kernels.library import Choice as NativeChoice
from hornbook.kernels.library import Library, Sampling
from hornbook.types import SamplingParams

Ids: TypeAlias = "np.ndarray[Any, np.dtype[np.intp]]"


class Choice(NamedTuple):
    id: int
    logprob: float  # under the model's own distribution
    top: tuple[tuple[int, float], ...] | None


class Draw(NamedTuple):
    """What a Sample takes: how one token is to be chosen."""

    logits: Floats
    raw: Floats
    allowed: Bits | None
    params: SamplingParams
    number: float


class Sample(Protocol):
    """Draws from logits [V]; raw: the model's own. -> (id, its logprob under ``raw``), id -1 where nothing can be chosen."""

    def __call__(
        self, logits: Floats, raw: Floats, allowed: Bits | None, params: SamplingParams, number: float
    ) -> tuple[int, float]: ...


class Chooser:
    """Chooses the tokens of answer number ``index`` to one prompt, of ``prompt_length`` tokens."""

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        sample: Sample,
        *,
        seed: int,
        index: int = 0,
        processors: Sequence[Processor] = (),
        matcher: Matcher | None = None,
    ) -> None:
        self.params = params
        self.matcher = matcher
        self._prompt_length = len(prompt)
        self._sample = sample
        self._seed, self._index = seed, index
        self._processors = processors
        bias = tuple(dict(params.logit_bias).items())
        self._bias = (
            (np.array([id for id, _ in bias]), np.array([value for _, value in bias], np.float32)) if bias else None
        )
        self._repeats = params.repetition_penalty != 1.0 and params.repetition_window != 0
        self._remembers = self._repeats and params.repetition_window < 0
        self._counting = bool(params.frequency_penalty or params.presence_penalty)
        self._seen: dict[int, None] = dict.fromkeys(prompt) if self._remembers else {}
        self._counts: dict[int, int] = {}
        self._changes = bool(processors or self._bias is not None or self._repeats or self._counting)

    def choose(
        self, ids: Sequence[int], raw: Floats, guess: int | None = None, chances: Probabilities | None = None
    ) -> Choice:
        """The token after ``ids`` (prompt and answer) from logits [V]. Raises GenerationError where none can be chosen.

        guess: was sampled from ``chances`` [V], and is kept or replaced by the rule of speculative sampling.
        """
        draw = self.draw(ids, raw)
        if guess is None or chances is None or not self.params.temperature:
            return self.chosen(draw, *self._sample(*draw))
        left, weights = filtered(only(draw.allowed, draw.logits), self.params)
        mine = np.zeros(draw.logits.size)
        mine[left] = weights / weights.sum() if left.size else 0.0
        id, _ = kept_or_replaced(guess, mine, chances[: draw.logits.size], draw.number)
        return self.chosen(draw, id, float(raw[id]) - log_sum(raw) if left.size else math.nan)

    def draw(self, ids: Sequence[int], raw: Floats) -> Draw:
        """How the token after ``ids`` is to be chosen."""
        params = self.params
        return Draw(
            self._changed(ids, raw) if self._changes else raw,
            raw,
            self.matcher.allowed() if self.matcher is not None else None,
            params,
            uniform(self._seed, self._index, len(ids) - self._prompt_length) if params.temperature else 0.0,
        )

    def chosen(self, draw: Draw, id: int, logprob: float) -> Choice:
        """What a Sample has found. Raises GenerationError where it is nothing."""
        if id < 0 or not math.isfinite(logprob):
            raise unusable(draw.logits, draw.allowed)
        top = self.params.top_logprobs
        return Choice(id, logprob, likeliest(draw.raw, top) if top else None)

    def accept(self, id: int) -> None:
        """Take the chosen token."""
        if self._remembers:
            self._seen[id] = None
        if self._counting:
            self._counts[id] = self._counts.get(id, 0) + 1
        if self.matcher is not None:
            self.matcher.accept(id)

    @property
    def has_processors(self) -> bool:
        return bool(self._processors)

    @property
    def is_done(self) -> bool:
        """Whether a grammar lets nothing follow."""
        return self.matcher is not None and self.matcher.is_done

    def _changed(self, ids: Sequence[int], raw: Floats) -> Floats:
        logits = raw.copy()
        for process in self._processors:
            logits = np.ascontiguousarray(process(ids, logits), np.float32)
        if self._bias is not None:
            logits[self._bias[0]] += self._bias[1]
        if self._repeats:
            seen = self._penalised(ids)
            score, penalty = logits[seen], np.float32(self.params.repetition_penalty)
            logits[seen] = np.where(score < 0, score * penalty, score / penalty)
        if self._counts:
            counted = np.fromiter(self._counts, np.intp, len(self._counts))
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            logits[counted] -= np.float32(self.params.frequency_penalty) * counts
            logits[counted] -= np.float32(self.params.presence_penalty)
        return logits

    def _penalised(self, ids: Sequence[int]) -> Ids:
        """The tokens that the repetition penalty takes for seen, each once."""
        if self._remembers:
            return np.fromiter(self._seen, np.intp, len(self._seen))
        return np.unique(np.array(ids[-self.params.repetition_window :], np.intp))


def unusable(logits: Floats, allowed: Bits | None) -> GenerationError:
    bad = int((~np.isfinite(logits)).sum())
    if bad == 0 and allowed is not None:
        return GenerationError("the grammar allows no token that the model knows", "Is the grammar too narrow?")
    return GenerationError(
        f"the model gave no usable next token: {bad} of {logits.size} logits are not finite numbers",
        "The model file may be damaged, or the dtype too narrow: try dtype='float32', or pull the model again.",
    )


def likeliest(raw: Floats, count: int) -> tuple[tuple[int, float], ...]:
    """The ``count`` likeliest tokens and their log-probabilities, the likeliest first; of equal ones the lower id."""
    count = min(count, raw.size)
    ids = np.argpartition(-raw, count - 1)[:count]
    total = log_sum(raw)
    order = sorted((-float(raw[id]), int(id)) for id in ids)
    return tuple((id, -negative - total) for negative, id in order)


def log_sum(logits: Floats) -> float:
    """The logarithm of the sum of the exponentials; not a number where a logit is none, or infinite."""
    best = float(logits.max())
    if not math.isfinite(best):
        return math.nan
    return best + math.log(float(np.exp(logits - np.float32(best)).sum(dtype=np.float64)))


# ------------------------------------------------------------------------------------------------------ numpy twin


def sample(
    logits: Floats, raw: Floats, allowed: Bits | None, params: SamplingParams, number: float
) -> tuple[int, float]:
    """hb_sample in numpy: see its comment in hornbook.h."""
    logits = only(allowed, logits)
    best = int(logits.argmax())
    top = float(logits[best])
    if not math.isfinite(top):  # a NaN anywhere is the best
        return -1, math.nan
    id = best if params.temperature == 0 else _draw(logits, params, number)
    return id, (float(raw[id]) - log_sum(raw) if params.logprobs else _known_good(raw))


def _known_good(raw: Floats) -> float:
    """0 for logits that are numbers, or minus infinity, which is what nobody may choose; NaN for others."""
    return 0.0 if math.isfinite(float(raw.max())) else math.nan


def only(allowed: Bits | None, logits: Floats) -> Floats:
    """Minus infinity for what is not allowed."""
    if allowed is None:
        return logits
    bits = np.unpackbits(allowed.view(np.uint8), count=min(logits.size, 32 * allowed.size), bitorder="little")
    kept = np.zeros(logits.size, bool)
    kept[: bits.size] = bits
    return np.where(kept, logits, np.float32(-np.inf))


def filtered(logits: Floats, params: SamplingParams) -> tuple[Ids, Probabilities]:
    """(the ids that the filters leave, in order; their weights: 1 for the likeliest). None where no logit is finite."""
    top = float(logits.max())
    if not math.isfinite(top):
        return np.empty(0, np.intp), np.empty(0)
    with np.errstate(over="ignore"):
        scores = (logits - np.float32(top)) / np.float32(max(params.temperature, 1e-38))
    ids = np.flatnonzero(scores > -np.inf)
    scores = scores[ids]
    if 0 < params.top_k < ids.size:
        worst = np.partition(scores, ids.size - params.top_k)[ids.size - params.top_k]
        ids, scores = ids[scores >= worst], scores[scores >= worst]
    weights = np.exp(scores.astype(np.float64))
    if params.top_p < 1.0:
        order = np.argsort(-weights, kind="stable")
        running = np.cumsum(weights[order])
        # the mass of all likelier tokens decides
        within = order[: 1 + int(np.searchsorted(running[:-1], params.top_p * running[-1]))]
        keep = np.zeros(ids.size, bool)
        keep[within] = True
        ids, weights = ids[keep], weights[keep]
    if params.min_p > 0.0:
        keep = weights >= params.min_p * weights.max()
        ids, weights = ids[keep], weights[keep]
    return ids, weights


def _draw(logits: Floats, params: SamplingParams, number: float) -> int:
    """One of the tokens that are left, by inverting the sum of their weights."""
    ids, weights = filtered(logits, params)
    running = np.cumsum(weights)
    chosen = int(np.searchsorted(running, number * running[-1], side="right"))
    # The product may round up to the total itself; then the last token that has any probability is meant.
    return int(ids[min(chosen, int(np.searchsorted(running, running[-1])))])


# ---------------------------------------------------------------------------------------------------------- native


class NativeSample:
    """hb_sample and hb_sample_rows: one call, without copies."""

    def __init__(self, kernels: Library) -> None:
        self._call: Any = kernels.hb_sample
        self._rows: Any = kernels.hb_sample_rows
        self._logprob = ctypes.c_float()
        self._out = ctypes.pointer(self._logprob)

    def __call__(
        self, logits: Floats, raw: Floats, allowed: Bits | None, params: SamplingParams, number: float
    ) -> tuple[int, float]:
        how = Sampling(params.temperature, params.top_p, params.min_p, params.top_k)
        bits = None if allowed is None else allowed.ctypes.data
        if (
            raw is logits and bits is None and not params.logprobs
        ):  # then the choice itself sees every logit that is none
            return self._call(logits.ctypes.data, logits.size, None, how, number, None, None), 0.0
        id = self._call(logits.ctypes.data, logits.size, bits, how, number, raw.ctypes.data, self._out)
        return id, self._logprob.value

    def rows(self, draws: Sequence[Draw]) -> list[tuple[int, float]]:
        """The same for each of several draws from equally many logits, on all threads."""
        choices = (NativeChoice * len(draws))()
        for choice, (logits, raw, allowed, params, number) in zip(choices, draws, strict=True):
            choice.logits = logits.ctypes.data
            if raw is not logits or allowed is not None or params.logprobs:
                choice.raw = raw.ctypes.data
            if allowed is not None:
                choice.allowed = allowed.ctypes.data
            choice.uniform = number
            choice.how = Sampling(params.temperature, params.top_p, params.min_p, params.top_k)
        self._rows(choices, len(draws), draws[0].logits.size)
        return [(choice.id, choice.logprob) for choice in choices]
