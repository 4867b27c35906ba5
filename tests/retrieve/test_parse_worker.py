"""A file that ends the reader ends a child process and nothing else; what the child parses is what is parsed here."""

from __future__ import annotations

import functools
import io
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from toy_embedder import ToyEmbedder

from hornbook.errors import ParseError
from hornbook.retrieve import ingest as ingest_module
from hornbook.retrieve.index import Index
from hornbook.retrieve.parse import parse_bytes, worker
from hornbook.retrieve.parse.worker import ISOLATED, Worker
from hornbook.types import Document

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to its address space")
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals")
READY = f"import sys, time; sys.stdout.buffer.write({worker._READY!r}); sys.stdout.flush(); "
MEMO = "docs/unstructured/pdf/fake-memo.pdf"


def stand_in(what_it_does: str) -> list[str]:
    """A command that says it is ready and then does something else than a worker should."""
    return [sys.executable, "-c", READY + what_it_does]


@pytest.fixture
def isolated() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture(scope="module")
def killer(shared: Path) -> bytes:
    """A sound little workbook of 20,000 cells that share one string: calamine makes 18 GB of it and aborts."""
    out = io.BytesIO()
    text = b"<sst><si><t>" + b"word " * 180_000 + b"</t></si></sst>"
    rows = "".join(f'<row r="{i}"><c r="A{i}" t="s"><v>0</v></c></row>' for i in range(1, 20_001)).encode()
    sound = shared / "docs/unstructured/stanley-cups.xlsx"
    with zipfile.ZipFile(sound) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = text if name == "xl/sharedStrings.xml" else old.read(name)
            new.writestr(name, re.sub(rb"(?s)(<sheetData>).*(</sheetData>)", rb"\1" + rows + rb"\2", data))
    return out.getvalue()


def outcome(parse: Worker | None, data: bytes, path: Path) -> Document | tuple[str, str]:
    try:
        return parse.parse(data, path) if parse else parse_bytes(data, path)
    except ParseError as error:
        return error.what, error.remedy


