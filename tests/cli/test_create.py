"""``hornbook create``, ``cp``, ``show --modelfile`` and what ``list`` and ``rm`` do with created models."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def run(run_here: Any, home: Path, smollm2_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command in this process, in a home that has SmolLM2. ``stdin``: what it reads; ``code``: how it must end."""
    (home / "models").mkdir(parents=True)
    (home / "models" / smollm2_path.parent.name).symlink_to(smollm2_path.parent, target_is_directory=True)
    monkeypatch.setenv("HORNBOOK_OFFLINE", "1")

    def run(*words: str, stdin: str = "", code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8"))
        ended, out, err = run_here(*words)
        assert ended == code, err
        return out, err

    return run


def test_a_model_is_created_shown_created_again_copied_and_removed(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "Modelfile"
    file.write_text("FROM smollm2:135m\nSYSTEM Réponds en français.\nPARAMETER temperature 0\n", "utf-8")
    assert "is made from smollm2:135m" in run("create", "french", "-f", str(file))[1]
    shown = run("show", "french", "--modelfile")[0]
    assert shown == 'FROM smollm2:135m\nPARAMETER temperature 0\nSYSTEM """Réponds en français."""\n'
    again = json.loads(run("create", "again", "-f", "-", "--json", stdin=shown)[0])
    assert again["modelfile"] == shown
    run("cp", "french", "paris")
    listed = json.loads(run("list", "--json")[0])
    assert [one["name"] for one in listed["created"]] == ["again", "french", "paris"]
    assert json.loads(run("show", "paris", "--json")[0])["created"]["parent"] == "smollm2:135m"
    assert "paris" in run("list")[0]
    assert "which the server runs" in run("run", "paris", "Bonjour", code=2)[1]
    run("rm", "french", "again", "paris")
    assert json.loads(run("list", "--json")[0])["created"] == []


def test_a_fault_is_told_in_two_lines(run: Any, tmp_path: Path) -> None:
    told = run("create", "x", "-f", "-", stdin="FROM smollm2:135m\nPARAMETER mirostat 2\n", code=2)[1]
    assert told.startswith("hornbook: the Modelfile, line 2: the parameter mirostat is not supported")
    assert len(told.splitlines()) == 2
    assert "cannot be read" in run("create", "x", "-f", str(tmp_path / "none"), code=2)[1]
    (tmp_path / "latin").write_bytes(b"FROM smollm2:135m\nSYSTEM caf\xe9\n")
    assert "UTF-8" in run("create", "x", "-f", str(tmp_path / "latin"), code=2)[1]
