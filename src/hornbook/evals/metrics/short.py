"""What a short answer is worth, in whatever language: by the measures of SQuAD where words stand apart, by those of CMRC where
there are Chinese characters in it. Of several right answers the best counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import ModuleType

from hornbook.evals.metrics import chinese, squad

_CHINESE = re.compile("[\u3400-\u9fff]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff]")  # Thai, Lao, Burmese, Khmer, kana


def exact(text: str, golds: Sequence[str]) -> float:
    """1.0 where a text is a right answer: capitals, punctuation and a, an, the aside."""
    return max((_measures(text, gold).exact(text, [gold]) for gold in golds), default=0.0)


def f1(text: str, golds: Sequence[str]) -> float:
    """0 to 1: how well the words (of Chinese, the characters of the longest common run) are those of a right answer."""
    return max((_measures(text, gold).f1(text, [gold]) for gold in golds), default=0.0)


def contains(text: str, golds: Sequence[str]) -> float:
    """1.0 where a right answer stands in a text, as whole words where words stand apart."""
    return float(any(_has(text, gold) for gold in golds))


def _measures(text: str, gold: str) -> ModuleType:
    return chinese if _CHINESE.search(gold + text) else squad


def _has(text: str, gold: str) -> bool:
    if _UNSPACED.search(gold):
        return "".join(chinese.segments(gold)) in "".join(chinese.segments(text))
    cut = chinese.segments if _CHINESE.search(gold + text) else lambda whole: squad.normalised(whole).split()
    bare = " ".join(cut(gold))
    return bool(bare) and f" {bare} " in f" {' '.join(cut(text))} "
