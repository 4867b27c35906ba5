"""How well a model foretells a text: perplexity of any file or folder.

    bits_per_byte      -log2 p(text) / bytes    the same unit for all models, whatever their tokens are
    byte_perplexity    2 ^ bits_per_byte
    word_perplexity    p(text) ^ (-1 / words), words being what whitespace parts: of little use in Chinese or Japanese

Every text (a file, or a row of a table) is read from its beginning, and each token counts once. What is counted, and how the
texts are summed up, is as in lm-evaluation-harness: all bytes weigh alike, wherever they stand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from hornbook.data.compression import inner_suffix
from hornbook.data.records import FORMATS, TEXT_SUFFIXES, Fault, records
from hornbook.errors import DataError, UsageError
from hornbook.evals.data import Data, rows
from hornbook.evals.metric import Column, Columns, Metric
from hornbook.evals.registry import Kind, Kinds
from hornbook.evals.task import Answer, Grade, Item, Request, Rolling, Setting, Task
from hornbook.types import Score

FIELDS = ("text", "page", "content")  # of a row; the first that it has


def _nats_per(unit: str, columns: Columns) -> Column:
    return np.asarray(-columns["logprob"].sum(-1) / columns[unit].sum(-1))


class Perplexity(Task):
    """path: a file or a folder, whose files are taken by name."""

    metrics = (
        Metric("bits_per_byte", False, False, lambda columns: np.asarray(_nats_per("bytes", columns) / np.log(2))),
        Metric("byte_perplexity", False, False, lambda columns: np.asarray(np.exp(_nats_per("bytes", columns)))),
        Metric("word_perplexity", False, False, lambda columns: np.asarray(np.exp(_nats_per("words", columns)))),
    )

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path

    def items(self) -> Sequence[Item]:
        return self._items

    @cached_property
    def _items(self) -> tuple[Item, ...]:
        found = tuple(Item(id, {"text": text}) for id, text in _texts(self.path))
        if not found:
            raise DataError(f"there is no text in {self.path}", f"Name a text, or a folder with {', '.join(FORMATS)}.")
        return found

    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        return (Rolling(item.data["text"]),)

    def grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        score, text = answers[0][0], item.data["text"]
        if not isinstance(score, Score):  # what is written has no perplexity
            return {}
        words = len(re.split(r"\s+", text))
        return {"logprob": score.logprob, "bytes": float(len(text.encode())), "words": float(words)}


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of a file, or of the files of a folder that have a suffix we know."""
    if not path.is_dir():
        yield from _file(path, path.name)
        return
    for inner in sorted(path.rglob("*")):
        name = inner.relative_to(path)
        hidden = any(part.startswith(".") for part in name.parts)
        if inner.is_file() and not hidden and inner_suffix(inner) in FORMATS:
            yield from _file(inner, name.as_posix())


def _file(path: Path, name: str) -> Iterator[tuple[str, str]]:
    if inner_suffix(path) in FORMATS and inner_suffix(path) not in TEXT_SUFFIXES:
        for row in rows([path]):
            text = next((row.value[key] for key in FIELDS if isinstance(row.value.get(key), str)), None)
            if text is None:
                raise DataError(f"{row.place} has no text: none of {', '.join(FIELDS)}", "Rename the field to text.")
            if text.strip():
                yield f"{name}-{row.number}", text
        return
    for record in records(path, ".txt", split="file"):
        if isinstance(record.value, Fault):
            raise DataError(f"{path}, line {record.line}: {record.value.what}", record.value.remedy)
        yield name, str(record.value)


def perplexity(data: Data, rest: str) -> list[Task]:
    """Raises UsageError where nothing is named, DataError where it is not there."""
    if not rest:
        raise UsageError("perplexity of what?", "Name a text or a folder: perplexity:book.txt.")
    places = [Path(rest).expanduser(), *(folder / rest for folder in data.folders)]
    path = next((place for place in places if place.exists()), None)
    if path is None:
        raise DataError(
            f"there is no file or folder {rest}", f"Looked in {', '.join(str(one.parent) for one in places)}."
        )
    return [Perplexity(f"perplexity:{rest}", path)]


TASKS: Kinds = {"perplexity": Kind("bits per byte of a text, as perplexity:FILE or perplexity:FOLDER", perplexity)}
