"""Dense search: rank by the cosine between a query's vector and each passage's, all of unit length.

Exact up to ``EXACT_ROWS`` passages: one matrix product over all of them. Beyond, an inverted file (Jégou, Douze and
Schmid, "Product Quantization for Nearest Neighbor Search", 2011, section 4.1, without the product quantiser): k-means
cuts the space into ``CELLS`` cells, a passage lies in the cell of its nearest centroid, and a query reads only the
cells nearest to it. The vectors of a cell lie together on disk, so that a search at a million passages reads about one
vector in thirty and holds none in memory.

Vectors are kept as 16-bit fixed point: components of a unit vector lie in [-1, 1], so x is stored as round(32767 x).
The error of a component is at most 2^-16, less than that of a half float, and NumPy widens it four times faster.
"""

from __future__ import annotations

import numpy as np

EXACT_ROWS = 100_000
CELLS = 1024
PROBES = 32
_SCALE = np.float32(32767.0)


def pack(vectors: np.ndarray) -> np.ndarray:
    """[n, d] float32 of unit length -> [n, d] int16."""
    packed: np.ndarray = np.rint(np.clip(vectors, -1.0, 1.0) * _SCALE).astype("<i2")
    return packed


def unpack(data: bytes, dimensions: int) -> np.ndarray:
    """The bytes of packed vectors -> [n, d] float32."""
    return np.frombuffer(data, "<i2").astype(np.float32).reshape(-1, dimensions) * (1 / _SCALE)


def train_cells(sample: np.ndarray, cells: int = CELLS, *, rounds: int = 12, seed: int = 0) -> np.ndarray:
    """Spherical k-means (Dhillon and Modha, 2001): [n, d] unit vectors -> [cells, d] unit centroids.

    An empty cell is given a random vector of the sample, so that none stays empty.
    """
    random = np.random.default_rng(seed)
    cells = min(cells, len(sample))
    centroids = sample[random.choice(len(sample), cells, replace=False)].copy()
    for _ in range(rounds):
        nearest = assign(sample, centroids)
        order = np.argsort(nearest, kind="stable")
        filled, first = np.unique(nearest[order], return_index=True)
        fresh = sample[random.choice(len(sample), cells, replace=False)].copy()
        fresh[filled] = np.add.reduceat(sample[order], first, axis=0)
        centroids = fresh / np.maximum(np.linalg.norm(fresh, axis=1, keepdims=True), 1e-12)
    return centroids


def assign(vectors: np.ndarray, centroids: np.ndarray, *, block: int = 8192) -> np.ndarray:
    """[n] int32: the nearest centroid of each vector."""
    nearest = np.empty(len(vectors), np.int32)
    for start in range(0, len(vectors), block):
        nearest[start : start + block] = np.argmax(vectors[start : start + block] @ centroids.T, axis=1)
    return nearest


def choose_cells(
    query: np.ndarray, centroids: np.ndarray, available: np.ndarray, *, probes: int = PROBES, enough: int
) -> np.ndarray:
    """The cells to read, nearest first: at least ``probes``, and on until they hold ``enough`` eligible passages.

    ``available`` [cells] counts the eligible passages of each cell (a filter or deletions may leave few); cells
    without any are not read. A filter that leaves fewer than ``enough`` in all is therefore searched exactly.
    """
    order = np.argsort(-(centroids @ query), kind="stable")
    order = order[available[order] > 0]
    held = np.cumsum(available[order])
    last = max(probes, int(np.searchsorted(held, enough)) + 1)
    return order[:last]
