"""docs/models.md is true: the family that it walks through runs as written there, and the table names the families that are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from family_parity import check_cached, check_parity, check_rewritten, check_saved

from hornbook.checkpoint import families

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "models.md").read_text("utf-8")
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


def families_in(page: str) -> list[list[str]]:
    """The cells of the page's table of families, its head left out."""
    table = page[page.index("\n| family |") + 1 :].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_table_names_every_family_that_runs_and_no_other() -> None:
    cells = families_in(PAGE)
    named = {name for row in cells for name in re.findall(r"`([\w-]+)`", row[2])}
    in_gguf = {name for row in cells for name in re.findall(r"`([\w-]+)`", row[3])}
    assert named == set(families.HUGGING_FACE)
    assert in_gguf == set(families.GGUF)


# What the parity tests call a model type, where they have another name for it.
LABELS = {
    **{"openai-gpt": "gpt", "gemma": "gemma 1", "gemma2": "gemma 2", "gemma3_text": "gemma 3", "phi3": "phi 3"},
    **{"qwen2": "Qwen2", "qwen2_moe": "Qwen2Moe", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe"},
    **{"RefinedWeb": "falcon", "RefinedWebModel": "falcon"},
}


def test_the_figures_of_the_table_are_those_that_were_measured() -> None:
    measured = {row[0]: row for row in families_in((DOCS / "results" / "families.md").read_text("utf-8"))}
    named = set()
    for family, _, types, _, to_transformers, to_llama_cpp in families_in(PAGE):
        labels = {LABELS.get(kind, kind) for kind in re.findall(r"`([\w-]+)`", types)}
        named |= labels
        states_and_logits = [figure for label in labels for figure in measured[label][2:4] if figure]
        assert to_transformers == max(states_and_logits, key=float), family
        in_gguf = [measured[label][8] for label in labels if measured[label][8]]
        assert to_llama_cpp == max(in_gguf, key=float, default=""), family
    assert named == set(measured)
