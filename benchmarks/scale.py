"""A million passages in one index: how large, how fast, how much memory, and how much the approximate search misses.

    python benchmarks/scale.py                       # 1,000,000 passages of 384 dimensions, in a temporary folder
    python benchmarks/scale.py --chunks 100000 --folder /tmp/scale

Words follow Zipf's law over 200,000 terms, 80 a passage. Vectors are drawn around 2,000 centres that are themselves
uneven in size (Zipf again) and spread, which is what text looks like to an encoder; queries are drawn like passages and
pushed off them. Embedding is left out: the segments are written as ingest writes them. ``exact`` is the same index
searched without cells.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from hornbook.retrieve import dense, segments
from hornbook.retrieve.rank import rank
from hornbook.retrieve.segments import NewChunk
from hornbook.retrieve.store import FILE_NAME, Database
from hornbook.retrieve.view import View
from hornbook.types import Document

DIMENSIONS = 384
VOCABULARY = 200_000
WORDS = 80
BATCH = 8192


class World:
    """Where passages and queries come from."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.centres = self.random.standard_normal((2000, DIMENSIONS)).astype(np.float32)
        self.centres += 0.8 * self.centres[self.random.integers(0, 40, 2000)]  # centres come in families
        share = 1 / np.arange(1, 2001) ** 0.7
        self.share = share / share.sum()
        frequency = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
        self.frequency = frequency / frequency[-1]

    def vectors(self, n: int, spread: float = 0.9) -> np.ndarray:
        topic = self.random.choice(2000, n, p=self.share)
        drawn = self.centres[topic] + spread * self.random.standard_normal((n, DIMENSIONS), np.float32)
        return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)

    def words(self, n: int, each: int = WORDS) -> list[list[str]]:
        drawn = np.searchsorted(self.frequency, self.random.random((n, each)))
        return [[f"t{word}" for word in row] for row in drawn.tolist()]

    def query_words(self) -> list[str]:
        """Six words: one common, the others from the middle and the tail, as a question without its stop words is."""
        ranks = [50, *np.exp(self.random.uniform(np.log(200), np.log(VOCABULARY - 1), 5)).astype(int).tolist()]
        return [f"t{rank}" for rank in ranks]


def build(database: Database, world: World, chunks: int) -> float:
    began = time.perf_counter()
    with database.write():
        database.set_meta("dimensions", DIMENSIONS)
    for number, start in enumerate(range(0, chunks, BATCH)):
        n = min(BATCH, chunks - start)
        packed = dense.pack(world.vectors(n))
        words = world.words(n)
        with database.write():
            document = Document(f"d{number}", f"/scale/{number}.txt", "x")
            id = database.add_document(document, size=1, mtime_ns=0, sha256=b"", suffix=".txt")
            rows = [
                NewChunk(id, row, 0, 1, None, "", None, (start + row).to_bytes(16), words[row], packed[row])
                for row in range(n)
            ]
            segments.write_segment(database, rows)
        for group in segments.due_merges(database):
            with database.write():
                segments.merge(database, group, DIMENSIONS)
    for group in segments.all_merges(database):
        if len(group) > 1:
            with database.write():
                segments.merge(database, group, DIMENSIONS)
    segments.organise(database, DIMENSIONS)
    return time.perf_counter() - began


def milliseconds(times: list[float]) -> str:
    return f"{1000 * float(np.median(times)):.0f} (95%: {1000 * float(np.percentile(times, 95)):.0f})"


def run(folder: Path, chunks: int, queries: int) -> dict[str, object]:
    world = World()
    database = Database.open(folder / FILE_NAME, readonly=False)
    figures: dict[str, object] = {"chunks": chunks, "build s (no embedding)": round(build(database, world, chunks))}
    database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    figures["file MB"] = round((folder / FILE_NAME).stat().st_size / 1e6)

    vectors, words = world.vectors(queries, spread=1.1), [world.query_words() for _ in range(queries)]
    began = time.perf_counter()
    database = Database.open(folder / FILE_NAME, readonly=True)
    view = View(database)
    with database.read():
        view.refresh()
        rank(view, view.alive, words[0], vectors[0], 10)
    figures["open and first hybrid search ms"] = round(1000 * (time.perf_counter() - began))
    figures["segments"] = len(view._segments)

    found = []
    for mode in ("sparse", "dense", "hybrid"):
        times = []
        for terms, vector in zip(words, vectors, strict=True):
            began = time.perf_counter()
            with database.read():
                view.refresh()
                ranking = rank(
                    view, view.alive, None if mode == "dense" else terms, None if mode == "sparse" else vector, 10
                )
            times.append(time.perf_counter() - began)
            if mode == "dense":
                found.append(ranking)
        figures[f"{mode} ms"] = milliseconds(times)
    figures["memory MB, peak of building and searching"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    if view._centroids is not None:
        best = np.full((queries, 10), -1.0, np.float32)
        with database.read() as connection:
            for segment in view._segments:
                packed = segments.read_packed(connection, segment.id, DIMENSIONS)
                cosines = vectors @ dense.unpack(packed.tobytes(), DIMENSIONS).T
                best = np.sort(np.concatenate([best, cosines], axis=1), axis=1)[:, -10:]
        hits = [np.mean(ranking.scores >= exact[0] - 1e-6) for ranking, exact in zip(found, best, strict=True)]
        figures["dense recall@10 of exact"] = round(float(np.mean(hits)), 4)
    database.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--folder", type=Path, help="keep the index there; default: a temporary folder")
    given = parser.parse_args()
    if given.folder:
        given.folder.mkdir(parents=True, exist_ok=True)
        print(json.dumps(run(given.folder, given.chunks, given.queries), indent=1))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(Path(folder), given.chunks, given.queries), indent=1))


if __name__ == "__main__":
    main()
