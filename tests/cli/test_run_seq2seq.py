"""``run`` with a model that reads a text and writes another."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import hornbook
from hornbook import cli
from seq2seq_models import write_folder


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
        "model": model.name, "text": text, "score": round(score, 4), "seconds": 0,
    }  # fmt: skip


@pytest.mark.parametrize("option", [("--temperature", "0.7"), ("--system", "Be kind.")])
def test_options_that_it_has_no_use_for_are_refused(
    option: tuple[str, str],
    folder: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    code, out, err = call(capsys, "run", str(folder), "w3", *option)
    assert (code, out) == (2, "") and option[0] in err


def test_chat_says_that_run_is_the_verb(folder: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "chat", str(folder))
    assert (code, out) == (2, "") and "hornbook run" in err
