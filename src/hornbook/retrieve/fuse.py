"""One ranking from two retrievers whose scores have different scales and who are not equally to be trusted every time.

Reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009) looks at ranks alone: a retriever that knows nothing of a
query (an English encoder before Chinese text) weighs as much as one that is certain, and drags the mixture to between
the two. What tells them apart is the shape of the scores. A retriever that knows puts a few passages far above the
rest; one that does not gives all about the same. So each score counts in standard deviations above the mean of that
retriever's best ``POOL`` passages:

    z(s) = (s - mean) / max(deviation, floor)

(standardisation as in Montague and Aslam, "Relevance score normalization for metasearch", 2001, over the pool instead
of the list.) The floor keeps small differences small where *all* scores are close together: a share of the best score
that the query could have had (BM25: every word of it, as often as can be), and an absolute difference for cosines.

Then one round of relevance feedback in the encoder's space (Rocchio, 1971): the query moves towards the passages that
both retrievers put first, which a retriever alone could not choose, and the moved query scores the candidates again.

No weight here depends on a language or a collection. The constants were chosen on four collections, with one encoder;
both halves of their queries agree, and docs/results/retrieval.md says what other choices give.
"""

from __future__ import annotations

import numpy as np

POOL = 200
SPARSE_FLOOR = 0.04  # of the best BM25 score that the query could reach
DENSE_FLOOR = 0.08  # of cosine
_LEADERS = 5  # passages that the query moves towards
_STEP = 0.35  # how far: 0 stays, 1 forgets the query
_SHARPNESS = 2.0  # e to the power of this, a standard deviation: how much the first of the leaders counts more


def fuse(
    sparse: np.ndarray, dense: np.ndarray, attainable: float, query: np.ndarray, vectors: np.ndarray
) -> np.ndarray:
    """[m] scores of m candidates, in mean standard deviations above what their retrievers found ordinary.

    sparse: [m] BM25 scores, ``attainable`` the most that the query could score.
    dense: [m] cosines of ``vectors`` [m, d] with ``query`` [d].
    """
    if not len(sparse):
        return np.zeros(0, np.float32)
    words = standardise(sparse, SPARSE_FLOOR * attainable)
    first = (words + standardise(dense, DENSE_FLOOR)) / 2
    leaders = np.argsort(-first, kind="stable")[:_LEADERS]
    weights = np.exp(_SHARPNESS * (first[leaders] - first[leaders[0]]))
    moved = (1 - _STEP) * query + _STEP * (weights / weights.sum()) @ vectors[leaders]
    length = np.linalg.norm(moved)
    meaning = vectors @ (moved / length) if length > 1e-9 else dense
    fused: np.ndarray = (words + standardise(meaning, DENSE_FLOOR)) / 2
    return fused


def standardise(scores: np.ndarray, floor: float) -> np.ndarray:
    """[m] -> [m]: deviations above the mean of the ``POOL`` highest."""
    best = scores if len(scores) <= POOL else np.partition(scores, len(scores) - POOL)[-POOL:]
    z: np.ndarray = (scores - best.mean()) / max(float(best.std()), floor, 1e-9)
    return z
