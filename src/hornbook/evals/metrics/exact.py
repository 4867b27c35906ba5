"""Whether a text is one of the right answers, letter by letter, once what does not matter is taken away."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)  # of ASCII


def exact_match(
    *, ignore: Sequence[str] = (), case: bool = True, punctuation: bool = True
) -> Callable[[str, Sequence[str]], float]:
    """1.0 where a text equals a right answer, else 0.0, as lm-evaluation-harness' exact_match.

    ignore       patterns whose matches are taken away from both, one pattern after the other
    case         whether capitals matter
    punctuation  whether the punctuation of ASCII matters
    """
    patterns = [re.compile(pattern) for pattern in ignore]

    def bare(text: str) -> str:
        for pattern in patterns:
            text = pattern.sub("", text)
        if not case:
            text = text.lower()
        return text if punctuation else text.translate(_PUNCTUATION)

    def worth(text: str, golds: Sequence[str]) -> float:
        said = bare(text)
        return float(any(said == bare(gold) for gold in golds))

    return worth


def same_number(text: str, golds: Sequence[str]) -> float:
    """1.0 where a text is a number, "$1,200." too, that is within a millionth of a right answer, else 0.0."""
    said = _number(text)
    return float(any(abs(said - _number(gold)) <= 1e-6 for gold in golds))  # NaN is near to nothing


def _number(text: str) -> float:
    try:
        return float(re.sub(r"[,$\s_]|\.$", "", text))
    except ValueError:
        return math.nan
