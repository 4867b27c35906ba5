"""The verb: a table for a person, JSON for a program, and errors in two lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).parents[2] / "recipes" / "data" / "raw.jsonl"
RECIPE = f"sources: [{{path: {DATA}}}]\nquality: null\nworkers: 1\n"


def hornbook(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hornbook", "corpus", *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_the_account_is_printed_and_the_same_command_does_nothing_again(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE, "utf-8")
    first = hornbook("recipe.yaml", "-o", "out", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "duplicate.near" in first.stdout and "kept: train" in first.stdout
    assert "private.EMAIL" in first.stderr
    again = hornbook("recipe.yaml", "-o", "out", "--json", folder=tmp_path)
    said = json.loads(again.stdout)
    assert again.returncode == 0 and said["made_now"] is False and said["kept"]["train"]["examples"] == 14


def test_a_wrong_key_is_two_lines_and_exit_code_two(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE, "utf-8")
    wrong = hornbook("recipe.yaml", "langauges=[en]", "-o", "out", folder=tmp_path)
    assert wrong.returncode == 2 and "langauges" in wrong.stderr and "languages" in wrong.stderr
    assert "Traceback" not in wrong.stderr and not (tmp_path / "out").exists()
