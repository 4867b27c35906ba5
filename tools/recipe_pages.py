"""Write docs/recipes.md: every setting of every recipe, from the typed configurations themselves.

python tools/recipe_pages.py            writes the page; tests/recipes/test_recipe_page.py holds it fresh
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hornbook.recipes import adapters, stages
from hornbook.recipes.config import Data, Evaluation, Rope, Samples, Source, Training
from hornbook.recipes.example import kinds, unit
from hornbook.recipes.kinds import Architecture, Seq2seqData, Seq2seqTraining, Vocabulary
from hornbook.recipes.reading import models_in

PAGE = Path(__file__).parents[1] / "docs" / "recipes.md"
HEAD = """\
# Recipes: every setting

Written by `python tools/recipe_pages.py` from the typed configurations in `src/hornbook/recipes`; do not edit by hand. How to use them:
[train.md](train.md). `hornbook train --example sft` prints a recipe to begin with. A setting is said in the recipe's file, or behind it on the
command line as `training.rate=1e-4`.
"""
SHARED = (
    ("data", Data), ("data.train.0, data.validation.0", Source), ("training", Training), ("samples", Samples), ("rope", Rope),
    ("evaluate", Evaluation),
    ("architecture", Architecture), ("tokenizer", Vocabulary), ("data, of seq2seq", Seq2seqData), ("training, of seq2seq", Seq2seqTraining),
)  # fmt: skip


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for name, config in kinds():
        parts.append(section(f"recipe: {name}", config))
    parts.append(section("recipe: life", stages.Life))
    for stage in (stages.Merge, stages.Quantise, stages.Evaluate, stages.Chat):
        parts.append(section(f"a stage of a life: {stage.__name__.lower()}", stage))
    for name, config in SHARED:
        parts.append(section(name, config))
    for config in models_in(adapters.Adapter):
        parts.append(section(f"adapter: {' | '.join(choices(config.model_fields['kind'].annotation))}", config))
    return "\n".join(parts)


def section(title: str, config: type[BaseModel]) -> str:
    """A heading, what the part is for, and a table of its settings."""
    about = " ".join((config.__doc__ or "").split())
    rows = [f"| {' | '.join(map(cell, row))} |" for row in settings(config)]
    return "\n".join(
        [
            f"## {title}",
            "",
            about,
            "",
            "| setting | takes | default | unit | meaning |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def settings(config: type[BaseModel]) -> Iterator[tuple[str, str, str, str, str]]:
    """(name, type, default, unit, meaning) of each field but the name of the recipe itself."""
    for name, field in config.model_fields.items():
        if name != "recipe":
            yield f"`{name}`", kind_of(field), default_of(field), unit(field), str(field.description)


def kind_of(field: FieldInfo) -> str:
    """What a field takes, in words."""
    limits = [
        f"{word} {getattr(limit, key):g}"
        for limit in field.metadata
        for key, word in LIMITS.items()
        if hasattr(limit, key)
    ]
    said = " or ".join(dict.fromkeys(words(field.annotation)))
    return f"{said}, {' and '.join(limits)}" if limits else said


LIMITS = {"gt": "above", "ge": "from", "lt": "below", "le": "to"}
NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}


def words(annotation: Any) -> Iterator[str]:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in NAMES:
        yield NAMES[annotation]
    elif origin is Literal:
        yield ", ".join(map(str, inner))
    elif origin in (Union, types.UnionType):
        for one in inner:
            yield from words(one)
    elif origin is list:
        yield f"list of {' or '.join(words(inner[0]))}"
    elif origin is tuple:
        yield f"{len(inner)} numbers"
    elif origin is dict:
        yield f"name: {' or '.join(dict.fromkeys(words(inner[1])))}"
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "settings"
    else:  # Annotated
        yield from words(inner[0])


def choices(annotation: Any) -> tuple[str, ...]:
    return tuple(map(str, get_args(annotation)))


def default_of(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "must be said"
    if isinstance(default, BaseModel):
        return "its own"
    if default is None:
        return "left out"
    shown = (
        str(default).lower()
        if isinstance(default, bool)
        else str(list(default) if isinstance(default, tuple) else default)
    )
    return f"`{shown}`" if shown else "nothing"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
    print(PAGE)
