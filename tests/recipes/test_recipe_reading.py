"""What a person writes in a recipe, and what is said of a mistake; the page and the example are made of the same types."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

from hornbook.errors import UsageError
from hornbook.recipes.adapters import Adapter
from hornbook.recipes.config import Recipe
from hornbook.recipes.example import example
from hornbook.recipes.kinds import RECIPES
from hornbook.recipes.reading import models_in, read
from hornbook.recipes.stages import Life

ROOT = Path(__file__).parents[2]
RECIPE = """\
recipe: sft
data:
  train:
    - {path: chats.jsonl}
training: {rate: 1e-4}   # a number, which YAML 1.1 takes for a text
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE, "utf-8")
    return path


def sft(path: Path, *words: str) -> Recipe:
    recipe = read(str(path), words)
    assert isinstance(recipe, Recipe)
    return recipe


def test_paths_of_a_file_begin_where_it_lies_and_those_on_the_line_where_the_person_stands(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    recipe = sft(path, "data.train.1.path=more.jsonl", "training.betas=[0.9, 0.95]")
    assert [source.path for source in recipe.data.train] == [
        str(tmp_path / "chats.jsonl"),
        str(elsewhere / "more.jsonl"),
    ]
    assert recipe.training.rate == 1e-4 and recipe.training.betas == (0.9, 0.95)


@pytest.mark.parametrize(
    "words, rate",
    [((), 2e-4), (("adapter=null",), 2e-5), (("adapter.kind=prompt",), 5e-3), (("adapter.kind=dora",), 2e-4)],
)
def test_a_rate_that_is_not_said_is_that_of_what_is_trained(
    tmp_path: Path, words: tuple[str, ...], rate: float
) -> None:
    path = tmp_path / "plain.yaml"
    path.write_text(RECIPE.split("training")[0], "utf-8")
    assert sft(path, *words).training.rate == rate


@pytest.mark.parametrize(
    "words, what, remedy",
    [
        (["training.rat=1"], "there is no setting 'training.rat'", "Did you mean rate?"),
        (["adapter.kind=lora", "adapter.rnk=2"], "there is no setting 'adapter.rnk'", "Did you mean rank?"),
        (["adapter.kind=loraa"], "there is no adapter of the kind 'loraa'", "Did you mean lora"),
        (["data.train.0.pth=x"], "there is no setting 'data.train.0.pth'", "Did you mean path"),
        (["data.train.7.path=x"], "'7' is no place in a list of 1", "Say 0 to 1."),
        (["training.rate=fast"], "training.rate: input should be a valid number", "docs/recipes.md"),
        (["training.rate=.nan"], "training.rate: input should be a finite number", ""),
        (["training.rate=-1"], "training.rate: input should be greater than 0", ""),
        (["training.rate"], "'training.rate' is not a setting", "Write key=value"),
        (["training.rate=1", "training.rate=2"], "training.rate is set twice, to 1 and 2", "Set it once."),
        (["training.rate.x=1"], "there is nothing to set below 0.0001", ""),
        (["adapter=null", "train_also=[norms]"], "train_also goes with an adapter", ""),
        (["recipe=sftt"], "there is no recipe 'sftt'", "Did you mean sft?"),
        (["data.train=[]"], "data.train: list should have at least 1 item", ""),
        (["system=[unclosed"], "'system=[unclosed' cannot be read", "quotes"),
    ],
)
def test_a_mistake_is_named_with_what_is_near(path: Path, words: list[str], what: str, remedy: str) -> None:
    with pytest.raises(UsageError) as error:
        read(str(path), words)
    assert what in error.value.what and remedy in error.value.remedy


@pytest.mark.parametrize(
    "text, what",
    [
        ("recipe: sft\nrecipe: mlm\n", "line 2: 'recipe' stands twice"),
        ("a: &x [1]\nb: *x\n", "line 2: references"),
        ("just words", "holds no settings"),
        ("recipe: [", "is not YAML: line 1"),
        ("model: x\n", "does not say which recipe it is"),
        ("recipe: sft\n", "data is missing"),
        (
            "recipe: life\nstages: {a: {recipe: sft, data: {train: [{path: x}]}, modl: y}}\n",
            "no setting 'stages.a.modl'",
        ),
    ],
)
def test_a_broken_file_is_told_by_its_line(tmp_path: Path, text: str, what: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError) as error:
        read(str(path))
    assert what in error.value.what


@pytest.mark.parametrize("name", RECIPES)
def test_the_example_of_each_recipe_is_one(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(example(name), "utf-8")
    recipe = sft(path)
    assert recipe.recipe == name and recipe.data.train[0].path == str(tmp_path / "mine.jsonl")
    every = "\n".join(
        line.replace("# ", "", 1) if "#" in line.split(":")[0] else line for line in example(name).splitlines()
    )
    assert all(field in every for field in type(recipe).model_fields), "each setting is in it"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_the_recipes_that_come_along_can_be_read(path: Path) -> None:
    if yaml.safe_load(path.read_text("utf-8")).get("recipe") in (*RECIPES, "life"):
        recipe = read(str(path))
        sides = (
            [stage.data for stage in recipe.stages.values() if isinstance(stage, Recipe)]
            if isinstance(recipe, Life)
            else []
        )
        for data in sides or [recipe.data]:  # type: ignore[union-attr]
            assert all(Path(source.path).exists() for source in data.train)


def test_an_adapter_s_settings_are_those_of_its_class() -> None:
    from dataclasses import fields

    from hornbook.adapt import KINDS

    kinds = {name: config for config in models_in(Adapter) for name in config.model_fields["kind"].annotation.__args__}  # type: ignore[union-attr]
    assert set(kinds) == {*KINDS, "qlora"}
    for name, config in kinds.items():
        there = {field.name: field for field in fields(KINDS["lora" if name == "qlora" else name])}  # type: ignore[arg-type]
        for setting, field in config.model_fields.items():
            if setting != "kind":
                assert setting in there, f"{name} has no {setting}"
                default = there[setting].default
                assert isinstance(field.default, type(None)) or field.default == default or setting in ("rank_pattern",)


def test_the_page_of_settings_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("recipe_pages", ROOT / "tools" / "recipe_pages.py")
    assert spec is not None and spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    assert pages.PAGE.read_text("utf-8") == pages.page(), "run python tools/recipe_pages.py"
