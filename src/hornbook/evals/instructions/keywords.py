"""Which words and letters a response holds."""

from __future__ import annotations

from collections.abc import Sequence

from hornbook.evals.instructions.parts import Relation, holds, pattern


def existence(text: str, *, keywords: Sequence[str]) -> bool:
    """Every keyword occurs, also within a longer word."""
    return all(pattern(word).search(text) for word in keywords)


def frequency(text: str, *, keyword: str, frequency: int, relation: Relation) -> bool:
    """A keyword occurs so many times, also within longer words."""
    return holds(sum(1 for _ in pattern(keyword.strip()).finditer(text)), relation, frequency)


def forbidden_words(text: str, *, forbidden_words: Sequence[str]) -> bool:
    """None of these occurs as a word of its own."""
    return not any(pattern(word, around=r"\b{}\b").search(text) for word in forbidden_words)


def letter_frequency(text: str, *, letter: str, let_frequency: int, let_relation: Relation) -> bool:
    """A letter occurs so many times, capital or not.

    Two rows of the data ask for a sign, "!" or "#". It is counted, where the reference draws a letter at random instead.
    """
    return holds(text.lower().count(letter.lower()), let_relation, let_frequency)
