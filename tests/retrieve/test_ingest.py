from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from toy_embedder import ToyEmbedder

from hornbook.errors import IndexFailure
from hornbook.retrieve import ingest as ingest_module
from hornbook.retrieve.index import Index
from hornbook.retrieve.parse.worker import Worker
from hornbook.types import IngestReport

LONG_AGO = 1_600_000_000


def write(path: Path, text: str, at: int = LONG_AGO) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    os.utime(path, (at, at))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    for name in "abc":
        write(folder / f"{name}.txt", f"The story of {name} and the owl.")
    return folder


@pytest.fixture
def embedder() -> ToyEmbedder:
    return ToyEmbedder()


@pytest.fixture
def index(tmp_path: Path, embedder: ToyEmbedder) -> Index:
    return Index.open(tmp_path / "index", embedder=embedder)


def counts(report: IngestReport) -> tuple[int, int, int, int]:
    return report.added, report.updated, report.removed, report.unchanged


def found(index: Index) -> dict[str, str]:
    return {Path(hit.document.path).name: hit.chunk.text for hit in index.search("the", 1000, mode="dense")}


def test_only_what_changed_is_read_again(index: Index, files: Path, embedder: ToyEmbedder) -> None:
    assert counts(index.ingest(files)) == (3, 0, 0, 0)
    embedder.embedded.clear()
    write(files / "a.txt", "A new tale.", LONG_AGO + 60)
    write(files / "d.txt", "A fourth tale.")
    (files / "b.txt").unlink()
    report = index.ingest(files)
    assert counts(report) == (1, 1, 1, 1) and report.chunks == 3
    assert found(index) == {"a.txt": "A new tale.", "c.txt": "The story of c and the owl.", "d.txt": "A fourth tale."}
    assert len(embedder.embedded) == 2


