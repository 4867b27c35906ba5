"""BM25 over inverted segments: rank by the words that a passage shares with the query, rare words first.

    idf(t)      = ln(1 + (N - n_t + 0.5) / (n_t + 0.5))                      N passages, n_t of them with the term
    score(d, q) = sum over t in q of  c_t · idf(t) · f / (f + k1 (1 - b + b |d| / avg))      f: count of t in d

Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), equation 3.15, with the idf
that Lucene made common (it cannot be negative) and without the constant factor k1 + 1, which orders nothing.
``c_t`` is how often the query says the term. Deleted passages count nowhere: an index that was edited scores exactly
as one made afresh from the same files.

A segment holds at most 65,536 passages, so that a row is two bytes; a posting list is two arrays, rows and counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

K1 = 1.5
B = 0.75
SEGMENT_ROWS = 65_536


class Postings(NamedTuple):
    """Where one term occurs in one segment."""

    rows: np.ndarray  # [n] uint16, ascending
    counts: np.ndarray  # [n] uint8, saturating at 255: beyond that BM25's curve is flat


class SegmentLengths(NamedTuple):
    """What scoring knows of a segment without reading a posting."""

    id: int
    lengths: np.ndarray  # [rows] float32: terms in each passage
    alive: np.ndarray  # [rows] bool: not deleted


def invert(passages: Sequence[Sequence[str]]) -> tuple[np.ndarray, Iterator[tuple[str, Postings]]]:
    """Passages as terms -> (lengths [rows] uint32, (term, Postings) in term order)."""
    assert len(passages) <= SEGMENT_ROWS
    lengths = np.fromiter((len(terms) for terms in passages), np.uint32, len(passages))
    numbers: dict[str, int] = {}
    said = np.fromiter((numbers.setdefault(term, len(numbers)) for terms in passages for term in terms), np.int64)
    ordered = sorted(numbers)
    place = np.empty(len(ordered), np.int64)
    place[[numbers[term] for term in ordered]] = np.arange(len(ordered))
    rows = np.repeat(np.arange(len(passages)), lengths)
    keys, counts = np.unique(place[said] * SEGMENT_ROWS + rows, return_counts=True)
    return lengths, _lists(ordered, keys, np.minimum(counts, 255))


def concatenate(
    lists: Sequence[tuple[str, int, bytes, bytes]], new_row: Mapping[int, np.ndarray]
) -> Iterator[tuple[str, Postings]]:
    """Posting lists (term, segment, rows, counts) in term order -> one list a term, in the rows of the merged segment.

    new_row: segment -> [rows] int64, from its old rows to the new ones, -1 for the deleted. A term that only deleted
    passages said is gone.
    """
    terms = list(dict.fromkeys(term for term, _, _, _ in lists))
    number = {term: at for at, term in enumerate(terms)}
    sizes = [len(counts) for _, _, _, counts in lists]
    # one flat array of all maps, so that every list finds its segment's map by an offset
    offsets = dict(zip(new_row, np.cumsum([0, *map(len, new_row.values())]).tolist(), strict=False))
    flat = np.concatenate(list(new_row.values()))
    old = np.frombuffer(b"".join(rows for _, _, rows, _ in lists), "<u2").astype(np.int64)
    moved = flat[old + np.repeat([offsets[segment] for _, segment, _, _ in lists], sizes)]
    said = np.frombuffer(b"".join(counts for _, _, _, counts in lists), np.uint8)
    keys = np.repeat([number[term] for term, _, _, _ in lists], sizes) * SEGMENT_ROWS + moved
    kept = np.flatnonzero(moved >= 0)
    kept = kept[np.argsort(keys[kept])]
    return _lists(terms, keys[kept], said[kept])


def _lists(terms: Sequence[str], keys: np.ndarray, counts: np.ndarray) -> Iterator[tuple[str, Postings]]:
    """Cut sorted keys (number of the term * SEGMENT_ROWS + row) where the term changes."""
    numbers, rows = np.divmod(keys, SEGMENT_ROWS)
    present, starts = np.unique(numbers, return_index=True)
    ends = [*starts[1:].tolist(), len(keys)]
    rows, counts = rows.astype("<u2"), counts.astype(np.uint8)
    for at, start, end in zip(present.tolist(), starts.tolist(), ends, strict=True):
        yield terms[at], Postings(rows[start:end], counts[start:end])


def bm25(
    query: Sequence[str],
    segments: Sequence[SegmentLengths],
    postings: Mapping[str, Mapping[int, Postings]],
    *,
    k1: float = K1,
    b: float = B,
) -> tuple[list[np.ndarray], float]:
    """(scores, attainable): scores [rows] float32 of every passage, a list that runs along ``segments``, 0 where no
    term is shared; attainable, what a passage that says every term of the query without end would score.

    ``postings`` is term -> segment id -> Postings, for the terms of the query.
    """
    scores = [np.zeros(len(segment.lengths), np.float32) for segment in segments]
    total = sum(int(segment.alive.sum()) for segment in segments)
    if not total:
        return scores, 0.0
    mean = sum(float(segment.lengths[segment.alive].sum(dtype=np.float64)) for segment in segments) / total
    norms = [k1 * (1 - b + b * segment.lengths / max(mean, 1e-9)) for segment in segments]
    attainable = 0.0
    for term, said in Counter(query).items():
        lists = postings.get(term, {})
        containing = sum(int(s.alive[lists[s.id].rows].sum()) for s in segments if s.id in lists)
        weight = said * float(np.log1p((total - containing + 0.5) / (containing + 0.5)))
        attainable += weight
        if not containing:
            continue
        for at, segment in enumerate(segments):
            if segment.id in lists:
                rows, counts = lists[segment.id]
                found = counts.astype(np.float32)
                scores[at][rows] += np.float32(weight) * (found / (found + norms[at][rows]))
    for at, segment in enumerate(segments):
        scores[at][~segment.alive] = 0
    return scores, attainable
