"""The official measures of SQuAD 2.0 (arXiv 1806.03822), for answers that may be "there is none".

A text is compared in lower case, without the punctuation of ASCII, without a, an and the, and with single spaces. The empty
text says that there is no answer, and is the one right answer where there is none.

    exact            the same text                      of the right answers, the best counts
    f1               the words in common: the harmonic mean of their shares of either text
    HasAns_, NoAns_  over the questions with an answer, and without
    best_            had the model kept silent wherever it thought silence likelier than some threshold: with the best threshold
                     of all, which is chosen with the right answers in sight and thus promises too much
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hornbook.evals.metric import Column, Columns, Metric

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> str:
    """A text as SQuAD compares it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(text: str, golds: Sequence[str]) -> float:
    """1.0 where a text is one of the right answers, else 0.0."""
    said = normalised(text)
    return float(any(said == normalised(gold) for gold in _comparable(golds)))


def f1(text: str, golds: Sequence[str]) -> float:
    """0 to 1: how well the words of a text are those of the right answer that it comes nearest to."""
    said = normalised(text).split()
    return max(overlap(said, normalised(gold).split()) for gold in _comparable(golds))


def overlap(said: Sequence[str], right: Sequence[str]) -> float:
    """The harmonic mean of the shares that the pieces in common have of either; of two empty texts 1.0, of one 0.0."""
    if not said or not right:
        return float(not said and not right)
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right))


def _comparable(golds: Sequence[str]) -> Sequence[str]:
    """The right answers of which something is left to compare; where there is none, silence."""
    return [gold for gold in golds if normalised(gold)] or [""]


def grade(text: str, golds: Sequence[str], silence: float) -> Mapping[str, float]:
    """The columns of METRICS for one answer. ``silence``: how likely the model held it that there is none, 0 to 1."""
    same, near, answerable = exact(text, golds), f1(text, golds), bool(golds)
    return {
        "exact": same,
        "f1": near,
        "HasAns_exact": same if answerable else math.nan,
        "HasAns_f1": near if answerable else math.nan,
        "NoAns_exact": math.nan if answerable else same,
        "NoAns_f1": math.nan if answerable else near,
        "answerable": float(answerable),
        "answered": float(bool(text)),
        "silence": silence,
    }


def best(score: str) -> Callable[[Columns], Column]:
    """The mean of a column, had every question been left without an answer whose silence is above the best threshold."""
    return lambda columns: _best(score, columns)[0]


def threshold(score: str) -> Callable[[Columns], Column]:
    """That threshold."""
    return lambda columns: _best(score, columns)[1]


def _best(score: str, columns: Columns) -> tuple[Column, Column]:
    """From total silence (which is right for each question without an answer) on, the questions are answered one after the
    other, those first that the model was surest of: each answer adds its worth, or takes away the worth of silence."""
    answerable, silence = np.asarray(columns["answerable"]) > 0, np.asarray(columns["silence"])
    change = np.where(answerable, columns[score], -np.asarray(columns["answered"]))
    rising, gained = _rising(silence, change)
    silent = (~answerable).sum(-1, keepdims=True).astype(np.float64)
    totals = np.concatenate([silent, gained], -1).cumsum(-1)
    highest = totals.argmax(-1, keepdims=True)
    thresholds = np.concatenate([np.zeros_like(silent), rising], -1)
    return (
        np.take_along_axis(totals, highest, -1)[..., 0] / answerable.shape[-1],
        np.take_along_axis(thresholds, highest, -1)[..., 0],
    )


def _rising(silence: Column, change: Column) -> tuple[Column, Column]:
    """Both by rising silence, the items of one silence in the order of the data, as officially.

    Sorting without regard to that order takes a quarter of the time, and gives the same where what is tied is alike, such as
    an item that was drawn twice.
    """
    for kind in ("quicksort", "stable"):
        order = np.argsort(silence, -1, kind=kind)
        rising, sorted_change = (np.take_along_axis(one, order, -1) for one in (silence, change))
        if not ((np.diff(rising) == 0) & (np.diff(sorted_change) != 0)).any():
            break
    return rising, sorted_change


METRICS = (
    *(Metric(name) for name in ("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1")),
    Metric("best_exact", total=best("exact")),
    Metric("best_exact_threshold", percent=False, total=threshold("exact")),
    Metric("best_f1", total=best("f1")),
    Metric("best_f1_threshold", percent=False, total=threshold("f1")),
)
