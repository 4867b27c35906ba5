"""docs/data.md is true: its examples run, its lines are read as the shape that it names, its settings are a recipe's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from hornbook.data.example import Conversation, Labelled, Pair, Preference, Text
from hornbook.data.read import Source, read
from hornbook.data.records import FORMATS, LONGEST
from hornbook.data.shapes import SHAPES, detect
from hornbook.recipes.config import Data

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
KINDS = {"text": Text, "pair": Pair, "labelled": Labelled, "preference": Preference}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def test_every_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    Path("chats.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 5, "utf-8")
    Path("films.csv").write_text("text,label\n" + "".join(f"film {i},good\n" for i in range(8)), "utf-8")
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "docs/data.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[:5] == [f"chats.jsonl, line {line} Hello" for line in range(1, 6)]
    assert printed[5:] == ["True", "6 2"]


def test_every_line_of_the_shapes_is_read_as_that_shape(tmp_path: Path) -> None:
    lines = re.findall(r"^\| `([\w-]+)` \| `(\{.*?\})` \|", PAGE, re.MULTILINE)
    assert {shape for shape, _ in lines} == set(SHAPES)
    for shape, line in lines:
        (tmp_path / "a.jsonl").write_text(line, "utf-8")
        (example,) = read([Source(str(tmp_path / "a.jsonl"))])
        assert detect(json.loads(line)) == shape and isinstance(example, KINDS.get(shape, Conversation))


def test_the_suffixes_and_the_limit_are_those_of_the_code_and_the_settings_a_recipes() -> None:
    table = PAGE[PAGE.index("## Files") : PAGE.index("## Shapes")]
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert set(re.findall(r"`(\.\w+)`", " ".join(cells))) == set(FORMATS)
    assert f"{LONGEST >> 20} MiB" in PAGE
    (settings,) = blocks("yaml")
    data = Data(**yaml.safe_load(settings)["data"])
    assert [source.weight for source in data.train] == [1.0, 2.0, 1.0] and data.malformed == "skip"
