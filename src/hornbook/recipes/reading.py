"""A recipe from its file and the command line.

    telegram.yaml  +  training.rate=1e-4 data.train.0.path=mine.jsonl  ->  Sft(...)

Paths in the file are taken from where the file lies, paths on the line from where the person stands. A key that no
recipe knows is an error that names the nearest one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from hornbook.data.plain_yaml import loaded, nearest
from hornbook.errors import UsageError
from hornbook.recipes.config import Recipe
from hornbook.recipes.kinds import RECIPES, settled
from hornbook.recipes.stages import Life

C = TypeVar("C", bound=BaseModel)


def read(recipe: str, words: Sequence[str] = ()) -> Recipe | Life:
    """The recipe in a file, or the one of that kind with all else left as it is, changed by ``words`` (key=value).

    Raises UsageError: no such file, no YAML, an unknown kind or key, a value that does not fit, something missing.
    """
    path = Path(recipe)
    given: dict[str, Any] = {"recipe": recipe} if recipe in RECIPES and not path.is_file() else _file(path)
    for place in _paths(given):
        place.settle(path.parent)
    for key, value in overrides(words):
        _put(given, key, value)
    for place in _paths(given):
        place.settle(Path.cwd())
    return made(given, recipe)


def made(given: Mapping[str, Any], called: str) -> Recipe | Life:
    """A recipe of what a file says. Raises UsageError."""
    name = given.get("recipe")
    if name == "life":
        try:
            return Life.model_validate(given)
        except ValidationError as error:
            raise _said(error, Life, called) from error
    if name not in RECIPES:
        if name is None:
            raise UsageError(f"{called} does not say which recipe it is", f"recipe: one of {', '.join(RECIPES)}.")
        raise UsageError(f"{called}: there is no recipe {name!r}", nearest(str(name), [*RECIPES, "life"]))
    try:
        return settled(RECIPES[name].config.model_validate(given))
    except ValidationError as error:
        raise _said(error, RECIPES[name].config, called) from error


def read_as(
    config: type[C], recipe: str, words: Sequence[str], places: Callable[[Mapping[str, Any]], Iterable[tuple[Any, Any]]]
) -> C:
    """A file of settings of another kind than a training's, in the same way; ``places``: (holder, key) of each path in it.

    Raises UsageError as ``read`` does.
    """
    path = Path(recipe)
    given = _file(path)
    for folder, changes in ((path.parent, ()), (Path.cwd(), words)):
        for key, value in overrides(changes):
            _put(given, key, value)
        for holder, key in places(given):
            _Place(holder, key).settle(folder)
    try:
        return config.model_validate(given)
    except ValidationError as error:
        raise _said(error, config, recipe) from error


def overrides(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(key, value) of ``key=value`` words; a value is read as YAML is. Raises UsageError."""
    seen: dict[str, str] = {}
    for word in words:
        key, sign, text = word.partition("=")
        if not sign or not key.strip("."):
            raise UsageError(f"{word!r} is not a setting", "Write key=value, as in training.rate=1e-4.")
        if key in seen:
            raise UsageError(f"{key} is set twice, to {seen[key]} and {text}", "Set it once.")
        seen[key] = text
        try:
            yield key, loaded(text) if text else ""
        except ValueError as error:
            raise UsageError(f"{word!r} cannot be read: {error}", "Put quotes around a text.") from error


def _file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        kinds = f"Give a file; or one of {', '.join(RECIPES)}, with its settings as key=value."
        raise UsageError(f"the recipe {path} cannot be read: {why}", kinds) from error
    try:
        found = loaded(text)
    except ValueError as error:
        raise UsageError(f"{path} is not YAML: {error}", "hornbook train --example sft shows one.") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no settings", "hornbook train --example sft shows what it could hold.")
    return found


# ------------------------------------------------------------------------------------------------------------ places


class _Place:
    """A text in what was given that names a file."""

    def __init__(self, holder: Any, key: Any) -> None:
        self.holder, self.key = holder, key

    def settle(self, folder: Path) -> None:
        self.holder[self.key] = str((folder / Path(self.holder[self.key]).expanduser()).absolute())


