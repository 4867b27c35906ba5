"""A recipe to begin with, every setting in it with what it means: what has to be said is said, the rest is a comment.

recipe: sft
data:
  train:
    - path: mine.jsonl                  # a file, a folder or a pattern
      # shape: auto                     # how an example is written
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hornbook.data.plain_yaml import nearest
from hornbook.errors import UsageError
from hornbook.recipes.config import Recipe
from hornbook.recipes.kinds import RECIPES
from hornbook.recipes.reading import models_in

COLUMN, WIDTH = 44, 140
SAID = ("recipe", "model", "data", "train", "path", "training", "epochs", "adapter", "kind", "rank")  # not as comments


def example(name: str) -> str:
    """The text of a recipe's file. Raises UsageError for a kind that there is not."""
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}", nearest(name, RECIPES))
    config = RECIPES[name].config
    about = textwrap.wrap(" ".join((config.__doc__ or "").split()), 100)
    head = [*(f"# {line}" for line in about), f"#   hornbook train {name}.yaml", ""]
    return "\n".join([*head, *_lines(config, 0, {"recipe": name}, commented=False)]) + "\n"


def _lines(config: type[BaseModel], depth: int, known: dict[str, str], *, commented: bool) -> Iterator[str]:
    pad = "  " * depth
    for name, field in config.model_fields.items():
        part = part_of(field)
        quiet = commented or name not in SAID
        mark = "# " if quiet else ""
        if part is not None:
            yield _line(f"{pad}{mark}{name}:", field)
            item = "- " if name == "train" else ""
            inner = list(_lines(part, depth + (2 if item else 1), {}, commented=quiet))
            if item:
                inner[0] = inner[0].replace(f"{pad}    ", f"{pad}  - ", 1)
            yield from inner
        else:
            yield _line(f"{pad}{mark}{name}: {known.get(name) or written(field, name)}", field)


def part_of(field: FieldInfo) -> type[BaseModel] | None:
    """The typed part that a field holds: of several kinds the first one; none where the field is no part by default."""
    parts = models_in(field.annotation)
    default = field.get_default(call_default_factory=True)
    if not parts or not (default is PydanticUndefined or isinstance(default, BaseModel)):
        return None
    return type(default) if isinstance(default, BaseModel) else parts[0]


def written(field: FieldInfo, name: str = "") -> str:
    """A field's default as YAML writes it; of one that must be said, a word in its place."""
    default: Any = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return {"path": "mine.jsonl", "factor": "4"}.get(name, "...")
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json")
    if isinstance(default, tuple):
        default = list(default)
    text: str = yaml.safe_dump(default, default_flow_style=True, width=1000)
    return text.removesuffix("...\n").strip()


def unit(field: FieldInfo) -> str:
    """What a field is counted in."""
    more = field.json_schema_extra
    return str(more.get("unit", "")) if isinstance(more, dict) else ""


def _line(text: str, field: FieldInfo) -> str:
    counted = unit(field)
    told = f"{counted}: {field.description}" if counted else f"{field.description}"
    first, *more = textwrap.wrap(told, WIDTH - COLUMN)
    return "\n".join([f"{text:<{COLUMN}}# {first}", *(f"{'':<{COLUMN}}# {line}" for line in more)])


def kinds() -> Iterator[tuple[str, type[Recipe]]]:
    """Every recipe with its configuration."""
    for name, kind in RECIPES.items():
        yield name, kind.config
