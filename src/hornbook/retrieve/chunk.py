"""Passages: a document cut by its structure, then by sentences, to what the embedding model reads at once.

    document   | heading | text ..................... | table ........ | heading | text ... |
    groups     [ heading   text ..................... | table ........ ][ heading   text ... ]    a page, a section
    units        heading   s1 s2 s3 s4 s5 s6 s7 s8 s9   whole table
    chunks     [ heading   s1 s2 s3 s4 ]
                                 [ s4 s5 s6 s7 s8 ]
                                             [ s8 s9    whole table ]

A chunk never crosses a page or a section, so that its place is true of all of it. Tables and code stay whole where
they fit and break at line ends where they do not. Neighbouring chunks of a group share up to ``overlap`` tokens of
whole sentences. A "sentence" longer than a chunk (no punctuation, base64, minified code) is cut at spaces, or anywhere.
Where a group needs several chunks they come out about equally long, rather than full ones and a scrap.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from hornbook.retrieve import sentences
from hornbook.types import Chunk, Document, Piece

BUDGET = 200  # tokens of a passage; docs/results/retrieval.md has the measurement
OVERLAP = 32
_CONTEXT_ROOM = 200  # letters of a passage's context, about 50 tokens; a digit counts as two, beyond ASCII four
_CHARACTERS_PER_TOKEN = 8  # a longer run than this per counted token is not language: WordPiece counts base64 as one

CountTokens = Callable[[str], int]


class _Unit(NamedTuple):
    start: int
    end: int
    tokens: int


def chunks(
    document: Document, count_tokens: CountTokens, *, budget: int = BUDGET, overlap: int = OVERLAP
) -> Iterator[Chunk]:
    """The passages of a document, in order; ``chunk.text == document.text[chunk.start:chunk.end]``.

    Every visible character of a piece lies in at least one chunk. A document without pieces is one piece of text.
    """
    assert 0 <= overlap < budget
    pieces = document.pieces or (Piece(0, len(document.text)),)
    ordinal = 0
    for group in _groups(pieces):
        units = [unit for piece in group for unit in _units(document.text, piece, count_tokens, budget)]
        for packed in _pack(units, budget, overlap):
            start = packed[0].start
            end = start + len(document.text[start : packed[-1].end].rstrip())  # a run of spaces may be cut in two
            first = next((piece for piece in group if piece.end > start), group[0])
            place = next((piece for piece in reversed(group) if piece.start < end), first)
            yield Chunk(
                id=f"{document.id}:{ordinal}",
                document_id=document.id,
                text=document.text[start:end],
                start=start,
                end=end,
                page=place.page,
                section=place.section,
                line=first.line,
            )
            ordinal += 1


def context(document: Document, section: str) -> str:
    """What a passage is about, for the retrievers: ``title > section``, without saying the same twice."""
    parts = section.split(" > ") if section else []
    if document.title and document.title not in parts:
        parts.insert(0, document.title)
    line = " > ".join(parts)
    if _room(line) <= _CONTEXT_ROOM:
        return line
    start = end = 0  # keep both ends: the document's name and the nearest heading
    while _room(line[: start + 1]) <= _CONTEXT_ROOM // 2:
        start += 1
    while _room(line[len(line) - end - 1 :]) <= _CONTEXT_ROOM // 2:
        end += 1
    return f"{line[:start]} … {line[len(line) - end :]}"


def _room(text: str) -> int:
    return sum(4 if not c.isascii() else 1 if c.isalpha() or c == " " else 2 for c in text)


def _groups(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Runs of one page and section; a heading with nothing under it joins the section that follows on its page."""
    held: list[Piece] = []
    for (page, _), run in groupby(pieces, key=lambda piece: (piece.page, piece.section)):
        group = list(run)
        if held and held[-1].page != page:
            yield held
            held = []
        held += group
        if any(piece.kind != "heading" for piece in group):
            yield held
            held = []
    if held:
        yield held


def _units(text: str, piece: Piece, count_tokens: CountTokens, budget: int) -> Iterator[_Unit]:
    """The smallest spans that are kept whole: a heading, a sentence, a table or code block that fits, else its lines."""
    if piece.kind in ("table", "code", "heading"):
        tokens = _cost(text[piece.start : piece.end], count_tokens)
        if tokens <= budget:
            yield _Unit(piece.start, piece.end, tokens)
            return
        spans = _line_spans(text, piece.start, piece.end)
    else:
        spans = [(a + piece.start, b + piece.start) for a, b in sentences.split(text[piece.start : piece.end])]
    for start, end in spans:
        tokens = _cost(text[start:end], count_tokens)
        if tokens <= budget:
            yield _Unit(start, end, tokens)
        else:
            yield from _cut(text, start, end, count_tokens, budget)


def _line_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    spans = []
    at = start
    for line in text[start:end].split("\n"):
        stripped = line.strip()
        if stripped:
            begin = at + line.index(stripped[0])
            spans.append((begin, begin + len(stripped)))
        at += len(line) + 1
    return spans


def _cost(text: str, count_tokens: CountTokens) -> int:
    """Tokens of a text; at least one per eight characters, so that what a tokenizer cannot read still costs."""
    if len(text) > 64 * BUDGET * _CHARACTERS_PER_TOKEN:  # too long whatever it holds: do not tokenize megabytes
        return len(text) // _CHARACTERS_PER_TOKEN
    return max(count_tokens(text), -(-len(text) // _CHARACTERS_PER_TOKEN))


def _cut(text: str, start: int, end: int, count_tokens: CountTokens, budget: int) -> Iterator[_Unit]:
    """Cut a span that is too long: at the last space of the final third of what fits, else between two characters."""
    room = budget * _CHARACTERS_PER_TOKEN
    while start < end:
        size = min(room, end - start)
        tokens = _cost(text[start : start + size], count_tokens)
        while tokens > budget and size > 1:
            size = max(1, min(size - 1, int(size * budget / tokens * 0.95)))
            tokens = _cost(text[start : start + size], count_tokens)
        stop = start + size
        if stop < end:
            space = max(text.rfind(" ", start, stop), text.rfind("\n", start, stop))
            if space > start + size * 2 // 3:
                stop = space
            while stop > start + 1 and _sticks(text[stop]):
                stop -= 1
            tokens = _cost(text[start:stop], count_tokens)
        room = min(budget * _CHARACTERS_PER_TOKEN, 2 * size)
        yield _Unit(start, stop, tokens)
        start = stop
        while start < end and text[start].isspace():
            start += 1


def _sticks(character: str) -> bool:
    """Does a character belong to the one before it (an accent, a joiner, a variation selector)?"""
    return unicodedata.combining(character) != 0 or character in "\u200c\u200d\ufe0e\ufe0f"


def _pack(units: Sequence[_Unit], budget: int, overlap: int) -> Iterator[Sequence[_Unit]]:
    total = sum(unit.tokens for unit in units)
    if not units:
        return
    if total <= budget:
        yield units
        return
    count = -(-(total - overlap) // (budget - overlap))
    target = (total - overlap) / count + overlap
    first = 0
    while first < len(units):
        held = 0
        last = first
        while last < len(units) and held + units[last].tokens <= budget and held < target:
            held += units[last].tokens
            last += 1
        yield units[first:last]
        if last == len(units):
            return
        shared, back = 0, last
        while back - 1 > first and shared + units[back - 1].tokens <= overlap:
            back -= 1
            shared += units[back].tokens
        # The shared sentences must leave room for the next unit, or the chunk would add nothing.
        while back < last and shared + units[last].tokens > budget:
            shared -= units[back].tokens
            back += 1
        first = back
