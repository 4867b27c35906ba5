"""Which sentences of the hits bear on the question, and whether they bear on it enough to answer at all.

    hit's chunk     s1 s2 s3 s4 s5          each run of one to three sentences is a window
    windows         [s1] [s1 s2] [s1 s2 s3] [s2] [s2 s3] ...
    score           the share of the question's terms that the window holds, and how near its hit is as a vector

The decision to answer is a logistic regression over two numbers: the share of the question's terms (weighted, see
TermWeights) that the best hit holds, its headings included, and the cosine of the question and the best hit. An encoder that cannot read the
question's script says nothing, so that questions not in Latin letters are decided by the terms alone. The coefficients
come from the calibration half of the planted set: ``python benchmarks/ask.py calibrate``; docs/results/ask.md has the
figures on the other half, and docs/decisions/0007-citations.md the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hornbook.rag.language import TermWeights, content_terms, is_latin, question_terms
from hornbook.retrieve import sentences
from hornbook.retrieve.chunk import context
from hornbook.types import Hit

MAX_SENTENCES = 3
_LONGER = 0.02  # what each further sentence of a window must add to be worth reading
_NEARNESS = 0.5  # weight of the hit's cosine beside the coverage; both lie in [0, 1]


@dataclass(frozen=True, slots=True)
class Window:
    """One to three neighbouring sentences of a hit: ``hit.document.text[start:end]``, at most ``MAX_SENTENCES``."""

    hit: Hit
    start: int
    end: int
    sentences: tuple[tuple[int, int], ...]
    score: float = 0.0  # how much it bears on the question
    coverage: float = 0.0  # the share of the question's terms that it holds; those of its headings count half

    @property
    def text(self) -> str:
        return self.hit.document.text[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The windows of all hits, best first, and the probability that the hits answer the question."""

    windows: tuple[Window, ...]
    probability: float
    coverage: float
    nearness: float | None  # None: the question is not in Latin letters, or the index has no vectors

    @property
    def answers(self) -> bool:
        return bool(self.windows) and self.probability >= 0.5


def sentences_of(hit: Hit) -> list[tuple[int, int]]:
    """The sentences of a hit's chunk, as spans of its document; of tables and code, lines; headings left out."""
    chunk, text = hit.chunk, hit.document.text
    spans: list[tuple[int, int]] = []
    for piece in hit.document.pieces:
        start, end = max(piece.start, chunk.start), min(piece.end, chunk.end)
        if start >= end or piece.kind == "heading":
            continue
        if piece.kind in ("table", "code"):
            spans += _lines(text, start, end)
        else:
            spans += [(start + a, start + b) for a, b in sentences.split(text[start:end])]
    if not spans:  # a document without pieces, or a chunk that is only a heading
        spans = [(chunk.start + a, chunk.start + b) for a, b in sentences.split(text[chunk.start : chunk.end])]
    return spans


def _lines(text: str, start: int, end: int) -> list[tuple[int, int]]:
    spans, at = [], start
    for line in text[start:end].split("\n"):
        bare = line.strip()
        if bare:
            begin = at + line.index(bare[0])
            spans.append((begin, begin + len(bare)))
        at += len(line) + 1
    return spans


def windows_of(hit: Hit) -> list[Window]:
    """Every run of one to ``MAX_SENTENCES`` neighbouring sentences."""
    spans = sentences_of(hit)
    return [
        Window(hit, spans[first][0], spans[last][1], tuple(spans[first : last + 1]))
        for first in range(len(spans))
        for last in range(first, min(first + MAX_SENTENCES, len(spans)))
    ]


def widen(window: Window) -> Window:
    """The window with the neighbours that make it ``MAX_SENTENCES`` long: the sentence after first, then the one before.

    For a quotation that stands alone: the answer to a question often follows the sentence that repeats its words.
    """
    spans = sentences_of(window.hit)
    first = spans.index(window.sentences[0])
    last = first + len(window.sentences) - 1
    while last - first + 1 < min(MAX_SENTENCES, len(spans)):
        if last + 1 < len(spans):
            last += 1
        else:
            first -= 1
    kept = tuple(spans[first : last + 1])
    return replace(window, start=kept[0][0], end=kept[-1][1], sentences=kept)


def gather(question: str, hits: Sequence[Hit], weights: TermWeights) -> Evidence:
    """Rank the windows of the hits and judge whether they answer."""
    asked = {term: weights(term) for term in question_terms(question)}
    total = sum(asked.values())
    if not hits or not total:
        return Evidence((), 0.0, 0.0, None)
    latin = is_latin(question)

    def covered(held: set[str]) -> float:
        return sum(weight for term, weight in asked.items() if term in held) / total

    ranked = []
    coverage = 0.0
    for hit in hits:
        above = set(content_terms(context(hit.document, hit.chunk.section)))
        coverage = max(coverage, covered(above.union(content_terms(hit.chunk.text))))
        near = hit.parts.get("dense", 0.0) if latin else 0.0
        held_by = {span: set(content_terms(hit.document.text[slice(*span)])) for span in sentences_of(hit)}
        for window in windows_of(hit):
            held = set().union(*(held_by[span] for span in window.sentences))
            # Half for its own words: under a heading that is the question, every sentence would be as good as any.
            own = (covered(held) + covered(held | above)) / 2
            score = own + _NEARNESS * near - _LONGER * (len(window.sentences) - 1)
            ranked.append(replace(window, score=score, coverage=own))
    ranked.sort(key=lambda window: -window.score)

    dense = [hit.parts["dense"] for hit in hits if "dense" in hit.parts]
    nearness = max(dense) if dense and latin else None
    return Evidence(tuple(ranked), probability(coverage, nearness), coverage, nearness)


# Logistic regression: log-odds that the hits answer. The threshold is folded into the constant: 0.5 is the decision.
_BOTH = (-6.22, 4.94, 8.18)  # constant, coverage, nearness
_FARTHEST = 0.25
_TERMS_ALONE = (-4.35, 9.91)  # constant, coverage


def probability(coverage: float, nearness: float | None) -> float:
    """That the hits answer the question, 0 to 1, calibrated so that 0.5 is where Hornbook abstains."""
    if nearness is not None and nearness < _FARTHEST:
        return 0.0  # all of the words and nothing of the meaning: "the capital of France" in a list of examples
    if nearness is None:
        odds = _TERMS_ALONE[0] + _TERMS_ALONE[1] * coverage
    else:
        odds = _BOTH[0] + _BOTH[1] * coverage + _BOTH[2] * nearness
    return 1 / (1 + math.exp(-odds))