def test_the_child_gives_the_same_documents_and_the_same_reasons(shared: Path, isolated: Worker) -> None:
    paths = [path for path in sorted((shared / "docs").rglob("*")) if path.suffix.lower() in ISOLATED]
    cases = [(path.read_bytes(), path) for path in paths]
    cases += [(data[: len(data) // 2], path) for data, path in cases]
    cases += [(b"", Path("empty.pdf")), (cases[0][0], Path("naïve 文書 \udcff.PDF"))]
    children = set()
    outcomes = []
    for data, path in cases:
        outcomes.append(outcome(isolated, data, path))
        assert outcomes[-1] == outcome(None, data, path), path
        children.add(isolated._child.pid if isolated._child else None)
    kinds = [type(found) for found in outcomes]
    assert kinds.count(Document) >= 15 and kinds.count(tuple) >= 5
    assert len(children) == 1 and None not in children  # one child read them all


def test_other_formats_need_no_child_until_they_are_large(isolated: Worker) -> None:
    assert isolated.parse(b"Hello.", "README").text == "Hello."
    assert isolated._child is None
    large = "Grüße, 你好.\n\n".encode() * 20_000
    assert isolated.parse(large, "README") == parse_bytes(large, "README")
    assert isolated._child is not None


def test_a_large_file_without_a_suffix_has_a_name_too() -> None:
    with pytest.raises(ParseError, match="the text file reader stopped on it"):
        Worker(stand_in("")).parse(b"a" * 1_000_000, "README")


@LINUX
def test_a_reader_that_aborts_is_a_reason_and_the_next_file_is_read(shared: Path, killer: bytes) -> None:
    limited = Worker(memory=512 << 20)
    memo = (shared / MEMO).read_bytes()
    try:
        for _ in range(2):
            with pytest.raises(ParseError, match=r"^the workbook reader stopped on it \(damaged\?\)$"):
                limited.parse(killer, "killer.xlsx")
            assert limited.parse(memo, "memo.pdf") == parse_bytes(memo, "memo.pdf")
            assert limited._child is not None
    finally:
        limited.close()


@LINUX
def test_memory_that_python_asks_for_is_limited_too() -> None:
    limited = Worker(memory=64 << 20)
    data = b"{\\rtf1 " + b"\\par" * 8_000_000 + b" word}"
    try:
        with pytest.raises(ParseError, match="RTF file (needs more memory than there is|reader stopped)"):
            limited.parse(data, "a.rtf")
        assert limited.parse(b"{\\rtf1 word}", "b.rtf").text == "word"
    finally:
        limited.close()


@pytest.mark.parametrize("what_it_does", ["time.sleep(60)", "sys.stdin.buffer.readline(); time.sleep(60)"])
def test_a_file_that_takes_too_long_is_given_up(what_it_does: str) -> None:
    slow = Worker(stand_in(what_it_does), seconds=0.3)
    for _ in range(2):  # the second in a child of its own
        began = time.monotonic()
        with pytest.raises(ParseError, match=r"^took longer than 0.3 s$"):
            slow.parse(bytes(1 << 20), "a.pdf")  # more than a pipe takes in
        assert slow._child is None and time.monotonic() - began < 5


@pytest.mark.parametrize(
    "what_it_does", ["", "sys.stdin.buffer.readline(); print('{', end='')", "import os; os.abort()"]
)
def test_a_child_that_ends_in_the_middle_is_a_crash(what_it_does: str) -> None:
    weak = Worker(stand_in(what_it_does))
    with pytest.raises(ParseError, match="the PDF reader stopped on it"):
        weak.parse(bytes(1 << 20), "a.pdf")
    assert weak._child is None


@pytest.mark.parametrize(
    "command", [["/no/such/program"], [sys.executable, "-c", "print('another program')"], [sys.executable, "-c", ""]]
)
def test_where_no_child_can_be_had_the_file_is_parsed_here(command: list[str], shared: Path) -> None:
    alone = Worker(command)
    data = (shared / MEMO).read_bytes()
    assert alone.parse(data, "a.pdf") == parse_bytes(data, "a.pdf")
    assert alone._child is None


def test_a_frozen_application_is_not_started_again(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    assert Worker().parse((shared / MEMO).read_bytes(), "a.pdf").text


def test_files_of_the_working_folder_are_not_taken_for_python_s(
    isolated: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json.py", "queue.py"):
        (tmp_path / name).write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert isolated.parse(b"{\\rtf1 word}", "a.rtf").text == "word"
    assert isolated._child is not None


def test_after_a_large_file_the_child_gives_its_memory_back(isolated: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_LARGE", 1000)
    isolated.parse(b"{\\rtf1 word}", "a.rtf")
    assert isolated._child is not None
    isolated.parse(b"{\\rtf1 " + b"word " * 300 + b"}", "a.rtf")
    assert isolated._child is None


OWNER = """
from hornbook.retrieve.parse.worker import Worker
worker = Worker()
try:
    worker.parse(b"{\\\\rtf1 word}", "a.rtf")
    print(worker._child.pid, flush=True)
    worker.parse(b"{\\\\rtf1 " + b"a" * 40_000_000 + b"}", "a.rtf")
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@POSIX
@pytest.mark.parametrize("whole_group", [True, False])
def test_the_child_ends_with_its_owner_and_says_nothing(whole_group: bool) -> None:
    """Ctrl-C goes to the whole group of a terminal; kill -9 to the owner alone."""
    pipe = subprocess.PIPE
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    assert owner.stdout is not None
    child = psutil.Process(int(owner.stdout.readline()))
    time.sleep(0.5)  # the second file is being parsed
    assert child.is_running()
    if whole_group:
        os.killpg(owner.pid, signal.SIGINT)
    else:
        owner.kill()
    said, complaint = owner.communicate(timeout=20)
    assert (said, complaint) == ("interrupted\n" if whole_group else "", "")
    deadline = time.monotonic() + 10
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE  # where nobody collects orphans


@POSIX
def test_ctrl_c_does_not_end_the_child_before_its_owner_says_so(isolated: Worker) -> None:
    isolated.parse(b"{\\rtf1 one}", "a.rtf")
    assert isolated._child is not None
    before = isolated._child.pid
    os.kill(before, signal.SIGINT)
    assert isolated.parse(b"{\\rtf1 two}", "a.rtf").text == "two"
    assert isolated._child.pid == before


def test_an_interrupted_file_s_answer_is_not_taken_for_the_next_one_s(
    isolated: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    isolated.parse(b"{\\rtf1 word}", "a.rtf")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker.Thread, "join", interrupt)
        with pytest.raises(KeyboardInterrupt):
            isolated.parse(b"{\\rtf1 " + b"one " * 300_000 + b"}", "a.rtf")
    assert isolated.parse(b"{\\rtf1 two}", "a.rtf").text == "two"


@LINUX
def test_a_folder_with_a_file_that_kills_the_reader_is_indexed_but_for_that_file(
    shared: Path, tmp_path: Path, killer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "Worker", functools.partial(Worker, memory=512 << 20))
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a.txt").write_text("The owl.")
    (folder / "b.xlsx").write_bytes(killer)
    (folder / "c.pdf").write_bytes((shared / MEMO).read_bytes())
    (folder / "d.xlsx").write_bytes((shared / "docs/unstructured/stanley-cups.xlsx").read_bytes())
    children = len(psutil.Process().children())
    with Index.open(tmp_path / "index", embedder=ToyEmbedder()) as index:
        report = index.ingest(folder)
        assert report.added == 3
        assert [(Path(path).name, reason) for path, reason in report.failed] == [
            ("b.xlsx", "the workbook reader stopped on it (damaged?)")
        ]
        assert index.search("Team Location Stanley Cups", 1)[0].document.path.endswith("d.xlsx")
    assert len(psutil.Process().children()) == children
