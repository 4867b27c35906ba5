"""Questions that a model was trained on are found in the data of its run, and what was not searched is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from hornbook.evals import trained_on
from hornbook.evals.task import Item
from hornbook.evals.trained_on import run_of, warnings

LONG = "The old lighthouse keeper climbed all two hundred steps every evening before the sun went down over the bay"
CHINESE = "长江发源于青藏高原，流经十一个省级行政区，最后在上海市注入东海，全长约六千三百公里，是亚洲最长的河流。"
ITEMS = {
    "tales": [Item("t0", {"question": LONG}), Item("t1", {"question": "An unlike text about nothing that was ever learnt at all, not once."})],
    "rivers": [Item("r0", {"passage": CHINESE, "options": ["东海", "南海"]})],
}  # fmt: skip


def run_with(folder: Path, recipe: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe, "utf-8")
    (folder / "state.json").write_text("{}")
    return folder


def test_questions_in_the_training_data_are_counted_by_task(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"Something first.\n\nOnce upon a time. {LONG}. And so on.\n\nThe end.", "utf-8")
    (tmp_path / "b.jsonl").write_text('{"messages": [{"role": "user", "content": "' + CHINESE + '"}]}\n', "utf-8")
    run = run_with(
        tmp_path / "run", f"data:\n  train:\n  - path: {tmp_path}/a.txt\n  - path: {tmp_path}/b.jsonl\n    weight: 2\n"
    )
    told = warnings(run, ITEMS)
    assert len(told) == 2
    assert any(note.startswith("tales: at least 1 of 2 items") and "a.txt" in note for note in told)
    assert any(note.startswith("rivers: at least 1 of 1 items") and "b.jsonl" in note for note in told)


def test_every_stage_of_a_life_counts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(LONG, "utf-8")
    stages = f"stages:\n  first:\n    data: {{train: [{{path: {tmp_path}/a.txt}}]}}\n  second: {{kind: merge}}\n"
    assert "tales" in warnings(run_with(tmp_path / "run", stages), ITEMS)[0]


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ("data: {train: [{path: /nowhere/at/all.jsonl}]}", "not here any more"),
        ("data: [", "cannot be read"),
        ("data: {train: [{path: BROKEN}]}", "could not be searched"),
    ],
)
def test_what_was_not_searched_is_said(tmp_path: Path, recipe: str, told: str) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    run = run_with(tmp_path / "run", recipe.replace("BROKEN", str(tmp_path / "broken.parquet")))
    (note,) = warnings(run, ITEMS)
    assert told in note


def test_a_clean_run_is_told_nothing_of(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Clean words only.\n\n" * 50, "utf-8")
    assert warnings(run_with(tmp_path / "run", f"data: {{train: [{{path: {tmp_path}/a.txt}}]}}"), ITEMS) == []
    assert warnings(run_with(tmp_path / "run", "recipe: sft"), ITEMS) == []


def test_data_without_end_are_not_searched_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trained_on, "MOST", 1000)
    (tmp_path / "a.txt").write_text("x" * 2000)
    run = run_with(tmp_path / "run", f"data: {{train: [{{path: {tmp_path}/a.txt}}]}}")
    assert warnings(run, ITEMS) == [f"only 1,000 bytes of the training data of {run} were searched for the questions"]


def test_a_run_is_known_by_what_lies_in_it(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", "recipe: sft")
    assert run_of(run / "model") == run_of(run / "model" / "x.gguf") == run_of(run) == run
    assert run_of(tmp_path / "elsewhere" / "x.gguf") is None
