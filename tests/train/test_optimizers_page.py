"""The example of docs/optimizers.md does what it says, and the page names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hornbook.train.optim import OPTIMIZERS
from hornbook.train.precision import PRECISIONS
from hornbook.train.schedule import SCHEDULES

PAGE = (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text("utf-8")


def test_its_example_learns_and_leaves_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/optimizers.md", "exec"), {"__name__": "page"})
    before, after = map(float, re.findall(r"(\d\.\d\d) -> (\d\.\d\d)", capsys.readouterr().out)[0])
    assert before > 3 and after < 1
    assert [path.name for path in sorted((tmp_path / "counting" / "checkpoints").iterdir())] == [
        "step-000040",
        "step-000060",
    ]


def test_it_names_every_optimizer_schedule_and_precision() -> None:
    rows = {name for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)}
    assert rows == {*OPTIMIZERS, *SCHEDULES, *PRECISIONS, "optimizer", "schedule", "precision"}
