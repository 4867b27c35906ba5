"""Segments: how passages get into the index, and how many small batches become few large ones.

    a commit writes one segment          [s1: 256 rows] [s2: 256] [s3: 256] ...
    eight of a size become one           [s9: 2,048 rows] ...                      (a log-structured merge)
    up to 65,536 rows                    deletions only clear a bit, and a merge leaves the dead behind

The vectors of a large segment lie ordered by cell once the index is past exact search (see dense.py): its rows are
renumbered so that a cell is a range of rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hornbook.errors import IndexFailure
from hornbook.retrieve import dense, sparse
from hornbook.retrieve.sparse import SEGMENT_ROWS
from hornbook.retrieve.store import Database, batched

MERGE_FACTOR = 8
_BLOCK_ROWS = 4096  # of vectors not in cells: what one read brings into memory
_NO_CELL = -1
CELLED_ROWS = 8192  # a smaller segment is searched whole: its cells would hold a few rows each
_TRAINING_ROWS = 65_536
_MERGE_LISTS = 50_000
_ADD_POSTING = "INSERT INTO posting VALUES (?, ?, ?, ?)"


class NewChunk(NamedTuple):
    """A row of a segment to be: its place in its document, its terms, its vector."""

    document: int
    ordinal: int
    start: int
    end: int
    page: int | None
    section: str
    line: int | None
    digest: bytes
    terms: Sequence[str]
    vector: np.ndarray  # [d] int16, packed


def write_segment(database: Database, chunks: Sequence[NewChunk]) -> None:
    """Add passages as one new segment; inside a write transaction."""
    if not chunks:
        return
    connection = database.connection
    lengths, postings = sparse.invert([chunk.terms for chunk in chunks])
    segment = _new_segment(connection, lengths)
    connection.executemany(
        "INSERT INTO chunk VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ((segment * SEGMENT_ROWS + row, *chunk[:8]) for row, chunk in enumerate(chunks)),
    )
    connection.executemany(
        _ADD_POSTING, ((segment, term, rows.tobytes(), counts.tobytes()) for term, (rows, counts) in postings)
    )
    _write_vectors(connection, segment, np.stack([chunk.vector for chunk in chunks]), None)


def delete_documents(database: Database, numbers: Sequence[int]) -> None:
    """Take documents and their chunks out; inside a write transaction. Postings and vectors go at the next merge."""
    connection = database.connection
    dead: dict[int, list[int]] = {}
    for number in numbers:
        for (id,) in connection.execute("SELECT id FROM chunk WHERE document = ?", (number,)):
            dead.setdefault(id // SEGMENT_ROWS, []).append(id % SEGMENT_ROWS)
        connection.execute("DELETE FROM chunk WHERE document = ?", (number,))
        connection.execute("DELETE FROM document WHERE id = ?", (number,))
    for segment, rows in dead.items():
        total, bits = connection.execute("SELECT rows, alive FROM segment WHERE id = ?", (segment,)).fetchone()
        alive = unpack_alive(bits, total)
        alive[rows] = False
        if alive.any():
            connection.execute(
                "UPDATE segment SET alive = ?, dead = ? WHERE id = ?",
                (np.packbits(alive).tobytes(), int(total - alive.sum()), segment),
            )
        else:
            _drop(connection, [segment])


def unpack_alive(bits: bytes, rows: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=rows).astype(bool)


def due_merges(database: Database) -> list[list[int]]:
    """Groups of segments that should become one each: eight of a size class, or one that is mostly dead."""
    classes: dict[int, list[tuple[int, int]]] = {}
    groups: list[list[int]] = []
    for id, rows, dead in database.connection.execute("SELECT id, rows, dead FROM segment ORDER BY id"):
        if dead > rows // 2 and rows >= 64:
            groups.append([id])
        elif rows - dead <= SEGMENT_ROWS // 2:
            size_class = max(0, int(np.log(max(rows - dead, 1)) / np.log(MERGE_FACTOR)))
            classes.setdefault(size_class, []).append((id, rows - dead))
    for members in classes.values():
        if len(members) >= MERGE_FACTOR:
            groups += _fill(members)
    return groups


def all_merges(database: Database) -> list[list[int]]:
    """Groups that leave as few segments as can be, without the dead: what compact() does."""
    rows = database.connection.execute("SELECT id, rows - dead FROM segment ORDER BY id").fetchall()
    return _fill(rows)


def _fill(members: Sequence[tuple[int, int]]) -> list[list[int]]:
    groups: list[list[int]] = [[]]
    held = 0
    for id, rows in members:
        if held + rows > SEGMENT_ROWS and groups[-1]:
            groups.append([])
            held = 0
        groups[-1].append(id)
        held += rows
    return [group for group in groups if group]


def merge(database: Database, group: Sequence[int], dimensions: int) -> None:
    """Replace segments by one without their dead rows; inside a write transaction."""
    connection = database.connection
    marks = ",".join("?" * len(group))
    sources = connection.execute(
        f"SELECT id, rows, lengths, alive FROM segment WHERE id IN ({marks}) ORDER BY id", tuple(group)
    ).fetchall()
    alive = [unpack_alive(bits, rows) for _, rows, _, bits in sources]
    kept = [np.flatnonzero(mask) for mask in alive]
    lengths = np.concatenate(
        [np.frombuffer(data, "<u4")[rows] for (_, _, data, _), rows in zip(sources, kept, strict=True)]
    )
    vectors = np.concatenate(
        [read_packed(connection, source[0], dimensions)[rows] for source, rows in zip(sources, kept, strict=True)]
    )
    cells = _cells_for(database, vectors)
    order = np.arange(len(lengths)) if cells is None else np.argsort(cells, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))

    segment = _new_segment(connection, lengths[order])
    new_row: dict[int, np.ndarray] = {}
    before = 0
    for (id, rows, _, _), live in zip(sources, kept, strict=True):
        map_ = np.full(rows, -1, np.int64)
        map_[live] = place[before : before + len(live)]
        new_row[id] = map_
        before += len(live)
    moves = (
        (segment * SEGMENT_ROWS + int(new_row[id][row]), id * SEGMENT_ROWS + int(row))
        for (id, _, _, _), live in zip(sources, kept, strict=True)
        for row in live
    )
    connection.executemany("UPDATE chunk SET id = ? WHERE id = ?", moves)
    _write_vectors(connection, segment, vectors[order], None if cells is None else cells[order])
    _merge_postings(connection, segment, group, new_row)
    _drop(connection, group)


def _merge_postings(
    connection: sqlite3.Connection, segment: int, group: Sequence[int], new_row: dict[int, np.ndarray]
) -> None:
    marks = ",".join("?" * len(group))
    # The sort is SQLite's own and spills to a file; what is held here are some lists at a time, whole terms of them.
    cursor = connection.execute(
        f"SELECT term, segment, rows, counts FROM posting WHERE segment IN ({marks}) ORDER BY term, segment",
        tuple(group),
    )
    held: list[tuple[str, int, bytes, bytes]] = []
    while some := cursor.fetchmany(_MERGE_LISTS):
        held += some
        last = next(at for at in range(len(held) - 1, -1, -1) if at == 0 or held[at - 1][0] != held[at][0])
        _add_merged(connection, segment, held[:last], new_row)
        held = held[last:]  # the last term may go on
    _add_merged(connection, segment, held, new_row)


def _add_merged(
    connection: sqlite3.Connection,
    segment: int,
    lists: Sequence[tuple[str, int, bytes, bytes]],
    new_row: dict[int, np.ndarray],
) -> None:
    if lists:
        connection.executemany(
            _ADD_POSTING,
            (
                (segment, term, rows.tobytes(), counts.tobytes())
                for term, (rows, counts) in sparse.concatenate(lists, new_row)
            ),
        )


def organise(database: Database, dimensions: int) -> None:
    """Past exact search, lay the large segments out in cells; the cells are chosen again when the index has grown fourfold."""
    connection = database.connection
    (total,) = connection.execute("SELECT coalesce(sum(rows - dead), 0) FROM segment").fetchone()
    if total <= dense.EXACT_ROWS:
        return
    large = "SELECT id FROM segment WHERE rows >= ?"
    if total >= 4 * (database.meta("cells_trained_on") or 0):
        with database.write():  # everything in one: cells and centroids must never disagree
            sample = _sample(connection, total, dimensions)
            database.set_meta("cells", dense.pack(dense.train_cells(sample)).tobytes())
            database.set_meta("cells_trained_on", total)
            for (id,) in connection.execute(large, (CELLED_ROWS,)).fetchall():
                merge(database, [id], dimensions)
        return
    for (id,) in connection.execute(large + " AND NOT celled", (CELLED_ROWS,)).fetchall():
        with database.write():
            merge(database, [id], dimensions)


def _sample(connection: sqlite3.Connection, total: int, dimensions: int) -> np.ndarray:
    """[n, d] float32: about ``_TRAINING_ROWS`` vectors, drawn evenly from all that are not deleted."""
    share = min(1.0, _TRAINING_ROWS / total)
    random = np.random.default_rng(0)
    samples = []
    for id, rows, bits in connection.execute("SELECT id, rows, alive FROM segment ORDER BY id").fetchall():
        live = np.flatnonzero(unpack_alive(bits, rows))
        chosen = random.choice(live, max(1, int(len(live) * share)), replace=False)
        samples.append(read_packed(connection, id, dimensions)[np.sort(chosen)])
    return dense.unpack(np.concatenate(samples).tobytes(), dimensions)


def known_vectors(database: Database, digests: Sequence[bytes], dimensions: int) -> dict[bytes, np.ndarray]:
    """digest -> [d] int16, for the passages among ``digests`` that the index, or an interrupted ingest, has embedded."""
    connection = database.connection
    vectors: dict[bytes, np.ndarray] = {}
    places: dict[bytes, int] = {}
    for some in batched(digests, 500):
        marks = ",".join("?" * len(some))
        for digest, data in connection.execute(f"SELECT digest, vector FROM pending WHERE digest IN ({marks})", some):
            vectors[digest] = np.frombuffer(data, "<i2")
        places.update(connection.execute(f"SELECT digest, id FROM chunk WHERE digest IN ({marks})", some))
    block, held = np.zeros((0, dimensions), "<i2"), (-1, 0)  # the last block read, its segment and first row
    for digest, id in sorted(places.items(), key=lambda place: place[1]):
        segment, row = divmod(id, SEGMENT_ROWS)
        if segment != held[0] or row >= held[1] + len(block):
            first, data = connection.execute(
                "SELECT first, data FROM vector WHERE segment = ? AND first <= ? ORDER BY first DESC LIMIT 1",
                (segment, row),
            ).fetchone()
            block, held = np.frombuffer(data, "<i2").reshape(-1, dimensions), (segment, first)
        vectors[digest] = block[row - held[1]].copy()
    return vectors


def read_packed(connection: sqlite3.Connection, segment: int, dimensions: int) -> np.ndarray:
    """[rows, d] int16: all vectors of a segment, in row order."""
    blocks = connection.execute("SELECT data FROM vector WHERE segment = ? ORDER BY first", (segment,)).fetchall()
    packed = np.frombuffer(b"".join(block for (block,) in blocks), "<i2").reshape(-1, dimensions)
    (rows,) = connection.execute("SELECT rows FROM segment WHERE id = ?", (segment,)).fetchone()
    if len(packed) != rows:
        raise IndexFailure(
            f"segment {segment} of the index has {rows} passages and {len(packed)} vectors",
            "Delete the folder of the index and ingest again; the documents themselves are not touched.",
        )
    return packed


def _cells_for(database: Database, vectors: np.ndarray) -> np.ndarray | None:
    cells = database.meta("cells")
    if cells is None or len(vectors) < CELLED_ROWS:
        return None
    dimensions = vectors.shape[1]
    return dense.assign(dense.unpack(vectors.tobytes(), dimensions), dense.unpack(cells, dimensions))


def _new_segment(connection: sqlite3.Connection, lengths: np.ndarray) -> int:
    alive = np.packbits(np.ones(len(lengths), bool)).tobytes()
    cursor = connection.execute(
        "INSERT INTO segment (rows, dead, celled, lengths, alive) VALUES (?, 0, 0, ?, ?)",
        (len(lengths), lengths.astype("<u4").tobytes(), alive),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _write_vectors(connection: sqlite3.Connection, segment: int, packed: np.ndarray, cells: np.ndarray | None) -> None:
    """``cells`` [rows] ascending, or None: blocks in no cell."""
    if cells is None:
        starts = list(range(0, len(packed), _BLOCK_ROWS))
        names = [_NO_CELL] * len(starts)
    else:
        unique, first = np.unique(cells, return_index=True)
        starts, names = first.tolist(), unique.tolist()
        connection.execute("UPDATE segment SET celled = 1 WHERE id = ?", (segment,))
    ends = [*starts[1:], len(packed)]
    connection.executemany(
        "INSERT INTO vector VALUES (?, ?, ?, ?)",
        (
            (segment, name, start, packed[start:end].astype("<i2").tobytes())
            for name, start, end in zip(names, starts, ends, strict=True)
        ),
    )


def _drop(connection: sqlite3.Connection, group: Sequence[int]) -> None:
    for segment in group:
        for table in ("posting", "vector"):
            connection.execute(f"DELETE FROM {table} WHERE segment = ?", (segment,))
        connection.execute("DELETE FROM segment WHERE id = ?", (segment,))
