"""Citations that hold: which span of the documents supports a sentence, and the answer's text with its [n].

A citation is a span of at most three sentences, ``document.text[start:end] == quote``. Numbers run in order of first
use; two sentences that rest on one span share its number. An [n] in the model's writing or in a document is not a
citation and never looks like one: it is taken out of the first and written (n) in the second.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from hornbook.rag.evidence import Window
from hornbook.rag.language import Language, TermWeights, content_terms, language_of
from hornbook.rag.prompt import speaks_to_an_assistant
from hornbook.rag.support import THRESHOLD, support
from hornbook.types import Citation, Sentence

_BRACKETED = re.compile(r"[\[［【](\s*\d+(?:\s*[,，–-]\s*\d+)*\s*)[\]］】]")
_LONGER = 0.01  # a span of one sentence is preferred to one of two that supports no better

ABSTAINING: dict[Language, str] = {
    "en": "The documents do not answer this.",
    "zh": "文档没有回答这个问题。",
    "ja": "文書はこの質問に答えていません。",
}
_QUOTING: dict[Language, str] = {"en": "The documents say: ", "zh": "文档中写道：", "ja": "文書にはこうあります："}
UNSUPPORTED: dict[Language, str] = {
    "en": "(not in the documents)",
    "zh": "（文档中没有依据）",
    "ja": "（文書に根拠なし）",
}


def without_marks(text: str) -> str:
    """The model's writing without what looks like citations, which it does not get to make, and without a list's dash."""
    bare = re.sub(r"\A\s*[-*•]\s+", "", _BRACKETED.sub("", text))
    return re.sub(r"\s+([.,;:!?])", r"\1", bare).strip()


def attribute(
    sentence: str, windows: Sequence[Window], question: str, weights: TermWeights
) -> tuple[float, Window | None]:
    """The window that supports a sentence best, and how well; below ``THRESHOLD`` it does not support it.

    Sentences that speak to an assistant support nothing: a model that obeyed one would otherwise be cited for it.
    """
    wanted = set(content_terms(sentence))
    best: tuple[float, float, Window | None] = (0.0, 0.0, None)
    for window in windows:
        if not wanted & set(content_terms(window.text)) or speaks_to_an_assistant(window.text):
            continue
        document = window.hit.document
        context = f"{document.title} {window.hit.chunk.section} {question if _names_what(question, window) else ''}"
        source = [document.text[start:end] for start, end in window.sentences]
        score = support(sentence, source, context=context, weights=weights)
        value = score - _LONGER * (len(window.sentences) - 1)
        if score and (value, window.score) > best[:2]:
            best = (value, window.score, window)
    if best[2] is None:
        return 0.0, None
    return best[0] + _LONGER * (len(best[2].sentences) - 1), best[2]


def _names_what(question: str, window: Window) -> bool:
    """Whether what the question is about is named in the passage around the window, so that "it" may stand for it."""
    asked = set(content_terms(question))
    return len(asked & set(content_terms(window.hit.chunk.text))) * 2 >= len(asked)


@dataclass
class Composer:
    """Builds the answer sentence by sentence; ``piece`` texts joined are the answer's text."""

    question: str
    strict: bool
    sentences: list[Sentence] = field(default_factory=list)
    withheld: list[Sentence] = field(default_factory=list)
    citations: list[Citation] = field(default_factory=list)
    text: str = ""
    _numbers: dict[tuple[str, int, int], int] = field(default_factory=dict)

    def written(self, sentence: str, score: float, window: Window | None) -> str:
        """Add a sentence of the model's; returns what it adds to the text ("" where it is withheld)."""
        if window is not None and score >= THRESHOLD:
            number = self._cite(window)
            self.sentences.append(Sentence(sentence, (number,), score))
            return self._add(f"{sentence} [{number}]")
        unsupported = Sentence(sentence, (), score)
        if self.strict:
            self.withheld.append(unsupported)
            return ""
        self.sentences.append(unsupported)
        return self._add(f"{sentence} {UNSUPPORTED[language_of(self.question)]}")

    def quoted(self, window: Window, score: float) -> str:
        """Add the documents' own words, as a quotation."""
        language = language_of(self.question)
        shown = _BRACKETED.sub(r"(\1)", " ".join(window.text.split()))
        number = self._cite(window)
        self.sentences.append(Sentence(shown, (number,), score, quoted=True))
        return self._add(f"{_QUOTING[language]}“{shown}” [{number}]")

    def _add(self, piece: str) -> str:
        piece = (" " if self.text else "") + piece
        self.text += piece
        return piece

    def _cite(self, window: Window) -> int:
        document, chunk = window.hit.document, window.hit.chunk
        key = (document.id, window.start, window.end)
        if key not in self._numbers:
            n = self._numbers[key] = len(self._numbers) + 1
            place = next((piece for piece in document.pieces if piece.start <= window.start < piece.end), chunk)
            self.citations.append(
                Citation(n, document.path, place.page, place.section, window.start, window.end, window.text)
            )
        return self._numbers[key]
