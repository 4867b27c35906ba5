"""Tasks of multiple choice: of some options, the one that the model finds likeliest is its answer.

                 "Question: ... Answer:"   the context, with solved examples before it where there are any
                 " water" " air" " soil"   the options as continuations: a space before each, and none in a chat
    acc          the option of the highest log-probability is right
    acc_norm     the same of the log-probability for each character of the option, so that long ones are not at a loss

Lengths are counted as lm-evaluation-harness counts them for acc_norm: in characters of the option, without the space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hornbook.errors import DataError
from hornbook.evals.data import Data, Row, field
from hornbook.evals.metric import Metric
from hornbook.evals.prompting import Framing, drawn, framed, in_chat
from hornbook.evals.task import Answer, Grade, Item, Likelihood, Question, ReadOnce, Request, Setting
from hornbook.evals.written import Reader, read_items
from hornbook.types import Score

ACC, ACC_NORM = Metric("acc"), Metric("acc_norm")
_PLAIN = Framing()


def chosen(row: Row, options: Sequence[Any], gold: int | Sequence[int]) -> dict[str, list[Any]]:
    """The fields ``options`` and ``gold`` (where the right ones stand) of an item. Raises DataError where a row has fewer than
    two options, one that is no text, or a right answer that is none of them."""
    right = [gold] if isinstance(gold, int) else list(gold)
    if len(options) < 2 or not all(isinstance(option, str) and option for option in options):
        raise DataError(
            f"{row.place}: at least two options that are texts are needed, not {list(options)!r:.80}", _MEND
        )
    if not right or not all(0 <= one < len(options) for one in right):
        raise DataError(f"{row.place}: the right answer is {gold!r:.40}, of {len(options)} options", _MEND)
    return {"options": [*options], "gold": [int(one) for one in right]}


def cut(row: Row, name: str, before: str = "", after: str = "") -> str:
    """A text of a row without what stands around it. Raises DataError where that is not there."""
    text = str(field(row, name, str))
    if not (text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after)):
        raise DataError(f"{row.place}: {name} is not {before!r} ... {after!r} but {text!r:.60}", _MEND)
    return text[len(before) : len(text) - len(after)]


_MEND = "Mend the row, or take the file the task is made for."


class MultipleChoice(ReadOnce):
    """A task with some options for each item, one or several of which are right.

    items     the items, read when they are first asked for
    question  what stands before the answer, without the examples and the space
    options   what is compared        gold  where the right ones stand among them
              by default the fields of an item of these names (``chosen`` makes them)
    examples  where solved examples are drawn from; None: there are none, and the task takes no shots
    in_order  the first examples are taken, as where a benchmark fixes them, and none is drawn
    framing   what stands around the questions, of all items or of one
    """

    def __init__(
        self,
        name: str,
        items: Callable[[], Sequence[Item]],
        question: Callable[[Item], str] = lambda item: str(item.data["question"]),
        options: Callable[[Item], Sequence[str]] = lambda item: item.data["options"],
        gold: Callable[[Item], Sequence[int]] = lambda item: item.data["gold"],
        *,
        examples: Callable[[], Sequence[Item]] | None = None,
        in_order: bool = False,
        framing: Framing | Callable[[Item], Framing] = _PLAIN,
        metrics: Sequence[Metric] = (ACC, ACC_NORM),
        shots: int = 0,
        chat: bool = False,
        version: str = "1",
    ) -> None:
        self.name, self.version, self.shots, self.chat = name, version, shots, chat
        self.metrics = tuple(metrics)
        self.question, self.options, self.gold, self.framing, self.in_order = question, options, gold, framing, in_order
        self._read, self._read_examples = items, examples

    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        context = self.context(item, setting, self.question(item))
        return (Likelihood(context, tuple(self.lead(item, setting) + option for option in self.options(item))),)

    def context(self, item: Item, setting: Setting, question: str) -> Question:
        """What goes before an answer: the solved examples, and a question."""
        shown = drawn(self, item, setting, first=self.in_order) if self._read_examples else []
        return framed(
            self, item, setting, lambda one: question if one is item else self.question(one), self.solution,
            self.around(item), examples=shown,
        )  # fmt: skip

    def around(self, item: Item) -> Framing:
        return self.framing if isinstance(self.framing, Framing) else self.framing(item)

    def lead(self, item: Item, setting: Setting) -> str:
        """What stands between a question and each option: in a chat nothing, because a turn begins with its text."""
        return "" if in_chat(self, setting) else self.around(item).lead

    def solution(self, item: Item) -> str:
        """The answer of a solved example: the first right option."""
        return self.options(item)[self.gold(item)[0]]

    def grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        scores = [score for answer in answers for score in answer if isinstance(score, Score)]
        if not scores:  # a text was written: which option it means is not this task's to say
            return {}
        worth = self.worth(item, np.array([score.logprob for score in scores], np.float64))
        return {metric.name: worth[metric.name] for metric in self.metrics}

    def worth(self, item: Item, logprobs: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
        """By name of a metric, what it is worth to find the options this likely. logprobs: [options]."""
        right = self.gold(item)
        lengths = np.array([len(option) for option in self.options(item)], np.float64)
        return {
            "acc": float(int(logprobs.argmax()) in right),
            "acc_norm": float(int((logprobs / lengths).argmax()) in right),
        }

    def target(self, item: Item) -> str:
        return " | ".join(self.options(item)[one] for one in self.gold(item))


@dataclass(frozen=True)
class Files:
    """Where the rows of a task are, and how an item is made of one.

    test      names of files, the first of which is there is read (Data.find)
    training  the same of solved examples; where there is none, they are drawn from the questions themselves
    hub       the data set of the hub that holds them
    columns   of tables whose first line does not name them
    """

    data: Data
    task: str
    read: Reader
    test: tuple[str, ...]
    training: tuple[str, ...] = ()
    hub: str = ""
    columns: tuple[str, ...] = ()

    def items(self) -> list[Item]:
        return read_items(self.data.find(self.task, *self.test, hub=self.hub), self.read, self.columns)

    def examples(self) -> list[Item]:
        try:
            paths = self.data.find(self.task, *self.training)
        except DataError:
            return self.items()
        # what is numbered alike in both must not be taken for the question itself, which is left out of its examples
        return [replace(one, id=f"training {one.id}") for one in read_items(paths, self.read, self.columns)]
