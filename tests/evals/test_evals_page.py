"""docs/evals.md is true: its files and commands run as they stand, and its tables name what there is."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from hornbook.cli import main
from hornbook.evals import own
from hornbook.evals.filters import NAMED
from hornbook.evals.registry import kinds
from hornbook.evals.tasks.rag import Rag
from hornbook.recipes.reading import read

PAGE = (Path(__file__).parents[2] / "docs" / "evals.md").read_text("utf-8")
OWN = PAGE.partition("## Write a task of your own")[2].partition("\n## ")[0]
FILES = dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)^```$", OWN, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^\$ hornbook (.*)$", OWN, re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def test_a_task_takes_ten_lines_at_most() -> None:
    assert {Path(name).suffix for name in FILES} >= {".jsonl", ".yaml", ".py"} and len(COMMANDS) == 3
    assert all(len(text.splitlines()) <= 11 for text in FILES.values()), "say ten lines and mean it"


@pytest.mark.models
def test_every_file_and_command_of_the_page_runs(
    folder: Path,
    home: Path,
    smollm2_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home.mkdir()
    (home / "models").symlink_to(next(one for one in smollm2_path.parents if one.name == "models"))
    monkeypatch.setenv("HORNBOOK_OFFLINE", "1")
    scored: set[str] = set()
    for command in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([*shlex.split(command), "--json"])
        out, err = capfd.readouterr()
        assert end.value.code in (0, None), err
        for result in json.loads(out)["outcomes"][0]["results"]:
            scored.add(result["task"])
            assert result["items"] >= 2
    assert scored == {Path(name).stem for name in FILES if name != "sums.csv"}
    python = re.findall(r"^```python\n(import hornbook\n.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(python) == 1
    exec(compile(python[0], "docs/evals.md", "exec"), {})
    assert 0 <= float(capfd.readouterr().out) <= 1


def test_the_table_of_tasks_names_all_of_them() -> None:
    table = PAGE.partition("## What each task scores")[2].partition("\n## ")[0]
    shown = {name.partition(":")[0] for name in re.findall(r"`([\w:]+)", table)}
    shown |= {"truthfulqa_mc2"} if "`_mc2`" in table else set()
    families = (
        "arc",
        "ai2_arc",
        "truthfulqa",
        "lambada_openai_mt_",
        "retrieval_",
    )  # names of several, and translations
    assert {name for name in kinds() if name not in families and not name.startswith(families[3:])} <= shown


def test_the_table_of_keys_is_that_of_the_code() -> None:
    table = PAGE.partition("| key | kind |")[2].partition("\n\n")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    shown = {name for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    known = {name for config in own._KINDS.values() for name in config.model_fields}
    assert shown == known
    said = "\n".join(row[4] for row in rows)
    assert all(f"`{name}`" in said for name in [*own._WORTH, *NAMED])


def test_the_scores_of_answers_about_documents_are_named() -> None:
    table = PAGE.partition("## Answers about documents")[2].partition("\n## ")[0]
    assert all(f"`{metric.name}`" in table for metric in Rag.metrics)


def test_an_unknown_key_is_refused_with_the_nearest(
    folder: Path, capfd: pytest.CaptureFixture[str], home: Path
) -> None:
    (folder / "birds.yaml").write_text(FILES["birds.yaml"].replace("shots:", "shot:"), "utf-8")
    with pytest.raises(SystemExit) as end:
        main(["eval", "smollm2:135m", "--tasks", "birds.yaml"])
    err = capfd.readouterr().err
    assert end.value.code == 2 and "takes no 'shot'" in err and "Did you mean shots" in err


def test_the_gate_of_the_page_is_one_that_a_recipe_takes(folder: Path) -> None:
    (block,) = re.findall(r"^```yaml\n(evaluate:\n.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (folder / "recipe.yaml").write_text(f"recipe: sft\ndata: {{train: [{{path: x.jsonl}}]}}\n{block}", "utf-8")
    told = read("recipe.yaml").evaluate  # type: ignore[union-attr]
    assert told.fail_if_worse and told.limit == 200 and told.tasks[1] == str(folder / "mine.jsonl")
