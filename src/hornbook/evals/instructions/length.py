"""How much a response holds: sentences, words, paragraphs."""

from __future__ import annotations

import re

from hornbook.evals.instructions.parts import Relation, holds
from hornbook.evals.instructions.sentences import sentences

_WORD = re.compile(r"\w+")
_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_QUOTES = "'", '"'
_ENDS_WORD = re.compile(r"[.,?!'\"]")


def number_sentences(text: str, *, num_sentences: int, relation: Relation) -> bool:
    return holds(len(sentences(text)), relation, num_sentences)


def number_words(text: str, *, num_words: int, relation: Relation) -> bool:
    """A word is a run of letters, digits and underscores: "don't" is two, and so is "1,200"."""
    return holds(sum(1 for _ in _WORD.finditer(text)), relation, num_words)


def number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs, with a line of three asterisks between them. One may stand before the first and after the
    last; nothing between two of them is a fault."""
    parts = [part.strip() for part in _DIVIDER.split(text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Exactly so many paragraphs, with an empty line between them, and one of them begins with a word.

    As in the reference, further empty lines make no paragraph, but do count for which is the nth.
    """
    parts = text.split("\n\n")
    filled = sum(1 for part in parts if part.strip())
    if filled != num_paragraphs or nth_paragraph > filled:
        return False
    words = parts[nth_paragraph - 1].split(maxsplit=1)
    if not words:
        return False
    bare = words[0]
    for quote in _QUOTES:
        bare = bare.lstrip(quote)
    return _ENDS_WORD.split(bare, maxsplit=1)[0].lower() == first_word.lower()
