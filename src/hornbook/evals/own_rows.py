"""What a row of a person's own questions says, whatever its columns are called.

    {"question": "...", "answer": "..."}                                   the right answer; or a list of them, all right
    {"question": "...", "choices": ["...", "..."], "answer": 1}            which is right: its number from 0, its letter, its words
    {"context": "...", "question": "...", "answers": {"text": ["..."]}}    a text that goes before; answers as SQuAD has them

A template is a text with names of columns in it: "{passage}\\n\\nQ: {question}\\nA:". Two braces stand for one.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from hornbook.data.plain_yaml import nearest
from hornbook.errors import DataError
from hornbook.evals.choices import chosen
from hornbook.evals.clusters import named
from hornbook.evals.data import Row
from hornbook.evals.task import Item

QUESTION = ("question", "query", "prompt", "input", "instruction", "problem")
ANSWER = ("answer", "answers", "target", "targets", "output", "gold", "label", "response", "reference", "answerKey")
CHOICES = ("choices", "options")
CONTEXT = ("context", "passage")
_ALIASES = "aliases"  # more right answers
CLUSTER = "cluster"
_ID = ("id", "_id")
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]+)\}|[{}]")


class Form(NamedTuple):
    """Where things stand in a row; left out: under one of the usual names.

    question  a template      answer, reference, against, group, cluster  columns
    choices   a column that holds them all, or a column for each
    letters   the options are listed with letters before them, and the letters are what is compared
    bare      the question as it is, without "Question:" and "Answer:" around it
    """

    question: str | None = None
    answer: str | None = None
    choices: str | Sequence[str] | None = None
    reference: str | None = None
    against: str | None = None
    group: str | None = None
    cluster: str | None = None
    letters: bool = False
    bare: bool = False


def is_choice(row: Row) -> bool:
    return any(name in row.value for name in CHOICES)


def choice(form: Form) -> Callable[[Row, str], Item]:
    """A reader of rows with options."""

    def read(row: Row, id: str) -> Item:
        options = _options(row, form.choices)
        column, said = _found(row, form.answer, ANSWER, "answer")
        given = said if isinstance(said, list) else [said]
        gold = [_place(row, column, one, options) for one in given]
        data = chosen(row, options, gold)
        question = asked(row, form, options)
        if form.letters:
            data["options"] = list(string.ascii_uppercase[: len(options)])
        return Item(_id(row, id), {"question": question, **data}, _group(row, form), cluster(row, form.cluster))

    return read


def answer(form: Form) -> Callable[[Row, str], Item]:
    """A reader of rows with right answers."""

    def read(row: Row, id: str) -> Item:
        column, said = _found(row, form.answer, ANSWER, "answer")
        golds = texts(row, column, said)
        if _ALIASES in row.value and column != _ALIASES:
            golds += texts(row, _ALIASES, row.value[_ALIASES])
        if not golds:
            raise DataError(f"{row.place}: {column} holds no right answer", "Give one, or leave the row out.")
        return Item(
            _id(row, id),
            {"question": asked(row, form), "answers": golds},
            _group(row, form),
            cluster(row, form.cluster),
        )

    return read


def judged(form: Form) -> Callable[[Row, str], Item]:
    """A reader of rows whose answers a model judges: with a right one or none."""

    def read(row: Row, id: str) -> Item:
        data = {"question": asked(row, form)}
        if form.reference is not None:
            data["reference"] = " / ".join(texts(row, *_found(row, form.reference, (), "reference")))
        if form.against is not None:
            data["against"] = _text(row, *_found(row, form.against, (), "against"))
        return Item(_id(row, id), data, _group(row, form), cluster(row, form.cluster))

    return read


def asked(row: Row, form: Form, options: Sequence[str] = ()) -> str:
    """The question as it is put."""
    if form.question is not None:
        return filled(row, form.question)
    column, said = _found(row, None, QUESTION, "question")
    question = _text(row, column, said)
    more = row.value.get("input")
    if column == "instruction" or (column == "input" and "instruction" in row.value):
        question = _text(row, "instruction", row.value["instruction"])
        question += f"\n\n{more}" if isinstance(more, str) and more.strip() else ""
    if not question.strip():
        raise DataError(f"{row.place}: {column} is empty", "Ask something, or leave the row out.")
    listed = "".join(f"\n{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False))
    before = next((value for name in CONTEXT if isinstance(value := row.value.get(name), str) and value.strip()), "")
    body = f"{question}{listed if form.letters else ''}"
    return (f"{before}\n\n" if before else "") + (body if form.bare else f"Question: {body}\nAnswer:")


def filled(row: Row, template: str) -> str:
    """A template with a row's columns in it. Raises DataError where it names one that is not there."""

    def put(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match[1] is None:
            raise DataError(f"the template {template!r} has a lone {match[0]}", f"Write {match[0] * 2} for a brace.")
        name = match[1].strip()
        if name not in row.value:
            raise DataError(f"{row.place}: there is no column {name!r} for the template", nearest(name, row.value))
        return _text(row, name, row.value[name])

    return _PLACE.sub(put, template)


def texts(row: Row, column: str, said: Any) -> list[str]:
    """Right answers: of a text, a number, a list of them, or SQuAD's {"text": [...]}."""
    return list(dict.fromkeys(_several(row, column, said)))


def _several(row: Row, column: str, said: Any) -> list[str]:
    if isinstance(said, Mapping) and "text" in said:
        said = said["text"]
    if isinstance(said, str) and said.startswith("["):
        with suppress(ValueError):
            said = json.loads(said)  # a list in a table
    return [_text(row, column, one) for one in (said if isinstance(said, list) else [said])]


def cluster(row: Row, column: str | None = None) -> str:
    """What a question hangs on together with others, such as a passage's name; '' or nothing: it stands alone."""
    name, said = (CLUSTER, row.value.get(CLUSTER)) if column is None else _found(row, column, (), "cluster")
    return "" if said is None else named(_text(row, name, said))


def _options(row: Row, choices: str | Sequence[str] | None) -> list[str]:
    if choices is not None and not isinstance(choices, str):
        return [_text(row, *_found(row, name, (), "choices")) for name in choices]
    column, said = _found(row, choices, CHOICES, "choices")
    options = _several(row, column, said)
    if len(options) > len(string.ascii_uppercase):
        raise DataError(f"{row.place}: {column} holds {len(options)} options", "At most 26 are taken.")
    return options


def _place(row: Row, column: str, said: Any, options: Sequence[str]) -> int:
    """Where the right option stands: a number counts from 0, a text is an option's words, a letter, or a number in a table."""
    if isinstance(said, int) and not isinstance(said, bool):
        place = said
    else:
        text = _text(row, column, said).strip()
        labels = row.value.get("choices")
        named = labels.get("label") if isinstance(labels, Mapping) else None
        if text in options:
            place = options.index(text)
        elif isinstance(named, list) and text in named:
            place = named.index(text)
        elif len(text) == 1 and text.upper() in string.ascii_uppercase:
            place = string.ascii_uppercase.index(text.upper())
        elif text.isdecimal():
            place = int(text)
        else:
            raise DataError(
                f"{row.place}: the right answer {text!r:.60} is none of the options",
                "Write an option's words, its letter, or its number from 0.",
            )
    if not 0 <= place < len(options):
        raise DataError(
            f"{row.place}: the right answer is {said!r}, of {len(options)} options",
            f"Numbers go from 0 to {len(options) - 1}, letters from A to {string.ascii_uppercase[len(options) - 1]}.",
        )
    return place


def _found(row: Row, column: str | None, usual: Sequence[str], what: str) -> tuple[str, Any]:
    """(its name, what it holds) of a column."""
    if column is not None:
        if column not in row.value:
            raise DataError(f"{row.place}: there is no column {column!r}", nearest(column, map(str, row.value)))
        return column, row.value[column]
    for name in usual:
        if name in row.value:
            return name, row.value[name]
    raise DataError(
        f"{row.place} has no {what}: its columns are {', '.join(map(str, row.value)) or 'none'}",
        f"Call one {what}; or say in a YAML file which it is (docs/evals.md).",
    )


def _text(row: Row, column: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise DataError(f"{row.place}: {column} holds {value!r:.60}", "Write a text or a number.")
    return str(value)


def _id(row: Row, otherwise: str) -> str:
    said = next((row.value[name] for name in _ID if name in row.value), None)
    return str(said) if isinstance(said, str | int) and not isinstance(said, bool) and said != "" else otherwise


def _group(row: Row, form: Form) -> str:
    return "" if form.group is None else _text(row, *_found(row, form.group, (), "group"))
