"""Speculation: guess the next tokens cheaply, let the model judge all of them in one step, and change nothing.

    ... the cat sat on | draft: the mat .      one step of the model over "on the mat ." gives the logits after each
                         choice: the mat and   the model's own choice, made place by place as without a draft
                         kept:   the mat and   two guesses agreed, and the place after them is won as well

A draft without probabilities is judged by *agreement*: at every place the model chooses as it always does, with its
filters, its grammar and the random number of that place (uniforms.py), and what was guessed only decides how many places
of the step are of use. So the answer is the same, token for token, with speculation and without, sampled ones too.

A draft with probabilities was sampled from them, and is judged by the rule of Leviathan et al. 2023 (arXiv 2211.17192,
algorithm 1) and Chen et al. 2023 (arXiv 2302.01318): keep a token with probability min(1, p / q), else draw from
max(0, p - q). It keeps the most guesses that any rule can; the answer has the same distribution, but is another one.
So it serves only requests that name no seed, of which nobody can tell what they would have said.

Legend: k tokens of a draft, V vocabulary, p the model's probabilities after all filters, q the drafter's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from hornbook.types import SamplingParams

Probabilities: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"


class Draft(NamedTuple):
    """Guesses of what comes next in one sequence; may be empty."""

    tokens: list[int]  # k
    probabilities: Probabilities | None = None  # [k, V]: what each token was sampled from; None: judge by agreement


NOTHING = Draft([])


class Drafter(Protocol):
    """Makes drafts for many sequences. It follows each from its start, so that a guess need not read all of it again."""

    def start(self, key: int, ids: Sequence[int], params: SamplingParams, sample: int = 0) -> None:
        """A sequence begins: its prompt, how its tokens will be chosen, and which of several answers it is."""
        ...

    def accept(self, key: int, ids: Sequence[int]) -> None:
        """These tokens have been chosen, whatever was guessed."""
        ...

    def forget(self, key: int) -> None:
        """The sequence has ended. Of no effect on one that never began."""
        ...

    def propose(self, keys: Sequence[int], counts: Sequence[int]) -> list[Draft]:
        """A draft for each sequence, of at most so many tokens."""
        ...

    def begin_anew(self) -> None:
        """Forget all sequences, whatever state they were left in."""
        ...

    def close(self) -> None: ...


def kept_or_replaced(id: int, p: Probabilities, q: Probabilities, uniform: float) -> tuple[int, bool]:
    """Judge a token that was sampled from q [V]: -> (the token to use, whether it is the guess).

    One number in [0, 1) decides both: below p / q the guess is kept, and what is above is stretched to [0, 1) again and
    inverts the sum of the residual max(0, p - q). p and q sum to 1.
    """
    keep = min(1.0, float(p[id]) / float(q[id])) if q[id] > 0 else 0.0
    if uniform < keep:
        return id, True
    residual = np.maximum(p - q, 0.0)
    total = np.cumsum(residual)
    if not total[-1] > 0:  # p equals q but for rounding: nothing was to be refused
        return id, True
    place = int(np.searchsorted(total, (uniform - keep) / (1.0 - keep) * total[-1], side="right"))
    return min(place, int(np.searchsorted(total, total[-1]))), False


# -------------------------------------------------------------------------------------------------- prompt lookup


class PromptLookup:
    """Guesses that what followed the last few tokens when they stood before follows them again: quotes, code, tables.

    Source: Saxena 2023, "Prompt Lookup Decoding"; Yang et al. 2023 (arXiv 2304.04487, "LLMA"). Every token costs the same
    however long the sequence: the place after each run of 2, 3 and 4 tokens is kept in a dictionary, the latest one wins.
    """

    def __init__(self, shortest: int = 2, longest: int = 4) -> None:
        self.sizes = range(longest, shortest - 1, -1)
        self._sequences: dict[int, list[int]] = {}
        self._followed: dict[int, dict[tuple[int, ...], int]] = {}  # of a sequence: run -> place of the token after it

    def start(self, key: int, ids: Sequence[int], params: SamplingParams, sample: int = 0) -> None:
        self._sequences[key] = []
        self._followed[key] = {}
        self.accept(key, ids)

    def accept(self, key: int, ids: Sequence[int]) -> None:
        known, followed = self._sequences[key], self._followed[key]
        for id in ids:
            place = len(known)
            for size in self.sizes:
                if size <= place:
                    followed[tuple(known[place - size :])] = place
            known.append(id)

    def forget(self, key: int) -> None:
        self._sequences.pop(key, None)
        self._followed.pop(key, None)

    def begin_anew(self) -> None:
        self._sequences, self._followed = {}, {}

    def close(self) -> None:
        self.begin_anew()

    def propose(self, keys: Sequence[int], counts: Sequence[int]) -> list[Draft]:
        return [self._guess(key, count) for key, count in zip(keys, counts, strict=True)]

    def _guess(self, key: int, count: int) -> Draft:
        known, followed = self._sequences[key], self._followed[key]
        for size in self.sizes:
            place = followed.get(tuple(known[len(known) - size :])) if size <= len(known) else None
            if place is not None:
                period = len(known) - place  # a guess that reaches the end of what is known goes round
                return Draft([known[place + i % period] for i in range(count)])
        return NOTHING


# --------------------------------------------------------------------------------------------------------- payoff

RETRY = (16, 512)  # steps without a draft before the first retry, and before the last ones


class Payoff:
    """How many tokens to draft, so that a step never costs more than it brings: none, where it does not pay.

    A step over T tokens takes about ``base + each * T`` seconds; a drafter takes ``drafting`` seconds a token. With B
    sequences and no draft, a token costs (base + each * B) / B. The j-th token of a draft is of use with probability
    a^j, where a is how often the sequence's guesses have been right, so it pays while

        a^j * (base + each * B) / B  >  each + drafting

    The two sides are measured as the engine runs: the line through the latest steps (least squares, old ones fade), and
    for each sequence the share of guesses that were right. A sequence for which nothing pays is tried again after 16
    steps without a draft, then 32, up to 512. Nothing here changes what is generated, only how fast.
    """

    FADE = 0.98  # the weight of a step beside the next one

    def __init__(self) -> None:
        self._steps = 0
        self._mean = (0.0, 0.0)  # tokens and seconds of a step, old ones faded
        self._spread = (0.0, 0.0)  # sums of T * T and T * seconds, both measured from their means
        self._drafting = (0.0, 0.0)  # faded sums of tokens and seconds
        self._right = (1.0, 2.0)  # right and judged guesses of all sequences, faded: a new one begins with their share
        self._sequences: dict[int, _Guesses] = {}

    def took(self, tokens: int, seconds: float) -> None:
        """A step that only continued sequences ran over so many tokens."""
        self._steps += 1
        if self._steps > 8:
            seconds = min(seconds, 4 * self._mean[1])  # the machine was busy elsewhere
        more, longer = tokens - self._mean[0], seconds - self._mean[1]
        weight = max(1 / self._steps, 1 - self.FADE)
        self._mean = self._mean[0] + weight * more, self._mean[1] + weight * longer
        if self._steps > 1 and abs(more) >= 0.5:  # steps of the usual size say nothing of what a token more costs
            squares, products = self._spread
            self._spread = self.FADE * squares + more * more, self.FADE * products + more * longer

    def drafted(self, tokens: int, seconds: float) -> None:
        """The drafter took so long for so many tokens."""
        if tokens:
            self._drafting = (self._drafting[0] * self.FADE + tokens, self._drafting[1] * self.FADE + seconds)

    def judged(self, key: int, proposed: int, kept: int) -> None:
        """Of a sequence's draft so many tokens were right. Those after the first wrong one were not judged."""
        judged = min(kept + 1, proposed)
        self._right = (self._right[0] * 0.99 + kept, self._right[1] * 0.99 + judged)
        self._of(key).learn(kept, judged)

    def forget(self, key: int) -> None:
        self._sequences.pop(key, None)

    def plan(self, keys: Sequence[int], most: int) -> list[int]:
        """How many tokens to draft for each of the sequences of the next step, from 0 to ``most``."""
        base, each = self.costs()
        now = (base + each * len(keys)) / max(1, len(keys))
        more = each + (self._drafting[1] / self._drafting[0] if self._drafting[0] else 0.0)
        return [self._of(key).count(more / now, most) for key in keys]

    def costs(self) -> tuple[float, float]:
        """(seconds of a step beside its tokens, seconds of each token); until it was measured a token is a twentieth."""
        tokens, level = self._mean
        if not self._steps:
            return 1.0, 0.05
        squares, products = self._spread
        usual = 0.05 * level / (1 + 0.05 * tokens)
        each = (products + 0.25 * usual) / (squares + 0.25)
        each = min(max(each, 0.0), level / tokens)
        return level - each * tokens, each

    def _of(self, key: int) -> _Guesses:
        if key not in self._sequences:
            self._sequences[key] = _Guesses(self._right[0] / self._right[1])
        return self._sequences[key]


class _Guesses:
    """How often one sequence's guesses have been right, the latest counting most; and when to try again."""

    CERTAIN = 0.98  # no share is taken to be more

    def __init__(self, share: float) -> None:
        self._right, self._judged = 4 * share, 4.0
        self._wait, self._waited = RETRY[0], 0

    def learn(self, kept: int, judged: int) -> None:
        self._right, self._judged = self._right * 0.9 + kept, self._judged * 0.9 + judged

    def count(self, price: float, most: int) -> int:
        """The j-th guess pays while share^j > price. One guess now and then, where none does but one might."""
        share = min(self._right / self._judged, self.CERTAIN)
        count = 0
        while count < most and share ** (count + 1) > price:
            count += 1
        if count:
            self._wait, self._waited = RETRY[0], 0
        elif price < self.CERTAIN and most:
            self._waited += 1
            if self._waited > self._wait:
                self._wait, self._waited = min(2 * self._wait, RETRY[1]), 0
                return 1
        return count
