"""What several checks share: how a count is held against a bound, and how a row's own words are looked for."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, TypeAlias

Relation: TypeAlias = Literal["less than", "at least"]
RELATIONS: tuple[Relation, ...] = ("less than", "at least")


def holds(count: int, relation: Relation, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


@lru_cache(maxsize=1024)
def pattern(words: str, *, around: str = "{}", case: bool = False) -> re.Pattern[str]:
    r"""The words of a row as the benchmark looks for them: as a regular expression, in any case unless ``case``.

    ``around``: what the words stand in, such as r"\b{}\b" for whole words. Words that are no expression ("C++") stand for
    themselves, where the reference stops with an error.
    """
    flags = re.NOFLAG if case else re.IGNORECASE
    try:
        return re.compile(around.replace("{}", words), flags)
    except re.error:
        return re.compile(around.replace("{}", re.escape(words)), flags)
