"""``run`` with a model that reads a text and writes another."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import hornbook
from hornbook import cli
from seq2seq_models import SEARCH, write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("t5"))


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return ended.value.code, captured.out, captured.err


def test_run_prints_what_it_writes(
    folder: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with hornbook.load(str(folder), device="cpu") as model:
        ((text, score),) = model.generate(["w3 w9 w27"], max_tokens=6)[0]
    assert call(capsys, "run", str(folder), "w3 w9 w27", "--max-tokens", "6")[:2] == (0, f"{text}\n")
    code, out, _ = call(capsys, "run", str(folder), "w3 w9 w27", "--max-tokens", "6", "--json")
    assert code == 0
    assert json.loads(out) | {"seconds": 0} == {
        "model": model.name, "text": text, "score": round(score, 4), "finish_reason": "length", "seconds": 0,
    }  # fmt: skip


@pytest.mark.parametrize("option", [("--temperature", "0.7"), ("--system", "Be kind."), ("--raw",), ("--seed", "3")])
def test_options_that_it_has_no_use_for_are_refused(
    option: tuple[str, ...],
    folder: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, out, err = call(capsys, "run", str(folder), "w3", *option)
    assert (code, out) == (2, "") and option[0] in err


def test_an_answer_is_as_long_as_the_model_says_and_a_cut_is_announced(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    folder = write_folder(tmp_path)
    said = SEARCH | {"max_length": 12, "min_length": 12}  # the start token, and 11
    (folder / "generation_config.json").write_text(json.dumps(said))
    code, out, err = call(capsys, "run", str(folder), "w3 w9 w27")
    assert (code, len(out.split())) == (0, 11) and "cut at" in err
    code, out, _ = call(capsys, "run", str(folder), "w3 w9 w27", "--max-tokens", "4", "--json")
    data = json.loads(out)
    assert (code, len(data["text"].split()), data["finish_reason"]) == (0, 4, "length")


def test_an_answer_that_ends_of_itself_is_not_called_cut(
    folder: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, _, err = call(capsys, "run", str(folder), "w8")
    assert code == 0 and "cut" not in err
    assert json.loads(call(capsys, "run", str(folder), "w8", "--json")[1])["finish_reason"] == "stop"


def test_chat_says_that_run_is_the_verb(folder: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "chat", str(folder))
    assert (code, out) == (2, "") and "hornbook run" in err
