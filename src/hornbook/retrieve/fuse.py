"""One ranking from two retrievers that score on different scales and are not equally to be trusted for every query."""

from __future__ import annotations

import numpy as np

POOL = 200


def standardise(scores: np.ndarray, pool: int = POOL) -> np.ndarray:
    """[n] scores -> [n] in standard deviations above the mean of the ``pool`` best; all zero where nothing differs."""
    if not len(scores):
        return scores
    best = scores if len(scores) <= pool else np.partition(scores, len(scores) - pool)[-pool:]
    deviation = float(best.std())
    standard: np.ndarray = (scores - best.mean()) / deviation if deviation > 1e-9 else np.zeros_like(scores)
    return standard


def fuse(sparse: np.ndarray, dense: np.ndarray) -> np.ndarray:
    return standardise(sparse) + standardise(dense)
