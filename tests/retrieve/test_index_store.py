from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from toy_embedder import ToyEmbedder

from hornbook.errors import HornbookError, IndexFailure, IndexMismatch
from hornbook.retrieve import store
from hornbook.retrieve.index import Index
from hornbook.retrieve.store import Database


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(30):
        (folder / f"f{number:02}.txt").write_text(f"Tale number {number} of the owl. " * 40)
    return folder


@pytest.fixture
def folder(tmp_path: Path, files: Path) -> Path:
    with Index.open(tmp_path / "index", embedder=ToyEmbedder()) as index:
        index.ingest(files)
    return tmp_path / "index"


def open_(folder: Path, **options: bool) -> Index:
    return Index.open(folder, embedder=ToyEmbedder(), **options)


def test_an_index_of_another_format_is_refused_and_left_alone(folder: Path) -> None:
    path = folder / store.FILE_NAME
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(IndexMismatch) as caught:
        open_(folder)
    assert "99" in caught.value.what and "newer" in caught.value.remedy
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM document").fetchone() == (30,)


def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / store.FILE_NAME) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    with pytest.raises(IndexFailure, match="not an index of Hornbook"):
        open_(tmp_path)


@pytest.mark.parametrize("damage", ["not a database", "cut in half"])
def test_a_damaged_index_is_set_aside_said_and_rebuilt(folder: Path, files: Path, damage: str) -> None:
    path = folder / store.FILE_NAME
    data = path.read_bytes()
    path.write_bytes(b"no database " * 1000 if damage == "not a database" else data[: len(data) // 2])
    with open_(folder) as index:
        report = index.ingest(files)
        assert report.added == 30
        assert "damaged" in index.notices[0]
        assert len(list(folder.glob("index.sqlite.damaged-*"))) == 1
        assert len(index.search("owl", 5)) == 5


def test_a_reader_says_what_is_damaged_and_the_remedy(folder: Path) -> None:
    (folder / store.FILE_NAME).write_bytes(b"no database " * 1000)
    with pytest.raises(IndexFailure, match="damaged") as caught:
        open_(folder, readonly=True)
    assert "ngest again" in caught.value.remedy


def test_bytes_turned_over_anywhere_give_an_answer_or_a_named_error(folder: Path, files: Path) -> None:
    path = folder / store.FILE_NAME
    sound = path.read_bytes()
    chance = random.Random(5)
    named = 0
    for _ in range(25):
        data = bytearray(sound)
        for _ in range(chance.choice([1, 20, 400])):
            data[chance.randrange(100, len(data))] ^= chance.randrange(1, 256)
        path.write_bytes(data)
        for side in folder.glob("index.sqlite-*"):
            side.unlink()
        try:
            with open_(folder) as index:
                index.search("owl number 7", 5)
                index.stats  # noqa: B018
                index.ingest(files)
                index.search("owl number 7", 5)
        except HornbookError:
            named += 1
    assert named < 25, "some damage must be survived"


def test_a_folder_without_an_index_is_an_error_for_a_reader_only(tmp_path: Path) -> None:
    with pytest.raises(IndexFailure, match="no index"):
        open_(tmp_path / "none", readonly=True)
    assert not (tmp_path / "none").exists()


def test_a_readonly_index_searches_and_refuses_to_write(folder: Path, files: Path) -> None:
    with open_(folder, readonly=True) as index:
        assert len(index.search("owl", 5)) == 5
        for write in (lambda: index.ingest(files), lambda: index.delete("x"), index.compact):
            with pytest.raises(IndexFailure, match="reading only"):
                write()


_READ = """
import os, pathlib, sys, tempfile
from toy_embedder import ToyEmbedder
from hornbook.retrieve.index import Index
with tempfile.TemporaryDirectory() as top:  # a whole search first: everything is imported while it may be read
    pathlib.Path(top, "owl.txt").write_text("An owl.")
    with Index.open(pathlib.Path(top, "index"), embedder=ToyEmbedder()) as index:
        index.ingest([pathlib.Path(top, "owl.txt")])
        assert index.search("owl", 5)
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
with Index.open(sys.argv[1], embedder=ToyEmbedder()) as index:
    print(len(index.search("owl", 5)), index.readonly)
"""


def test_a_folder_that_may_not_be_written_is_still_searched(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as top:  # tmp_path lies in a folder that only its owner may enter
        os.chmod(top, 0o755)
        bare = Path(top) / "index"
        shutil.copytree(folder, bare)
        for path in bare.iterdir():
            path.chmod(0o444)
        bare.chmod(0o555)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent), "HORNBOOK_HOME": "/nonexistent"}
        command = [sys.executable, "-c", _READ, str(bare)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        bare.chmod(0o755)
        assert done.stdout == "5 True\n", done.stderr


def test_a_home_that_cannot_be_made_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(IndexFailure) as caught:
        open_(tmp_path / "file" / "index")
    assert caught.value.remedy


def test_a_reader_keeps_its_view_while_a_writer_commits(folder: Path) -> None:
    reader = store.Database.open(folder / store.FILE_NAME, readonly=True)
    writer = store.Database.open(folder / store.FILE_NAME, readonly=False)
    with reader.read() as view:
        before = view.execute("SELECT count(*) FROM document").fetchone()
        with writer.write() as connection:
            connection.execute("DELETE FROM chunk")
            connection.execute("DELETE FROM document")
        assert view.execute("SELECT count(*) FROM document").fetchone() == before == (30,)
    with reader.read() as view:
        assert view.execute("SELECT count(*) FROM document").fetchone() == (0,)
    reader.close()
    writer.close()


def test_a_write_that_fails_leaves_nothing(folder: Path) -> None:
    database = store.Database.open(folder / store.FILE_NAME, readonly=False)
    with pytest.raises(KeyboardInterrupt), database.write() as connection:
        connection.execute("DELETE FROM chunk")
        raise KeyboardInterrupt
    assert database.connection.execute("SELECT count(*) FROM chunk").fetchone()[0] > 0
    database.close()


def test_opening_and_searching_a_small_index_takes_milliseconds(folder: Path) -> None:
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        with open_(folder, readonly=True) as index:
            index.search("owl number 7", 5)
        best = min(best, time.perf_counter() - began)
    assert best < 0.1


def test_many_may_make_one_index_at_once(tmp_path: Path) -> None:
    for round in range(10):
        path, together = tmp_path / f"{round}.sqlite", threading.Barrier(4)

        def make(_: int, path: Path = path, together: threading.Barrier = together) -> int:
            together.wait()
            database = Database.open(path, readonly=False)
            generation = database.meta("generation")
            database.close()
            return int(generation)

        with ThreadPoolExecutor(4) as makers:
            assert list(makers.map(make, range(4))) == [0] * 4
