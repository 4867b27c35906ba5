"""The front door: fast, plain, exact exit codes, and no traceback for a person."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from hornbook import cli
from hornbook.errors import HornbookError, UsageError


def hornbook(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hornbook", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


def test_alone_it_shows_the_four_things_and_not_forty_verbs() -> None:
    shown = hornbook()
    assert shown.returncode == 0
    assert "hornbook ask FOLDER" in shown.stdout
    assert len(shown.stdout.splitlines()) < 12


def test_help_names_every_verb_once() -> None:
    shown = hornbook("--help")
    assert shown.returncode == 0
    for verb in cli.VERBS:
        assert sum(line.split()[:1] == [verb] for line in shown.stdout.splitlines()) == 1, verb


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str) -> None:
    shown = hornbook(verb, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "Example: hornbook" in shown.stdout


@pytest.mark.parametrize("statement", ["import hornbook", "import hornbook.cli; hornbook.cli._help()"])
def test_the_front_door_loads_nothing_heavy(statement: str) -> None:
    heavy = "torch numpy tokenizers transformers typer rich pydantic lxml huggingface_hub jinja2 pypdfium2"
    code = f"import sys; {statement}; print(*[m for m in {heavy.split()} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == ""


def test_an_unknown_verb_is_wrong_use_and_offers_the_nearest() -> None:
    shown = hornbook("serach", "x")
    assert shown.returncode == 2
    assert "Did you mean search" in shown.stderr
    assert "Traceback" not in shown.stderr


def test_an_unknown_option_is_wrong_use_in_two_lines() -> None:
    shown = hornbook("systems", "--nonsense")
    assert shown.returncode == 2
    assert "--nonsense" in shown.stderr
    assert len(shown.stderr.strip().splitlines()) == 2


@pytest.mark.parametrize(("error", "code"), [(HornbookError("it broke", "mend it"), 1), (UsageError("wrong", "so"), 2)])
def test_errors_are_two_lines_and_an_exit_code(
    error: HornbookError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(given: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_dispatch", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["ask"])
    assert ended.value.code == code
    assert capsys.readouterr().err == f"hornbook: {error.what}\n  {error.remedy}\n"


def test_a_defect_is_named_without_a_traceback_and_with_one_under_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(given: list[str]) -> int:
        raise RuntimeError("deep\ntrouble")

    monkeypatch.setattr(cli, "_dispatch", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["ask"])
    assert ended.value.code == 1
    with pytest.raises(RuntimeError):
        cli.main(["ask", "--debug"])


def test_output_closed_early_is_no_error() -> None:
    command = f"{sys.executable} -m hornbook systems | head -n 1; exit ${{PIPESTATUS[0]}}"
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert shown.returncode == 0
    assert shown.stderr == ""


def test_interrupted_it_says_so_and_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(given: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["chat"])
    assert ended.value.code == 130


def test_start_up_is_quick_enough_to_be_typed_often() -> None:
    """A guard of ten times the aim (0.3 s and 0.5 s on a quiet machine), so that noise cannot fail it."""
    began = time.perf_counter()
    hornbook("--help")
    assert time.perf_counter() - began < 5
