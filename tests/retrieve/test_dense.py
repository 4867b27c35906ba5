from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_embedder import ToyEmbedder

from hornbook.retrieve import dense, segments
from hornbook.retrieve.index import Index


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def clustered(n: int, d: int = 48, clusters: int = 60, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((clusters, d))
    return unit(centres[random.integers(0, clusters, n)] + 0.6 * random.standard_normal((n, d)))


def test_packed_vectors_keep_every_cosine_to_four_decimals() -> None:
    vectors, queries = clustered(500, 384), clustered(20, 384, seed=1)
    packed = dense.pack(vectors)
    assert packed.nbytes == vectors.nbytes // 2
    back = dense.unpack(packed.tobytes(), 384)
    np.testing.assert_allclose(back @ queries.T, vectors @ queries.T, atol=1e-4)
    assert np.array_equal(dense.pack(back), packed), "packing again must change nothing"


def test_cells_gather_what_is_near() -> None:
    vectors = clustered(4000)
    centroids = dense.train_cells(vectors, 64)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    nearest = dense.assign(vectors, centroids, block=333)
    assert np.array_equal(nearest, np.argmax(vectors @ centroids.T, axis=1))
    assert (vectors * centroids[nearest]).sum(1).mean() > (vectors @ centroids[0]).mean() + 0.4
    assert np.array_equal(centroids, dense.train_cells(vectors, 64)), "the same sample must give the same cells"


def test_cells_are_read_until_enough_eligible_passages_are_seen() -> None:
    centroids = np.eye(6, dtype=np.float32)
    query = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], np.float32)
    full = np.full(6, 100)
    assert dense.choose_cells(query, centroids, full, probes=2, enough=1).tolist() == [0, 1]
    assert dense.choose_cells(query, centroids, full, probes=2, enough=301).tolist() == [0, 1, 2, 3]
    few = np.array([0, 1, 0, 0, 2, 0])
    assert dense.choose_cells(query, centroids, few, probes=1, enough=50).tolist() == [1, 4]


@pytest.fixture
def past_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past exact search at 300 passages, with cells for segments of 50."""
    monkeypatch.setattr(dense, "EXACT_ROWS", 300)
    monkeypatch.setattr(segments, "CELLED_ROWS", 50)
    monkeypatch.setattr(dense, "CELLS", 24)
    monkeypatch.setattr(dense.train_cells, "__defaults__", (24,))
    monkeypatch.setattr(dense.choose_cells, "__kwdefaults__", {"probes": 8})


def write_topics(folder: Path, n: int) -> None:
    random = np.random.default_rng(3)
    for number in range(n):
        topic = number % 20
        words = [f"topic{topic}w{w}" for w in random.integers(0, 12, 12)]
        (folder / f"f{number:04}.txt").write_text(" ".join(words) + f" number{number}")


@pytest.mark.usefixtures("past_exact")
def test_an_index_past_exact_search_finds_nearly_what_exact_search_finds(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    write_topics(files, 500)
    with Index.open(tmp_path / "index", embedder=ToyEmbedder()) as index:
        index.ingest(files)
        index.compact()
        assert not index.stats["exact"]
        toy = ToyEmbedder()
        index._view.refresh()
        everything = index._view.vectors(np.arange(500))
        recall = []
        for topic in range(20):
            query = f"topic{topic}w1 topic{topic}w5"
            exact = np.sort(everything @ toy.embed([query], kind="query")[0])[::-1][:10]
            hits = index.search(query, 10, mode="dense")
            recall.append(np.mean([hit.score >= exact[-1] - 1e-3 for hit in hits]))
            assert index.search(query, 5)[0].chunk.text.count(f"topic{topic}w") == 12
        assert np.mean(recall) >= 0.9
        # a filter that leaves few is searched exactly, wherever its passages lie
        hits = index.search("topic3w1", 10, mode="dense", where={"path": ["*f0007.txt", "*f0123.txt"]})
        assert {Path(hit.document.path).name for hit in hits} == {"f0007.txt", "f0123.txt"}
        # what comes later is found at once, in no cell yet
        (files / "later.txt").write_text("zebra stripes")
        index.ingest(files)
        assert index.search("zebra stripes", 1, mode="dense")[0].chunk.text == "zebra stripes"
