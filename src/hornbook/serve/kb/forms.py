"""The JSON forms of what was found and answered; the package's docstring lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hornbook.retrieve.highlight import spans
from hornbook.serve.kb.catalogue import Listed
from hornbook.serve.kb.names import plain, shown
from hornbook.types import Answer, Citation, Document, Hit, Sentence

AROUND = 1_500  # characters before and after a passage, unless told
MOST_AROUND = 20_000


def of_hits(hits: Sequence[Hit], documents: Mapping[str, Listed], query: str) -> list[dict[str, Any]]:
    """``documents``: by the path that a hit names; a hit of none of them was deleted meanwhile and is left out."""
    living = [hit for hit in hits if hit.document.path in documents]
    return [
        {
            "n": n,
            "score": round(hit.score, 6),
            "parts": {name: round(value, 6) for name, value in hit.parts.items()},
            "document": documents[hit.document.path].brief,
            "text": plain(hit.chunk.text),
            "start": hit.chunk.start,
            "end": hit.chunk.end,
            "page": hit.chunk.page,
            "section": shown(hit.chunk.section),
            "line": hit.chunk.line,
            "spans": spans(hit.chunk.text, query),
        }
        for n, hit in enumerate(living, 1)
    ]


def of_citation(citation: Citation, documents: Mapping[str, Listed]) -> dict[str, Any]:
    return {
        "n": citation.n,
        "document": documents[citation.path].brief,
        "page": citation.page,
        "section": shown(citation.section),
        "start": citation.start,
        "end": citation.end,
        "quote": plain(citation.quote),
    }


def of_sentence(sentence: Sentence) -> dict[str, Any]:
    return {
        "text": plain(sentence.text),
        "citations": list(sentence.citations),
        "support": round(sentence.support, 4),
        "quoted": sentence.quoted,
    }


def of_answer(answer: Answer, documents: Mapping[str, Listed], searched: Mapping[str, int]) -> dict[str, Any]:
    usage = answer.usage
    return {
        "question": answer.question,
        "answer": plain(answer.text),
        "sentences": [of_sentence(sentence) for sentence in answer.sentences],
        "withheld": [of_sentence(sentence) for sentence in answer.withheld],
        "citations": [of_citation(citation, documents) for citation in answer.citations],
        "abstained": answer.abstained,
        "searched": dict(searched),
        "model": answer.model,
        "usage": usage and {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens},
        "timings": {step: round(seconds, 4) for step, seconds in answer.timings.items()},
    }


def of_passage(listed: Listed, document: Document, start: int, end: int, around: int) -> dict[str, Any]:
    """A passage with what stands around it. Spans beyond the text are cut to it."""
    length = len(document.text)
    start = min(max(0, start), length)
    end = min(max(start, end), length)
    first, last = max(0, start - around), min(length, end + around)
    pieces = [piece for piece in document.pieces if piece.start < last and piece.end > first]
    place = next((piece for piece in pieces if piece.start <= start < piece.end), None)
    return {
        "document": listed.to_json(),
        "length": length,
        "start": start,
        "end": end,
        "page": place.page if place else None,
        "section": shown(place.section) if place else "",
        "before": plain(document.text[first:start]),
        "quote": plain(document.text[start:end]),
        "after": plain(document.text[end:last]),
        "before_start": first,
        "after_end": last,
        "places": [
            {
                "start": piece.start,
                "end": piece.end,
                "kind": piece.kind,
                "page": piece.page,
                "section": shown(piece.section),
                "line": piece.line,
            }
            for piece in pieces
        ],
    }
