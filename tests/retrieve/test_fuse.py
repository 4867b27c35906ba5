from __future__ import annotations

import numpy as np

from hornbook.retrieve.fuse import fuse, standardise


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def candidates(similarities: np.ndarray, d: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A query [d] and vectors [m, d] that have these cosines with it."""
    random = np.random.default_rng(seed)
    query = unit(random.standard_normal(d))
    across = random.standard_normal((len(similarities), d))
    across = unit(across - np.outer(across @ query, query))
    return query, (similarities[:, None] * query + np.sqrt(1 - similarities[:, None] ** 2) * across).astype(np.float32)


def order(sparse: np.ndarray, dense: np.ndarray, attainable: float = 30.0) -> list[int]:
    query, vectors = candidates(dense)
    return np.argsort(-fuse(sparse, dense, attainable, query, vectors), kind="stable").tolist()


def test_a_retriever_that_cannot_tell_passages_apart_does_not_decide() -> None:
    random = np.random.default_rng(1)
    sparse = random.uniform(0, 3, 200)
    sparse[17] = 25.0
    blind = 0.5 + 0.01 * random.standard_normal(200)  # an English encoder before Chinese text
    blind[17] = blind.min()
    assert order(sparse, blind)[0] == 17
    dense = np.clip(0.1 + 0.05 * random.standard_normal(200), -1, 1)
    dense[42] = 0.8
    assert order(np.zeros(200), dense)[0] == 42
    few_words = np.zeros(200)
    few_words[[3, 9]] = 0.3, 0.2  # of 30 attainable: the passages share an incidental word
    assert order(few_words, dense)[0] == 42


def test_agreement_beats_either_alone() -> None:
    random = np.random.default_rng(2)
    sparse, dense = random.uniform(0, 4, 200), np.clip(0.2 + 0.05 * random.standard_normal(200), -1, 1)
    sparse[[5, 7]] = 12.0, 14.0
    dense[[5, 8]] = 0.55, 0.6
    assert order(sparse, dense)[0] == 5


def test_feedback_lifts_the_neighbours_of_the_best() -> None:
    sparse, dense = np.zeros(50), np.full(50, 0.1)
    sparse[0], dense[0] = 20.0, 0.7
    query, vectors = candidates(dense)
    vectors[33] = unit(0.1 * query + 0.9 * vectors[0])
    similar = vectors @ query
    similar[33] = 0.1  # as the first look saw it
    assert np.argsort(-fuse(sparse, similar, 30.0, query, vectors))[:2].tolist() == [0, 33]


def test_scores_survive_their_edges() -> None:
    query, vectors = candidates(np.array([0.5]))
    assert fuse(np.zeros(0), np.zeros(0), 0.0, query, np.zeros((0, 64), np.float32)).shape == (0,)
    assert np.isfinite(fuse(np.array([1.0]), np.array([0.5]), 2.0, query, vectors)).all()
    assert not standardise(np.full(10, 3.0), 0.0).any()
    opposite = np.stack([-query, -query])
    assert np.isfinite(fuse(np.zeros(2), opposite @ query, 1.0, query, opposite)).all()


def test_the_pool_hides_how_large_the_collection_is() -> None:
    random = np.random.default_rng(3)
    scores = np.sort(random.uniform(0, 1, 200))[::-1] + 1
    padded = np.concatenate([scores, np.zeros(5000)])
    np.testing.assert_allclose(standardise(padded, 0)[:200], standardise(scores, 0))
