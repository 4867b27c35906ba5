"""docs/python.md is true: its examples run, in their order, and it names what ``hornbook`` makes public."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import hornbook

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_every_name_of_the_table_is_public() -> None:
    names = re.findall(r"\[`hornbook\.(\w+)`\]", PAGE)
    assert len(names) >= 6
    assert set(names) <= set(hornbook.__all__)


@pytest.mark.models
def test_every_example_runs(
    smollm2_path: Path,
    minilm_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "models").symlink_to(smollm2_path.parents[1], target_is_directory=True)
    monkeypatch.setenv("HORNBOOK_HOME", str(home))
    monkeypatch.setenv("HORNBOOK_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    papers = tmp_path / "papers"
    papers.mkdir()
    (papers / "trial.md").write_text(
        "# The trial\n\nThe patients were followed for two years after surgery.\n", "utf-8"
    )
    (papers / "leaves.txt").write_text("The lace plant makes holes in its leaves while they grow.\n", "utf-8")
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "two years" in printed
    assert "False" not in printed  # each equality that the page prints holds
    assert "holds 8,192" in printed
