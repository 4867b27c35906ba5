"""The table of systems tells the truth: every module it names is there, every proof is a test, both copies are one."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from hornbook.cli import console
from hornbook.cli.systems import System, read, systems, table

ROOT = Path(__file__).parents[2]
ROWS = table()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_each_row_names_modules_and_proofs_that_exist(row: System) -> None:
    for module in row.module.split(", "):
        assert (ROOT / "src" / "hornbook" / module).exists(), f"{row.id}: no module {module}"
    for proof in row.proof.split(", "):
        name, _, function = proof.partition("::")
        path = ROOT / "tests" / name
        assert path.is_file(), f"{row.id}: no test file {name}"
        functions = {n.name for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.FunctionDef)}
        assert not function or function in functions, f"{row.id}: {name} has no test {function}"
        assert function or any(f.startswith("test_") for f in functions), f"{row.id}: {name} holds no test"
    assert row.state.split(":")[0] in ("done", "part"), f"{row.id}: state {row.state!r}"


def test_the_table_is_not_empty_and_ids_are_unique() -> None:
    ids = [row.id for row in ROWS]
    assert len(ids) >= 8
    assert len(set(ids)) == len(ids)


def test_the_page_and_the_packaged_copy_are_one_text() -> None:
    page = (ROOT / "docs" / "systems.md").read_text("utf-8")
    copy = (ROOT / "src" / "hornbook" / "assets" / "systems.md").read_text("utf-8")
    assert page == copy, "cp docs/systems.md src/hornbook/assets/systems.md"


def test_a_row_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match="3 cells"):
        read("| id | system | paper | module | proof | state |\n|---|---|---|---|---|---|\n| a | b | c |\n")


def test_json_is_the_same_rows(capsys: pytest.CaptureFixture[str]) -> None:
    systems(as_json=True)
    assert json.loads(capsys.readouterr().out) == [row._asdict() for row in ROWS]


def test_columns_line_up_under_wide_characters() -> None:
    lines = console.table([("中文", "x"), ("abc", "y")]).splitlines()
    assert [console.width(line[: line.index(c)]) for line, c in zip(lines, "xy", strict=True)] == [6, 6]
