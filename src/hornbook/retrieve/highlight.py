"""Where the words of a query stand in a text: the same words that BM25 counts (analyze.py), as spans of the text.

    spans("The batches were doubled.", "batch size")     -> [(4, 11)]
    spans("成年大熊猫体重约100公斤。", "大熊猫的体重")      -> [(2, 7)]

A word of the text counts where any of its terms is one of the query's. In scripts without spaces it is pairs of characters
that must agree, and a single character only where the query has it standing alone.
"""

from __future__ import annotations

from hornbook.retrieve import analyze


def spans(text: str, query: str) -> list[tuple[int, int]]:
    """[start, end) of what to mark, in order, apart from one another."""
    wanted = set(analyze.terms(query))
    if not wanted:
        return []
    found: list[tuple[int, int]] = []
    for start, end, unspaced in analyze.runs(text):
        if unspaced:
            found += _pairs(text, start, end, wanted)
        elif wanted.intersection(analyze.terms(text[start:end])):
            found.append((start, end))
    return _joined(found)


def _pairs(text: str, start: int, end: int, wanted: set[str]) -> list[tuple[int, int]]:
    held = {pair for term in wanted if len(term) == 2 for pair in term}
    alone = {term for term in wanted if len(term) == 1} - held
    pairs = [(at, at + 2) for at in range(start, end - 1) if text[at : at + 2] in wanted]
    return pairs + [(at, at + 1) for at in range(start, end) if text[at] in alone]


def _joined(found: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Overlapping and touching spans as one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
