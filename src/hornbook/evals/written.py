"""Tasks that are answered by writing: a question, the answers that are right, and measures of what was written.

a text  --filter-->  what counts of it  --score, against the right answers-->  a column of the grade
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hornbook.errors import DataError
from hornbook.evals.data import Row, rows
from hornbook.evals.filters import Filter, verbatim
from hornbook.evals.metric import Metric
from hornbook.evals.prompting import Framing, drawn, framed
from hornbook.evals.task import Answer, Grade, Item, ReadOnce, Request, Setting, Writing
from hornbook.types import SamplingParams

Reader: TypeAlias = Callable[[Row, str], "Item | Iterable[Item] | None"]  # see read_items
Worth: TypeAlias = Callable[[str, Sequence[str]], float]  # (what was written, the right answers) -> 0 to 1

_PLAIN = Framing()


@dataclass(frozen=True, slots=True)
class Measure:
    """One column: what is read out of a text, and what that is worth against the right answers."""

    name: str
    worth: Worth
    filter: Filter = verbatim


class Written(ReadOnce):
    """A task with one written answer to each item.

    items      the items, read when they are first asked for
    question   what is put, without the examples before it
    golds      the right answers; the first is what a reader of failures is shown
    measures   the columns of a grade, each the mean of which is a metric; the task is known by the first
    solution   the answer of a solved example; None: the first right one
    examples   where solved examples are drawn from; None: there are none
    fixed      solved examples in the order in which they go before every question, as where a benchmark has its own
    stop       texts that end an answer
    max_tokens of an answer
    """

    def __init__(
        self,
        name: str,
        items: Callable[[], Sequence[Item]],
        question: Callable[[Item], str],
        golds: Callable[[Item], Sequence[str]],
        measures: Sequence[Measure],
        *,
        solution: Callable[[Item], str] | None = None,
        examples: Callable[[], Sequence[Item]] | None = None,
        fixed: Sequence[Item] | None = None,
        framing: Framing = _PLAIN,
        stop: Sequence[str] = (),
        max_tokens: int = 256,
        shots: int = 0,
        chat: bool = False,
        version: str = "1",
    ) -> None:
        self.name, self.version, self.shots, self.chat = name, version, shots, chat
        self.metrics = tuple(Metric(measure.name) for measure in measures)
        self.measures, self.question, self.golds, self.framing = tuple(measures), question, golds, framing
        self.sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, stop=tuple(stop))
        self._solution, self._read, self._fixed = solution, items, fixed is not None
        self._read_examples = examples if fixed is None else lambda: fixed

    def solution(self, item: Item) -> str:
        """The answer of a solved example, as it goes before a question."""
        return self._solution(item) if self._solution else self.golds(item)[0]

    def around(self, item: Item) -> Framing:
        """What stands around the questions of an item's prompt."""
        return self.framing

    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        shown = drawn(self, item, setting, first=self._fixed)
        prompt = framed(self, item, setting, self.question, self.solution, self.around(item), examples=shown)
        return (Writing(prompt, self.sampling),)

    def grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        text = written(answers)
        return {measure.name: self.worth(item, measure, text) for measure in self.measures}

    def worth(self, item: Item, measure: Measure, text: str) -> float:
        """What a text is worth by one measure."""
        return measure.worth(measure.filter(text), self.golds(item))

    def target(self, item: Item) -> str:
        return self.golds(item)[0]


def written(answers: Sequence[Answer]) -> str:
    """The one text among the answers, which comes first."""
    text = answers[0][0] if answers and answers[0] else ""
    return text if isinstance(text, str) else ""


def read_items(paths: Sequence[Path], read: Reader, columns: Sequence[str] = ()) -> list[Item]:
    """The items of files. ``read`` makes them of a row, and of the id that the row has where it brings none of its own: the
    file's name without its suffixes, and the row's number. None: the row is not one of the task's. Raises DataError, too where
    two items have one id, or there is none at all."""
    found: list[Item] = []
    places: dict[str, str] = {}
    for path in paths:
        stem = path.name.split(".")[0]
        for row in rows([path], columns):
            made = read(row, f"{stem}-{row.number}")
            for item in (made,) if isinstance(made, Item) else made or ():
                if item.id in places:
                    raise DataError(
                        f"{row.place}: the id {item.id} is that of {places[item.id]} too",
                        "Leave one copy of the file, or give the rows ids of their own.",
                    )
                places[item.id] = row.place
                found.append(item)
    if not found:
        raise DataError(f"no questions in {', '.join(map(str, paths))}", "Look whether the files are whole.")
    return found
