"""docs/adapters.md is true: its examples run, in their order, and its table has every kind that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hornbook import adapt

PAGE = (Path(__file__).parents[2] / "docs" / "adapters.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_the_table_has_every_kind_and_what_is_true_of_it() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")
    ]
    kinds = {kind: row for row in rows if len(row) == 5 for kind in re.findall(r"`(\w+)`", row[0])}
    assert set(kinds) == set(adapt.KINDS)
    for kind, row in kinds.items():
        assert adapt.KINDS[kind].__name__ in row[1]
        assert (row[4] == "own") == adapt.KINDS[kind].peft_type.startswith("HORNBOOK_")


def test_every_example_runs(
    tiny_llm_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my-model").symlink_to(tiny_llm_path, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/adapters.md", "exec"), names)
    assert capsys.readouterr().out.split() == ["True", "True"]