def _paths(given: Mapping[str, Any]) -> Iterator[_Place]:
    """The paths of the data's sources and of a person's own tasks, and of a template and of models that are said as a path."""
    stages = given.get("stages")
    for stage in stages.values() if isinstance(stages, dict) else ():
        if isinstance(stage, dict):
            yield from _paths(stage)
    data = given.get("data")
    sides = (data.get("train"), data.get("validation")) if isinstance(data, dict) else (data,)
    for sources in sides:
        for source in sources if isinstance(sources, list) else ():
            if isinstance(source, dict) and isinstance(source.get("path"), str):
                yield _Place(source, "path")
    from hornbook.evals.own import is_own

    evaluate = given.get("evaluate")
    for key in ("tasks", "data"):
        held = evaluate.get(key) if isinstance(evaluate, dict) else None
        several = held if isinstance(held, list) else []
        for place, value in enumerate(several):
            if isinstance(value, str) and (key == "data" or is_own(value)):
                yield _Place(several, place)
    tokenizer = given.get("tokenizer")
    named = ((given, "model"), (given, "template"), (tokenizer, "model"), (evaluate, "baseline"), (evaluate, "judge"))
    for holder, key in named:
        value = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(value, str) and value.startswith((".", "~")) and isinstance(holder, dict):
            yield _Place(holder, key)


def _put(given: dict[str, Any], key: str, value: Any) -> None:
    """Set ``data.train.0.path``: a number is a place in a list, or the one behind its end."""
    words = key.split(".")
    here: Any = given
    for word, after in zip(words, [*words[1:], None], strict=True):
        fresh: Any = value if after is None else [] if after.isdigit() else {}
        if isinstance(here, list):
            if not word.isdigit() or int(word) > len(here):
                raise UsageError(f"{key}: {word!r} is no place in a list of {len(here)}", f"Say 0 to {len(here)}.")
            at: Any = int(word)
            here.extend([None] if at == len(here) else [])
            kept = here[at]
        elif isinstance(here, dict):
            at, kept = word, here.get(word)
        else:
            raise UsageError(
                f"{key}: there is nothing to set below {here!r}", "hornbook train --example sft shows how."
            )
        if after is None or kept is None:
            here[at] = fresh
        here = here[at]


# ------------------------------------------------------------------------------------------------------------ errors


def _said(error: ValidationError, config: type[BaseModel], called: str) -> UsageError:
    """The first thing that is wrong, for a person."""
    first = min(error.errors(), key=lambda e: (e["type"] == "missing", -len(e["loc"])))
    where = [str(part) for part in first["loc"]]
    fields = _known(config, where[:-1])
    key = ".".join(_plain(config, where))
    if first["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = [str(kind) for part in _parts(config, where) for kind in _kinds(part)]
        given = first["input"]
        tag = given.get("kind", given.get("recipe")) if isinstance(given, dict) else given
        return UsageError(f"{called}: there is no {key} of the kind {tag!r}", nearest(str(tag), kinds))
    if first["type"] == "extra_forbidden":
        return UsageError(f"{called}: there is no setting {key!r}", nearest(where[-1], fields))
    if first["type"] == "missing":
        said = "data.train.0.path=FILE" if key == "data" else f"{key}=..."
        return UsageError(f"{called}: {key} is missing", f"Say it in the file, or behind it as {said}")
    return UsageError(
        f"{called}: {key or 'the recipe'}: {_why(first)}", "docs/recipes.md says what each setting takes."
    )


def _why(first: ErrorDetails) -> str:
    text = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = f" (given: {given!r})" if isinstance(given, (str, int, float)) else ""
    return text[:1].lower() + text[1:] + shown


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The typed parts that an annotation names, inside unions, lists and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is None and not get_args(annotation):
        return []
    return [found for inner in get_args(annotation) for found in models_in(inner)]


def _known(config: type[BaseModel], where: Sequence[str]) -> dict[str, Any]:
    """The fields of the part at ``where``; of several kinds of part, those of the kind that was named."""
    return {name: field for part in _parts(config, where) for name, field in part.model_fields.items()}


def _parts(config: type[BaseModel], where: Sequence[str]) -> list[type[BaseModel]]:
    parts = [config]
    for word in where:
        inner = [
            found
            for part in parts
            if word in part.model_fields
            for found in models_in(part.model_fields[word].annotation)
        ]
        named = [part for part in parts if word in _kinds(part)]
        parts = inner or named or parts
    return parts


def _kinds(part: type[BaseModel]) -> tuple[Any, ...]:
    field = part.model_fields.get("kind", part.model_fields.get("recipe"))
    return () if field is None else get_args(field.annotation)


def _plain(config: type[BaseModel], where: Sequence[str]) -> list[str]:
    """A place without the words that pydantic puts in for the branch of a union."""
    kept: list[str] = []
    for word in where:
        inside = kept[-1:] == ["stages"]
        if inside or word.isdigit() or word in _known(config, kept) or (word == where[-1] and not _branch(word)):
            kept.append(word)
    return kept


def _branch(word: str) -> bool:
    return bool(re.match(r"(list|constrained|function|literal|int|float|dict|tuple)\b", word))
