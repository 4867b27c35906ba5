"""A table gives back what was written, is found again by its fingerprint, and never half there."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hornbook.data.encoded import SENTENCE, WORD, Account, Encoded
from hornbook.data.example import Place
from hornbook.data.table import Table, fingerprint
from hornbook.errors import DataError, StoreError


def rows(vocab: int = 500) -> list[Encoded]:
    draw = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return draw.integers(0, vocab, length).astype(np.int32)

    learnt = np.array([0, 1, 0, 1, 1], np.uint8)
    return [
        Encoded(ids(5), learnt, place=Place("a.jsonl", 3)),
        Encoded(ids(1), np.array([1], np.uint8), label=2),
        Encoded(ids(5), learnt, np.array([0, 0, 1, 1, 1], np.uint8), place=Place("日本.jsonl", 9)),
        Encoded(ids(2), np.zeros(2, np.uint8), target=ids(4)),
    ]


def written(folder: Path, made: list[Encoded], mark: str = "x", vocab: int = 500) -> Table:
    return Table.write(folder, made, fingerprint=mark, account=Account(len(made), len(made)), vocab_size=vocab)


def same(a: Encoded, b: Encoded) -> bool:
    def equal(x: object, y: object) -> bool:
        return np.array_equal(x, y) if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) else x == y

    return all(
        equal(getattr(a, name), getattr(b, name)) for name in ("ids", "learnt", "types", "label", "place", "starts")
    )


@pytest.mark.parametrize(("vocab", "bytes_each"), [(500, 2), (1 << 16, 2), (70_000, 4)])
def test_what_was_written_is_read(tmp_path: Path, vocab: int, bytes_each: int) -> None:
    made = rows(vocab)
    table = written(tmp_path / "t", made, vocab=vocab)
    assert len(table) == 4 and table.lengths.tolist() == [5, 1, 5, 2] and table.target_lengths.tolist() == [0, 0, 0, 4]
    assert (tmp_path / "t" / "ids.bin").stat().st_size == 13 * bytes_each
    for at, row in enumerate(made):
        assert same(table[at], row), at
        assert table[at].ids.dtype == np.int32 and table[at].learnt.dtype == np.uint8
    target, wanted = table[3].target, made[3].target
    assert target is not None and wanted is not None and target.tolist() == wanted.tolist()
    with pytest.raises(IndexError):
        table[4]
    marked = Encoded(made[0].ids, np.zeros(5, np.uint8), starts=np.array([SENTENCE | WORD, 0, WORD, 0, 0], np.uint8))
    assert same(written(tmp_path / "d", [marked])[0], marked)


def test_it_is_found_by_its_fingerprint_and_made_anew_where_it_differs(tmp_path: Path) -> None:
    folder, file = tmp_path / "t", tmp_path / "a.jsonl"
    file.write_text("one", "utf-8")
    first = fingerprint([file], "chat, context 8")
    assert first == fingerprint([file], "chat, context 8") != fingerprint([file], "chat, context 9")
    file.write_text("two", "utf-8")
    assert fingerprint([file], "chat, context 8") != first
    assert Table.find(folder, first) is None
    written(folder, rows()[:1], first)
    found = Table.find(folder, first)
    assert found is not None and len(found) == 1 and Table.find(folder, "other") is None
    assert len(written(folder, rows(), "other")) == 4 and Table.find(folder, first) is None
    (folder / "ids.bin").write_bytes(b"123")
    with pytest.raises(DataError, match=r"no sound table .* ids.bin has 3 bytes for 13 tokens"):
        Table.open(folder)
    assert len(written(folder, rows(), "other")) == 4, "a damaged one is replaced"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_what_ends_in_between_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data that break in the middle, a full disk, and no example at all: the table that was there stays."""
    folder = tmp_path / "t"
    written(folder, rows(), "old")

    def broken() -> Iterator[Encoded]:
        yield from rows()
        raise DataError("line 5 is no JSON", "")

    with pytest.raises(DataError, match="line 5"):
        Table.write(folder, broken(), fingerprint="new", account=Account(), vocab_size=500)
    with pytest.raises(DataError, match="no example"):
        Table.write(folder, [], fingerprint="new", account=Account(), vocab_size=500)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        written(folder, rows(), "new")
    assert Table.find(folder, "old") is not None and [path.name for path in tmp_path.iterdir()] == ["t"]


def test_what_a_killed_process_left_is_swept_away_and_what_another_writes_is_not(tmp_path: Path) -> None:
    for name, age in ((".t.0123abcd", 7200), (".t.4567abcd", 60)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "ids.bin").write_bytes(b"half")
        for path in (tmp_path / name / "ids.bin", tmp_path / name):
            os.utime(path, (time.time() - age,) * 2)
    written(tmp_path / "t", rows())
    assert sorted(path.name for path in tmp_path.iterdir()) == [".t.4567abcd", "t"]


def test_processes_that_encode_the_same_at_once_end_with_one_table(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        tables = list(pool.map(lambda _: written(tmp_path / "t", rows(), "same"), range(12)))
    assert all(len(table) == 4 and same(table[0], rows()[0]) for table in tables)
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_another_format_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "t", rows())
    said = json.loads((tmp_path / "t" / "table.json").read_text("utf-8"))
    (tmp_path / "t" / "table.json").write_text(json.dumps(said | {"format": 99}), "utf-8")
    with pytest.raises(DataError, match="its format is 99"):
        Table.open(tmp_path / "t")
