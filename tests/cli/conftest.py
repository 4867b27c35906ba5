"""A home of a test's own that has the real models, and a way to run a verb as a person does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hornbook.cli import main
from hornbook.settings import Settings

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def stocked(home: Path, smollm2_path: Path, minilm_path: Path) -> Path:
    """An empty HORNBOOK_HOME, but for the models of the person's own store."""
    home.mkdir(parents=True)
    real = next(folder for folder in smollm2_path.parents if folder.name == "models")
    (home / "models").symlink_to(real, target_is_directory=True)
    assert Settings.load().models.is_dir()
    return home


@pytest.fixture
def run() -> Run:
    """``run("ask", ...)``: the command in a process of its own, offline."""

    def runs(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "HORNBOOK_OFFLINE": "1"}
        return subprocess.run(
            [sys.executable, "-m", "hornbook", *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=240,
            **options,  # type: ignore[call-overload]
        )

    return runs


RunHere = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_here(capfd: pytest.CaptureFixture[str], home: Path) -> RunHere:
    """``run_here("show", ...)``: the command in this process, with an empty home; -> exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        out, err = capfd.readouterr()
        return int(end.value.code or 0), out, err

    return run
