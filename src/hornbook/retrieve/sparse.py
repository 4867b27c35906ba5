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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

K1 = 1.5
B = 0.75
SEGMENT_ROWS = 65_536


class Postings(NamedTuple):
    """Where one term occurs in one segment."""

    rows: np.ndarray  # [n] uint16, ascending
    counts: np.ndarray  # [n] uint8, saturating at 255: beyond that BM25's curve is flat

    def to_bytes(self) -> bytes:
        return self.rows.astype("<u2").tobytes() + self.counts.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Postings:
        count = len(data) // 3
        return cls(np.frombuffer(data, "<u2", count), np.frombuffer(data, np.uint8, count, 2 * count))


class SegmentLengths(NamedTuple):
    """What scoring knows of a segment without reading a posting."""

    id: int
    lengths: np.ndarray  # [rows] float32: terms in each passage
    alive: np.ndarray  # [rows] bool: not deleted


def invert(passages: Sequence[Sequence[str]]) -> tuple[np.ndarray, Iterator[tuple[str, Postings]]]:
    """Passages as terms -> (lengths [rows] uint32, (term, Postings) in term order)."""
    assert len(passages) <= SEGMENT_ROWS
    lengths = np.fromiter((len(terms) for terms in passages), np.uint32, len(passages))
    where: dict[str, tuple[list[int], list[int]]] = {}
    for row, terms in enumerate(passages):
        for term, count in Counter(terms).items():
            rows, counts = where.setdefault(term, ([], []))
            rows.append(row)
            counts.append(min(count, 255))

    def postings() -> Iterator[tuple[str, Postings]]:
        for term in sorted(where):
            rows, counts = where[term]
            yield term, Postings(np.array(rows, np.uint16), np.array(counts, np.uint8))

    return lengths, postings()


def concatenate(parts: Iterable[tuple[Postings, np.ndarray]]) -> Postings | None:
    """One term's postings of several segments, each with its map [rows] from old row to new (-1: deleted); None: gone."""
    rows, counts = [], []
    for postings, new_row in parts:
        moved = new_row[postings.rows]
        kept = moved >= 0
        rows.append(moved[kept])
        counts.append(postings.counts[kept])
    all_rows = np.concatenate(rows)
    if not len(all_rows):
        return None
    order = np.argsort(all_rows, kind="stable")
    return Postings(all_rows[order].astype(np.uint16), np.concatenate(counts)[order])


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
