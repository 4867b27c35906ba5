"""What a short answer is worth, in whatever language: by the measures of SQuAD where words stand apart, by those of CMRC where
the right answer has Chinese characters in it. Of several right answers the best counts."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hornbook.evals.metrics import chinese, squad

_CHINESE = re.compile("[\u3400-\u9fff]")


def exact(text: str, golds: Sequence[str]) -> float:
    """1.0 where a text is a right answer: capitals, punctuation and a, an, the aside."""
    return max(((chinese if _CHINESE.search(gold) else squad).exact(text, [gold]) for gold in golds), default=0.0)


def f1(text: str, golds: Sequence[str]) -> float:
    """0 to 1: how well the words (of Chinese, the characters of the longest common run) are those of a right answer."""
    return max(((chinese if _CHINESE.search(gold) else squad).f1(text, [gold]) for gold in golds), default=0.0)


def contains(text: str, golds: Sequence[str]) -> float:
    """1.0 where a right answer stands in a text, as whole words."""
    return float(any(_has(text, gold) for gold in golds))


def _has(text: str, gold: str) -> bool:
    if _CHINESE.search(gold):
        return "".join(chinese.segments(gold)) in "".join(chinese.segments(text))
    bare = squad.normalised(gold)
    return bool(bare) and f" {bare} " in f" {squad.normalised(text)} "
