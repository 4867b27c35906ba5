"""From the scores of every passage to the best few: each retriever's pool, and their fusion where both are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hornbook.retrieve.fuse import POOL, fuse
from hornbook.retrieve.view import View


class Ranking(NamedTuple):
    """The passages found, best first, and what each retriever gave them."""

    positions: np.ndarray  # [k] int64, in the view's flat order
    scores: np.ndarray  # [k] descending
    sparse: np.ndarray | None  # [k] BM25; None where it was not asked
    dense: np.ndarray | None  # [k] cosine

    def parts(self, at: int) -> dict[str, float]:
        """{"dense": ..., "sparse": ...} of the ``at``-th; a passage without a shared word has no "sparse"."""
        parts = {}
        if self.dense is not None:
            parts["dense"] = float(self.dense[at])
        if self.sparse is not None and self.sparse[at] > 0:
            parts["sparse"] = float(self.sparse[at])
        return parts


def rank(view: View, eligible: np.ndarray, terms: Sequence[str] | None, query: np.ndarray | None, k: int) -> Ranking:
    """The best ``k`` of the passages in ``eligible`` [n] bool.

    terms: of the query, for BM25; query: its vector [d], for cosines; with both, fused. A passage that shares no term
    is never found by BM25 alone.
    """
    pool = max(POOL, 4 * k)
    nothing = np.zeros(0, np.int64)
    by_words, sparse, attainable = nothing, None, 0.0
    if terms is not None:
        sparse, attainable = view.bm25(terms)
        sparse[~eligible] = 0
        by_words = best(sparse, pool, above=0)
    if query is None:
        positions = by_words[:k]
        if sparse is None:
            return Ranking(nothing, np.zeros(0, np.float32), None, None)
        return Ranking(positions, sparse[positions], sparse[positions], None)
    dense = view.similarities(query, eligible, also=by_words, enough=20 * pool)
    by_meaning = best(dense, pool, above=-np.inf)
    if sparse is None:
        positions = by_meaning[:k]
        return Ranking(positions, dense[positions], None, dense[positions])
    candidates = np.union1d(by_words, by_meaning)
    fused = fuse(sparse[candidates], dense[candidates], attainable, query, view.vectors(candidates))
    order = np.argsort(-fused, kind="stable")[:k]
    positions = candidates[order]
    return Ranking(positions, fused[order], sparse[positions], dense[positions])


def best(scores: np.ndarray, k: int, *, above: float) -> np.ndarray:
    """Positions of the ``k`` highest scores over ``above``, best first, ties in order of position."""
    positions = np.flatnonzero(scores > above)
    if len(positions) > k:
        least = np.partition(scores[positions], len(positions) - k)[len(positions) - k]
        positions = positions[scores[positions] >= least]
    return positions[np.argsort(-scores[positions], kind="stable")][:k]
