"""Questions about tables: WikiTableQuestions (arXiv 1508.00305), with its official comparison of denotations.

A table is put with a row a line and | between its cells, and so are several answers. The harness has no such task.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hornbook.data.records import Fault, records
from hornbook.errors import DataError
from hornbook.evals.choices import Files
from hornbook.evals.clusters import named
from hornbook.evals.data import Data, Row, field, rows
from hornbook.evals.filters import first_line
from hornbook.evals.metrics import denotation
from hornbook.evals.prompting import Framing
from hornbook.evals.registry import Kinds, plain
from hornbook.evals.task import Item
from hornbook.evals.written import Measure, Written

_MEND = "Take the files as they were published, with their folders."


class Denotations(Written):
    """Questions with a list of answers, all of which are to be given."""

    def target(self, item: Item) -> str:
        return self.solution(item)


def wikitablequestions(data: Data) -> Denotations:
    tables = _Tables(data)
    names = "random-split-1/test-*.parquet", "data/pristine-unseen-tables.tsv", "wtq_questions.jsonl"
    training = "random-split-1/train-*.parquet", "data/training.tsv"
    files = Files(
        data, "wikitablequestions", tables.item, (*names, f"{names[-1]}.gz"), training, hub="stanfordnlp/wikitablequestions"
    )  # fmt: skip
    return Denotations(
        "wikitablequestions",
        files.items,
        lambda item: "Table:\n{table}\n\nQuestion: {question}\nAnswer:".format(**item.data),
        lambda item: [
            f"{answer}\t{kind}" for answer, kind in zip(item.data["answers"], item.data["canon"], strict=True)
        ],
        (Measure("denotation", denotation.same, first_line),),
        solution=lambda item: " | ".join(item.data["answers"]),
        examples=files.examples,
        framing=Framing(description="Answer the question about the table. Write | between several answers.\n\n"),
        stop=("\n\n", "\nTable:", "\nQuestion:"),
        max_tokens=128,
    )


class _Tables:
    """Makes items of questions, for which the tables and the kinds of the answers are looked up."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._text: dict[str, str] = {}  # of a table, by its place in the published folder
        self._kinds: dict[Path, Mapping[str, list[str]]] = {}  # of the answers, by the id of a question

    def item(self, row: Row, id: str) -> Item:
        """``question, answers, table: {header, rows}`` as the hub has it, or ``id, utterance, context, targetValue`` with the
        tables in csv/, and what kinds the answers are of in tagged/."""
        if "table" in row.value:
            table = field(row, "table", dict)
            question, answers = field(row, "question", str), field(row, "answers", list)
            text, canon = _put([table.get("header"), *(table.get("rows") or ())], row.place), None
        else:
            question, answers = field(row, "utterance", str), _list(field(row, "targetValue", str))
            text, canon = self._table(row), self._tagged(row)
        if not answers or not all(isinstance(answer, str) for answer in answers):
            raise DataError(f"{row.place}: the answers are no texts but {answers!r:.60}", _MEND)
        if canon is None:
            canon = [denotation.canonical(answer) for answer in answers]
        if len(canon) != len(answers):
            raise DataError(f"{row.place}: {len(answers)} answers, but the kinds of {len(canon)}", _MEND)
        id = str(row.value.get("id") or id)
        data = {"question": question, "table": text, "answers": tuple(answers), "canon": tuple(canon)}
        return Item(id, data, cluster=named(text))

    def _table(self, row: Row) -> str:
        place = field(row, "context", str)
        if place not in self._text and row.path.name.startswith("wtq_"):
            self._text |= {
                field(one, "context", str): _put(_cells(field(one, "csv", str)), one.place)
                for one in rows(self._data.find("wikitablequestions", "wtq_tables.jsonl", "wtq_tables.jsonl.gz"))
            }
        if place not in self._text:
            folder = row.path.parent.parent.resolve()
            path = (folder / place).resolve()
            if not path.is_relative_to(folder) or not path.is_file():
                raise DataError(f"{row.place}: its table {place} is not there, in {folder}", _MEND)
            try:
                self._text[place] = _put(_cells(path.read_text("utf-8")), str(path))
            except UnicodeDecodeError as error:
                raise DataError(f"{path} cannot be read: {error}", _MEND) from error
        return self._text[place]

    def _tagged(self, row: Row) -> list[str] | None:
        path = row.path.parent.parent / "tagged" / "data" / f"{row.path.stem}.tagged"
        if path not in self._kinds:
            self._kinds[path] = _canons(path) if path.is_file() else {}
        return self._kinds[path].get(str(row.value.get("id")))


def _canons(path: Path) -> dict[str, list[str]]:
    """By id of a question, the numbers and dates that its answers are, from a file of the published folder tagged/."""
    lines = records(path, ".tsv", split="line")
    names: list[str] = []
    found = {}
    for line in lines:
        if isinstance(line.value, Fault) or not isinstance(line.value, list):
            raise DataError(f"{path}, line {line.line} is no line of a table", _MEND)
        if not names:
            names = line.value
            continue
        one = dict(zip(names, line.value, strict=False))
        if "id" not in one or "targetCanon" not in one:
            raise DataError(f"{path}, line {line.line} has no id and targetCanon", _MEND)
        found[one["id"]] = _list(one["targetCanon"])
    return found


def _list(text: str) -> list[str]:
    """A list as the published tables write it: | between its items, with \\n, \\p (for |) and \\\\ in them."""
    return [
        re.sub(r"\\([np\\])", lambda found: {"n": "\n", "p": "|"}.get(found[1], "\\"), one) for one in text.split("|")
    ]


def _cells(text: str) -> Iterator[list[str]]:
    """The rows of a table that writes quotes inside its cells with a backslash."""
    return csv.reader(io.StringIO(text, newline=""), doublequote=False, escapechar="\\", strict=True)


def _put(table: Iterable[Any], place: str) -> str:
    """A table as it is put: a row a line. Raises DataError where it is none."""
    lines = []
    try:
        for cells in table:
            if not isinstance(cells, list) or not all(isinstance(cell, str) for cell in cells):
                raise DataError(f"{place}: a row of the table is no list of texts but {cells!r:.60}", _MEND)
            lines.append(" | ".join(" ".join(cell.split()) for cell in cells))
    except csv.Error as error:
        raise DataError(f"{place}: the table cannot be read: {error}", _MEND) from error
    return "\n".join(lines)


TASKS: Kinds = {
    "wikitablequestions": plain("questions about tables of Wikipedia (WikiTableQuestions)", wikitablequestions),
}