def test_nothing_changed_means_nothing_read_loaded_or_written(
    index: Index, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.ingest(files)
    index.close()
    before = {path: path.read_bytes() for path in (tmp_path / "index").glob("index.sqlite*")}
    monkeypatch.setattr(ingest_module, "_read", lambda *_: pytest.fail("an unchanged file was read"))
    monkeypatch.setattr(Worker, "parse", lambda *_: pytest.fail("an unchanged file was parsed"))
    with Index.open(tmp_path / "index") as again:  # no embedder: loading one would fail offline, and must not be tried
        assert counts(again.ingest(files)) == (0, 0, 0, 3)
        assert again._embedder is None
    assert {path: path.read_bytes() for path in (tmp_path / "index").glob("index.sqlite*")} == before


def test_a_new_time_stamp_alone_is_not_a_change(index: Index, files: Path, embedder: ToyEmbedder) -> None:
    index.ingest(files)
    embedder.embedded.clear()
    os.utime(files / "a.txt", (LONG_AGO + 5, LONG_AGO + 5))
    assert counts(index.ingest(files)) == (0, 0, 0, 3)
    assert not embedder.embedded


def test_an_edit_within_the_clock_tick_of_the_last_ingest_is_seen(index: Index, files: Path) -> None:
    now = time.time_ns()
    (files / "a.txt").write_text("one text")
    os.utime(files / "a.txt", ns=(now, now))
    index.ingest(files)
    (files / "a.txt").write_text("two text")  # same size, and the file system's clock has not moved
    os.utime(files / "a.txt", ns=(now, now))
    assert index.ingest(files).updated == 1


def test_only_documents_under_the_given_paths_are_removed(index: Index, files: Path, tmp_path: Path) -> None:
    write(tmp_path / "files2" / "x.txt", "Elsewhere.")
    index.ingest([files, tmp_path / "files2"])
    (files / "a.txt").unlink()
    (tmp_path / "files2" / "x.txt").unlink()
    write(tmp_path / "files2" / "y.txt", "Still here.")
    assert counts(index.ingest(files)) == (0, 0, 1, 2)
    assert "x.txt" in found(index)
    assert counts(index.ingest([files, tmp_path / "files2"])) == (1, 0, 1, 2)


def test_a_link_and_its_target_are_one_place(index: Index, files: Path, tmp_path: Path) -> None:
    index.ingest(files)
    (tmp_path / "link").symlink_to(files, target_is_directory=True)
    assert counts(index.ingest(tmp_path / "link")) == (0, 0, 0, 3)


def test_a_file_that_cannot_be_read_is_said_each_time_and_tried_again_when_it_changes(
    index: Index, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(files / "broken.docx", "this is no zip archive at all")
    tried = []
    parse = Worker.parse
    monkeypatch.setattr(Worker, "parse", lambda self, data, path: tried.append(path.name) or parse(self, data, path))
    first = index.ingest(files)
    assert counts(first) == (3, 0, 0, 0)
    assert [(Path(path).name, bool(reason)) for path, reason in first.failed] == [("broken.docx", True)]
    tried.clear()
    again = index.ingest(files)
    assert again.failed == first.failed and not tried
    write(files / "broken.docx", "still no zip archive, but another", LONG_AGO + 9)
    assert index.ingest(files).failed and tried == ["broken.docx"]
    (files / "broken.docx").unlink()
    assert not index.ingest(files).failed
    assert index.stats["failed"] == 0


def test_a_document_that_becomes_unreadable_leaves_the_index(index: Index, files: Path) -> None:
    write(files / "a.docx", "")
    (files / "a.txt").rename(files / "a.json")
    write(files / "a.json", '{"owl": "a story"}')
    index.ingest(files)
    assert "a.json" in found(index)
    write(files / "a.json", '{"owl": ', LONG_AGO + 9)
    report = index.ingest(files)
    if report.failed:  # a parser may still make something of half a JSON file
        assert "a.json" not in found(index)


def test_words_that_were_embedded_before_are_not_embedded_again(
    index: Index, files: Path, embedder: ToyEmbedder
) -> None:
    text = "\n\n".join(f"# Part {i}\n\nParagraph {i} about owls." for i in range(20))
    write(files / "long.md", text)
    index.ingest(files)
    embedder.embedded.clear()
    write(files / "long.md", text.replace("Paragraph 7 about", "Paragraph 7 not about"), LONG_AGO + 9)
    assert index.ingest(files).updated == 1
    assert len(embedder.embedded) == 1 and "Paragraph 7 not about" in embedder.embedded[0]


def test_ctrl_c_keeps_what_was_committed_and_the_next_run_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "BATCH_CHUNKS", 5)
    for number in range(40):
        write(tmp_path / "files" / f"f{number:02}.txt", f"Tale number {number}.")

    class Interrupted(ToyEmbedder):
        def embed(self, texts, *, kind="passage"):  # type: ignore[no-untyped-def]
            if len(self.embedded) >= 20:
                raise KeyboardInterrupt
            return super().embed(texts, kind=kind)

    with Index.open(tmp_path / "index", embedder=Interrupted()) as index:
        with pytest.raises(KeyboardInterrupt):
            index.ingest(tmp_path / "files")
        assert index.stats["chunks"] == 20
        assert len(index.search("tale", 100, mode="sparse")) == 20
    with Index.open(tmp_path / "index", embedder=ToyEmbedder()) as index:
        report = index.ingest(tmp_path / "files")
        assert counts(report) == (20, 0, 0, 20)
        assert len(found(index)) == 40 == report.chunks


_SLOW_INGEST = """
import sys, time
sys.path.insert(0, sys.argv[3])
from toy_embedder import ToyEmbedder
from hornbook.retrieve import ingest
from hornbook.retrieve.index import Index
ingest.BATCH_CHUNKS, ingest._EMBED_CHUNKS = 8, 16
class Slow(ToyEmbedder):
    def embed(self, texts, *, kind="passage"):
        time.sleep(0.002 * len(texts))
        return super().embed(texts, kind=kind)
print("begin", flush=True)
with Index.open(sys.argv[1], embedder=Slow()) as index:
    print(index.ingest(sys.argv[2]).chunks, flush=True)
"""


def slow_ingest(tmp_path: Path) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    arguments = [sys.executable, "-c", _SLOW_INGEST, str(tmp_path / "index"), str(tmp_path / "files"), here]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "begin\n"
    return process


def many_files(tmp_path: Path) -> int:
    for number in range(60):
        write(tmp_path / "files" / f"f{number:02}.txt", f"Tale number {number} of the owl.")
    write(tmp_path / "files" / "g-large.md", "\n\n".join(f"# Part {i}\n\nParagraph {i}." for i in range(100)))
    return 160


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.35, 0.5])
def test_a_kill_at_any_moment_costs_nothing_but_the_batch_in_hand(tmp_path: Path, delay: float) -> None:
    total = many_files(tmp_path)
    process = slow_ingest(tmp_path)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Index.open(tmp_path / "index", embedder=ToyEmbedder()) as index:
        assert not index.notices, "a kill must never damage the index"
        for hit in index.search("owl", 1000):
            assert hit.chunk.text == hit.document.text[hit.chunk.start : hit.chunk.end]
        report = index.ingest(tmp_path / "files")
        assert report.chunks == total and report.added + report.unchanged == 61 and not report.failed
        hits = index.search("tale of the owl paragraph part", 1000, mode="dense")
        assert len(hits) == total == len({(hit.document.path, hit.chunk.start) for hit in hits})
        assert index.ingest(tmp_path / "files").unchanged == 61


def test_two_processes_on_one_index_take_turns(tmp_path: Path) -> None:
    total = many_files(tmp_path)
    processes = [slow_ingest(tmp_path) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == [str(total)] * 2
    with Index.open(tmp_path / "index", embedder=ToyEmbedder()) as index:
        assert len(index.search("owl part", 1000, mode="dense")) == total


def test_an_index_that_another_process_writes_can_be_searched_and_says_that_it_waits(tmp_path: Path) -> None:
    many_files(tmp_path)
    with Index.open(tmp_path / "index", embedder=ToyEmbedder()) as index:
        write(tmp_path / "one" / "x.txt", "The first owl.")
        index.ingest(tmp_path / "one")
        said: list[str] = []
        with index._file_lock():
            assert index.search("owl", 1)[0].chunk.text == "The first owl."
            with pytest.raises(IndexFailure) as caught:
                index.ingest(tmp_path / "files", progress=lambda what, *_: said.append(what), wait_seconds=0.1)
        assert "another process" in caught.value.what and "another process" in said[0]


def test_the_index_never_reads_its_own_folder(files: Path) -> None:
    with Index.open(files / "index", embedder=ToyEmbedder()) as index:
        index.ingest(files)
        (files / "index" / "notes.txt").write_text("not a document")
        assert counts(index.ingest(files)) == (0, 0, 0, 3)


def test_progress_names_the_work_and_ends_complete(index: Index, files: Path) -> None:
    said: list[tuple[str, int, int]] = []
    index.ingest(files, progress=lambda *step: said.append(step))
    assert said[-1] == ("reading", 3, 3)
    assert {"looking", "reading", "embedding"} <= {what for what, _, _ in said}
