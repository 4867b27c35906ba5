"""The reading side of an index: what a search holds in memory, and the two scores of every passage.

Passages are addressed by their position in one flat order, segment after segment. The view is refreshed inside each
read transaction: where the index has not changed since, that costs one small query. Segments are immutable but for
their deletions, so that after an ingest only the new ones are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hornbook.retrieve import dense, sparse
from hornbook.retrieve.segments import read_packed, unpack_alive
from hornbook.retrieve.sparse import SEGMENT_ROWS, Postings, SegmentLengths
from hornbook.retrieve.store import Database, batched

_UNREAD = -np.inf


class View:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._generation = -1
        self._segments: list[SegmentLengths] = []
        self._starts = np.zeros(1, np.int64)  # flat position of each segment's first row, and the end
        self._vectors: dict[int, np.ndarray] = {}  # segment -> [rows, d] float32, while the index is searched exactly
        self._cells: dict[int, np.ndarray] = {}  # segment -> [rows] int32: the cell of each row, -1 for none
        self._centroids: np.ndarray | None = None
        self.dimensions = 0

    def refresh(self) -> None:
        """Bring the view to the state of the transaction that is open."""
        generation = self._database.meta("generation")
        if generation == self._generation:
            return
        connection = self._database.connection
        known = {segment.id: segment.lengths for segment in self._segments}
        segments = []
        for id, rows, bits in connection.execute("SELECT id, rows, alive FROM segment ORDER BY id").fetchall():
            lengths = known.get(id)
            if lengths is None:
                (data,) = connection.execute("SELECT lengths FROM segment WHERE id = ?", (id,)).fetchone()
                lengths = np.frombuffer(data, "<u4").astype(np.float32)
            segments.append(SegmentLengths(id, lengths, unpack_alive(bits, rows)))
        self._segments = segments
        self._starts = np.concatenate([[0], np.cumsum([len(s.lengths) for s in segments], dtype=np.int64)])
        ids = {segment.id for segment in segments}
        self._vectors = {id: held for id, held in self._vectors.items() if id in ids}
        self._cells = {id: held for id, held in self._cells.items() if id in ids}
        self.dimensions = int(self._database.meta("dimensions") or 0)
        cells = self._database.meta("cells")
        self._centroids = dense.unpack(cells, self.dimensions) if cells is not None else None
        if self._centroids is not None:
            self._vectors = {}
        self._generation = generation

    @property
    def alive(self) -> np.ndarray:
        """[n] bool: the passages that are not deleted."""
        return np.concatenate([segment.alive for segment in self._segments] or [np.zeros(0, bool)])

    def chunk_ids(self, positions: np.ndarray) -> list[int]:
        at = np.searchsorted(self._starts, positions, "right") - 1
        ids = np.array([segment.id for segment in self._segments], np.int64)
        found: list[int] = (ids[at] * SEGMENT_ROWS + positions - self._starts[at]).tolist()
        return found

    def mask_of(self, chunk_ids: np.ndarray) -> np.ndarray:
        """[n] bool: the passages with these numbers."""
        mask = np.zeros(int(self._starts[-1]), bool)
        starts = {segment.id: int(start) for segment, start in zip(self._segments, self._starts, strict=False)}
        for segment in np.unique(chunk_ids // SEGMENT_ROWS):
            rows = chunk_ids[chunk_ids // SEGMENT_ROWS == segment] % SEGMENT_ROWS
            mask[starts[int(segment)] + rows] = True
        return mask

    # ------------------------------------------------------------------------------------------------------ sparse

    def bm25(self, terms: Sequence[str]) -> tuple[np.ndarray, float]:
        """([n] float32, 0 where no term is shared or the passage is deleted; the most that the query could score)."""
        postings = self._postings(terms)
        scores, attainable = sparse.bm25(terms, self._segments, postings)
        return np.concatenate(scores or [np.zeros(0, np.float32)]), attainable

    def frequencies(self, terms: Sequence[str]) -> tuple[int, dict[str, int]]:
        """How many passages there are, and how many hold each term; a term that none holds is left out."""
        alive = {segment.id: segment.alive for segment in self._segments}
        counts = {
            term: sum(int(alive[id][found.rows].sum()) for id, found in lists.items())
            for term, lists in self._postings(terms).items()
        }
        return sum(int(flags.sum()) for flags in alive.values()), {term: n for term, n in counts.items() if n}

    def _postings(self, terms: Sequence[str]) -> dict[str, dict[int, Postings]]:
        """term -> segment -> where it occurs, for the segments of this view."""
        postings: dict[str, dict[int, Postings]] = {}
        ids = [segment.id for segment in self._segments]
        for some_terms in batched(sorted(set(terms)), 200):
            for some_ids in batched(ids, 200):
                found = self._database.connection.execute(
                    f"SELECT term, segment, rows, counts FROM posting WHERE segment IN ({_marks(some_ids)}) "
                    f"AND term IN ({_marks(some_terms)})",
                    (*some_ids, *some_terms),
                )
                for term, segment, in_rows, counts in found:
                    postings.setdefault(term, {})[segment] = Postings(
                        np.frombuffer(in_rows, "<u2"), np.frombuffer(counts, np.uint8)
                    )
        return postings

    # ------------------------------------------------------------------------------------------------------- dense

    def similarities(self, query: np.ndarray, eligible: np.ndarray, *, also: np.ndarray, enough: int) -> np.ndarray:
        """[n] float32: cosines with ``query`` [d]; -inf for what was not read, which ``also`` [m] positions always are.

        Exact below ``dense.EXACT_ROWS`` passages, by the nearest cells above.
        """
        out = np.full(len(eligible), _UNREAD, np.float32)
        if self._centroids is None:
            for at, segment in enumerate(self._segments):
                out[self._starts[at] : self._starts[at + 1]] = self._all_vectors(segment) @ query
        else:
            cells = np.concatenate([self._cells_of(segment) for segment in self._segments])
            available = np.bincount(cells[eligible & (cells >= 0)], minlength=len(self._centroids))
            chosen = dense.choose_cells(query, self._centroids, available, enough=enough)
            for start, block in self._read_cells({-1, *chosen.tolist()}, also):
                out[start : start + len(block)] = block @ query
        out[~eligible] = _UNREAD
        return out

    def vectors(self, positions: np.ndarray) -> np.ndarray:
        """[m, d] float32: the vectors of some passages."""
        out = np.empty((len(positions), self.dimensions), np.float32)
        if self._centroids is None:
            for at, segment in enumerate(self._segments):
                inside = (positions >= self._starts[at]) & (positions < self._starts[at + 1])
                out[inside] = self._all_vectors(segment)[positions[inside] - self._starts[at]]
        else:
            for start, block in self._read_cells(set(), positions):
                inside = (positions >= start) & (positions < start + len(block))
                out[inside] = block[positions[inside] - start]
        return out

    def _all_vectors(self, segment: SegmentLengths) -> np.ndarray:
        if segment.id not in self._vectors:
            packed = read_packed(self._database.connection, segment.id, self.dimensions)
            self._vectors[segment.id] = dense.unpack(packed.tobytes(), self.dimensions)
        return self._vectors[segment.id]

    def _read_cells(self, chosen: set[int], also: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(position of its first row, [rows, d] float32) of each stored block: the chosen cells, and those of ``also``."""
        for at, segment in enumerate(self._segments):
            start, end = int(self._starts[at]), int(self._starts[at + 1])
            mine = also[(also >= start) & (also < end)] - start
            wanted = sorted(chosen | set(self._cells_of(segment)[mine].tolist()))
            for some in batched(wanted, 500):
                for first, data in self._database.connection.execute(
                    f"SELECT first, data FROM vector WHERE segment = ? AND cell IN ({_marks(some)})",
                    (segment.id, *some),
                ):
                    yield start + first, dense.unpack(data, self.dimensions)

    def _cells_of(self, segment: SegmentLengths) -> np.ndarray:
        if segment.id not in self._cells:
            blocks = self._database.connection.execute(
                "SELECT cell, first FROM vector WHERE segment = ? ORDER BY first", (segment.id,)
            ).fetchall()
            ends = [first for _, first in blocks[1:]] + [len(segment.lengths)]
            sizes = [end - first for (_, first), end in zip(blocks, ends, strict=True)]
            self._cells[segment.id] = np.repeat(np.array([cell for cell, _ in blocks], np.int32), sizes)
        return self._cells[segment.id]


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))
