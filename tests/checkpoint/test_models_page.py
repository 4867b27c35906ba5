"""docs/models.md is true: the family that it walks through runs as written there, and the table names the families that are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from family_parity import check_cached, check_parity, check_rewritten, check_saved

from hornbook.checkpoint import families

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's lines define, the family among the known ones."""
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, names)
    assert names["HUGGING_FACE"].name not in families.HUGGING_FACE, "it is there now: walk through another"
    monkeypatch.setitem(families.HUGGING_FACE, names["HUGGING_FACE"].name, names["HUGGING_FACE"])
    return names


def test_the_family_of_the_page_has_the_numbers_of_transformers(written: dict[str, Any], tmp_path: Path) -> None:
    assert len(written["CASES"]) > 1
    for number, case in enumerate(written["CASES"]):
        folder = tmp_path / str(number)
        check_parity(case, folder / "parity")
        check_cached(case, folder / "cached")
        check_saved(case, folder / "saved")
        check_rewritten(case, folder / "rewritten")


def test_the_table_names_every_family_that_runs_and_no_other() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 7]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    named = {name for row in cells for name in re.findall(r"`([\w-]+)`", row[2])}
    in_gguf = {name for row in cells for name in re.findall(r"`([\w-]+)`", row[3])}
    assert named - {"model_type"} == set(families.HUGGING_FACE)
    assert in_gguf == set(families.GGUF)
