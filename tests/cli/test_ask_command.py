"""``ask``, ``ingest`` and ``search`` as a person meets them: good input, bad input, interruption, two at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hornbook import cli
from hornbook.cli.ask import Printer
from hornbook.cli.index import paths_and_question, place, say_report, shorten
from hornbook.errors import UsageError
from hornbook.types import IngestReport

OAK = "# Hornbooks\n\nA hornbook was a child's primer. The board of a hornbook was usually made of oak.\n"
QUESTION = "What was the board of a hornbook made of?"


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    folder.mkdir()
    (folder / "hornbook.md").write_text(OAK, "utf-8")
    (folder / "weather.txt").write_text("Rain is likely in the north on Tuesday. The south stays dry.\n", "utf-8")
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The verb in this process: (exit code, stdout, stderr)."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, shown.out, shown.err


def is_two_lines(err: str) -> bool:
    lines = err.strip("\n").splitlines()
    return len(lines) <= 2 and lines[0].startswith("hornbook: ") and "Traceback" not in err


# ------------------------------------------------------------------------------------------------------ good input


def test_an_answer_cites_the_file_and_json_spans_hold(
    stocked: Path, papers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "ask", papers, QUESTION)
    assert code == 0, err
    assert "oak" in out
    assert "[1]" in out
    assert "hornbook.md · Hornbooks" in out
    assert "indexed 2 files (2 new)" in err

    code, out, err = call(capsys, "ask", papers, QUESTION, "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert set(answer) >= {"answer", "sentences", "citations", "abstained", "timings"}
    assert not answer["abstained"]
    from hornbook.retrieve.parse import parse

    assert answer["citations"]
    for citation in answer["citations"]:
        assert set(citation) == {"n", "path", "page", "section", "start", "end", "quote"}
        assert parse(Path(citation["path"])).text[citation["start"] : citation["end"]] == citation["quote"]


def test_what_the_folder_does_not_say_is_not_answered(
    stocked: Path, papers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "ask", papers, "Who won the chess championship of 1972?", "--json")
    assert code == 0, err
    answer = json.loads(out)
    assert answer["abstained"]
    assert answer["citations"] == []


def test_search_needs_no_language_model_and_keeps_places(
    stocked: Path, papers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "search", papers, "wood of the board", "--json", "--k", 2)
    assert code == 0, err
    first = json.loads(out)[0]
    assert Path(first["path"]).name == "hornbook.md"
    assert first["section"] == "Hornbooks"
    code, out, err = call(capsys, "search", papers, "wood of the board", "--mode", "sparse")
    assert code == 0, err
    assert out.startswith("[1]")


def test_ingest_reports_what_changed(stocked: Path, papers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (papers / "scan.pdf").write_bytes(b"%PDF-1.4 broken")
    code, out, err = call(capsys, "ingest", papers, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["added"], report["unchanged"]) == (2, 0)
    assert [Path(failure["path"]).name for failure in report["failed"]] == ["scan.pdf"]
    assert "scan.pdf" in err
    (papers / "weather.txt").unlink()
    (papers / "hornbook.md").write_text(OAK + "\nHorn covered the sheet.\n", "utf-8")
    code, out, err = call(capsys, "ingest", papers, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert (report["added"], report["updated"], report["removed"]) == (0, 1, 1)


# ------------------------------------------------------------------------------------------------------- bad input


def test_wrong_use_is_told_in_two_lines_and_makes_nothing(
    stocked: Path, papers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        "does not exist": ["ask", tmp_path / "nowhere", QUESTION],
        "question is empty": ["ask", papers, "  "],
        "a question is missing": ["ask", papers],
        "a file or folder is missing": ["ask", QUESTION],
        "smollm2:136m": ["ask", papers, QUESTION, "--model", "smollm2:136m"],
    }
    for message, arguments in wrong.items():
        code, out, err = call(capsys, *arguments)
        assert (code, out) == (2, ""), err
        assert message in err
        assert is_two_lines(err), err
        assert not (stocked / "indexes").exists()


def test_an_unknown_model_offers_the_nearest(stocked: Path, papers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "ask", papers, QUESTION, "--model", "smolm2:135m")
    assert code == 2
    assert "smollm2:135m" in err


def test_a_folder_without_anything_to_read_is_a_failure(
    stocked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    code, out, err = call(capsys, "ask", empty, QUESTION)
    assert (code, out) == (1, "")
    assert "no document" in err
    (empty / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    (empty / "scan.pdf").write_bytes(b"%PDF-1.4")
    code, out, err = call(capsys, "ask", empty, QUESTION)
    assert (code, out) == (1, "")
    assert "could be read" in err


def test_a_truncated_model_is_named(
    stocked: Path, papers: Path, smollm2_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.gguf"
    with smollm2_path.open("rb") as whole:
        cut.write_bytes(whole.read(30_000_000))
    code, out, err = call(capsys, "ask", papers, QUESTION, "--model", cut)
    assert code == 1
    assert out == ""
    assert "cut.gguf" in err
    assert "Traceback" not in err


def test_a_damaged_index_is_made_anew_and_said(
    stocked: Path, papers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "index"
    assert call(capsys, "ingest", papers, "--index", place)[0] == 0
    for file in place.iterdir():
        if file.is_file() and file.stat().st_size > 4096:
            file.write_bytes(b"not a database " * 1000)
    code, out, err = call(capsys, "search", papers, "oak board", "--index", place, "--mode", "sparse", "--json")
    assert code == 0, err
    assert json.loads(out)
    assert "damaged" in err


def test_an_index_of_another_embedding_model_is_refused_with_the_remedy(
    stocked: Path, papers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], minilm_path: Path
) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(minilm_path, other)
    weights = bytearray((other / "model.safetensors").read_bytes())
    weights[len(weights) // 2 :] = bytes(len(weights) - len(weights) // 2)
    (other / "model.safetensors").write_bytes(weights)
    place = tmp_path / "index"
    assert call(capsys, "ingest", papers, "--index", place)[0] == 0
    (papers / "new.txt").write_text("A new note.\n", "utf-8")  # so that there is something to embed
    code, _, err = call(capsys, "ingest", papers, "--index", place, "--embedder", other)
    assert code == 1, err
    assert "other" in err
    assert is_two_lines(err), err


def test_a_question_longer_than_the_context_is_refused_with_both_numbers(
    stocked: Path, papers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(capsys, "ask", papers, "Why is oak hard? " * 3000)
    assert (code, out) == (2, "")
    assert is_two_lines(err), err
    assert sum(character.isdigit() for character in err) >= 8


# ---------------------------------------------------------------------------------------- interruption, concurrency


def test_ctrl_c_ends_quietly_and_the_next_run_is_whole(stocked: Path, papers: Path, run) -> None:
    for number in range(120):
        (papers / f"note-{number}.txt").write_text(f"Note {number}. " + OAK * 8, "utf-8")
    started = subprocess.Popen(
        [sys.executable, "-m", "hornbook", "ask", str(papers), QUESTION],
        env={**os.environ, "HORNBOOK_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(stocked.glob("indexes/*/*")) and time.monotonic() < deadline and started.poll() is None:
        time.sleep(0.05)
    time.sleep(1.0)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=60)
    # Where the signal meets Python while it compiles text (a dataclass on import), it ends itself by the signal afterwards,
    # which a shell reports as 130 too.
    assert started.returncode in (130, -signal.SIGINT), err
    assert "Traceback" not in err
    assert err.strip().splitlines()[-1] == "hornbook: stopped"
    done = run("ingest", papers, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["added"] + report["unchanged"] + report["updated"] == 122
    assert report["failed"] == []


def test_two_processes_may_ask_one_folder_at_once(stocked: Path, papers: Path) -> None:
    command = [sys.executable, "-m", "hornbook", "search", str(papers), "oak board", "--json"]
    environment = {**os.environ, "HORNBOOK_OFFLINE": "1"}
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert [Path(hit["path"]).name for hit in json.loads(out)][0] == "hornbook.md"


def test_a_reader_that_leaves_early_is_no_error(stocked: Path, papers: Path) -> None:
    command = f"{sys.executable} -m hornbook ask {papers} '{QUESTION}' | head -c 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "HORNBOOK_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_a_home_that_cannot_be_written_is_named(
    papers: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORNBOOK_HOME", "/proc/hornbook")
    code, out, err = call(capsys, "ask", papers, QUESTION)
    assert (code, out) == (1, "")
    assert "/proc/hornbook" in err
    assert "Traceback" not in err


# --------------------------------------------------------------------------------------------------- how it is shown


def test_words_split_into_paths_and_a_question(papers: Path) -> None:
    assert paths_and_question([str(papers), "why?"], have_index=False) == ([papers], "why?")
    assert paths_and_question(["why?"], have_index=True) == ([], "why?")
    with pytest.raises(UsageError, match="quotes"):
        paths_and_question([str(papers), "what", "is", "it"], have_index=False)


def test_places_quotes_and_reports_read_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert place(str(tmp_path / "a.pdf"), 7, "Results") == "a.pdf · p. 7"
    assert place(str(tmp_path / "a.md"), None, "Guide > Install") == "a.md · Guide > Install"
    assert shorten("one two three four", 10) == "one two…"
    assert shorten("两行\n  文字", 80) == "两行 文字"
    say_report(IngestReport(3, 1, 0, 38, 1204, (("/x/scan.pdf", "no text found (scanned?)"),), 0.94))
    assert capsys.readouterr().err.splitlines() == [
        "  indexed 42 files (3 new, 1 changed) · 1,204 passages · 0.9 s",
        "  1 file could not be read: scan.pdf (no text found (scanned?))",
    ]


def test_pieces_wrap_at_words_and_between_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer()
    printer.columns = 12
    for piece in ("Made of oak", " [1]. 角书是一种识字", "板。"):
        printer.write(piece)
    printer.end()
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["  Made of", "  oak [1].", "  角书是一种", "  识字板。"]
    hanging = Printer(following="      ")
    hanging.columns = 16
    hanging.write("[1] a.md · one two")
    hanging.end()
    assert capsys.readouterr().out.splitlines() == ["  [1] a.md · one", "      two"]
