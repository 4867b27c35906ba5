"""A task: its items, what a model is asked about each, and what an answer is worth.

    items()  ->  Item  --requests(item, setting)-->  Request ... --a model-->  Answer ... --grade(item, answers)-->  {"acc": 1.0}
                                                                                                 columns --Metric--> value

A task never sees a model: it says what to ask and reads what came back, so that a local engine, a server and a script are
judged alike and every answer can be kept and asked for only once. What needs more than one text at a time (a folder and its
index) is a Trial and is given the model itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from hornbook.errors import DataError
from hornbook.evals.metric import Columns, Metric
from hornbook.settings import Settings
from hornbook.types import Message, Progress, SamplingParams, Score

Question: TypeAlias = "str | tuple[Message, ...]"  # plain text to go on from, or turns that await the assistant's


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a task. ``id`` stays the same from run to run: answers are paired and resumed by it.

    ``group``: what it also counts to, such as MMLU's subject.
    ``cluster``: what it hangs on together with others, such as a passage; '' stands alone.
    """

    id: str
    data: Mapping[str, Any]
    group: str = ""
    cluster: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """How a task is put. The same items in another setting are another measurement.

    shots       how many solved examples go before; None: as many as the task is known for
    seed        draws the examples
    chat        whether the model's chat template frames the question; None: where the task is one for assistants
    system      what comes first of all
    max_tokens  the most that a written answer may have, such as room for a model's thoughts; None: as the task has it
    """

    shots: int | None = None
    seed: int = 1234
    chat: bool | None = None
    system: str = ""
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely is each of these after the context? Answered by one Score each, in their order."""

    context: Question
    continuations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rolling:
    """How likely is the whole text? Answered by one Score: every token of it is judged once, after as much of what goes
    before as the model's context holds."""

    text: str


@dataclass(frozen=True, slots=True)
class Writing:
    """What does the model write? Answered by ``sampling.n`` texts."""

    prompt: Question
    sampling: SamplingParams = field(default_factory=lambda: SamplingParams(temperature=0.0, max_tokens=256))


@dataclass(frozen=True, slots=True)
class Means:
    """What a grade may take beside the answers. ``judge``: an LLM that was named for it; ``unsafe_code``: the person has said
    that code which a model wrote may run where nothing keeps it apart; ``settings``: of this call, by which what a task opens
    itself is opened (None: those of the environment)."""

    judge: Any = None
    unsafe_code: bool = False
    settings: Settings | None = None


Request: TypeAlias = "Likelihood | Rolling | Writing"
Answer: TypeAlias = "tuple[Score, ...] | tuple[str, ...]"
Grade: TypeAlias = "Mapping[str, float]"  # by name of a column; the metrics are computed from the columns of all items


class Task(ABC):
    """See the module. ``version`` counts up whenever a score would no longer compare with an earlier one.

    metrics    the first is what the task is known by, and what ``reward`` gives
    shots      as many solved examples as the task is known for
    chat       whether it is one for assistants
    graded_by  who or what grades, where that is slow or asks a model ("sandbox", a judge's name): such grades are made several
               at a time, and kept with the answers
    """

    name: str
    version: str = "1"
    metrics: tuple[Metric, ...]
    shots: int = 0
    chat: bool = False
    graded_by: str = ""

    def equip(self, means: Means) -> None:
        """Take what grading needs, before anything is asked. Raises UsageError where it was not given."""
        return

    @abstractmethod
    def items(self) -> Sequence[Item]:
        """In the order of the data. Raises DataError, naming file and line, where a row cannot be read."""

    def examples(self) -> Sequence[Item]:
        """What solved examples are drawn from. A task without any takes no shots."""
        return ()

    @abstractmethod
    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        """What is asked about an item. Pure: the same item and setting give the same requests."""

    @abstractmethod
    def grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        """What the answers to ``requests`` are worth. Pure, but for a task that runs code or asks a judge."""

    def target(self, item: Item) -> str:
        """The right answer, as a person who reads a failure wants to see it."""
        return ""

    def remarks(self, ids: Sequence[str], columns: Columns) -> Sequence[str]:
        """What a reader of the scores has to know, such as what could not be judged. ``ids``: of the items, in the columns'
        order."""
        return ()

    def reward(self, item: Item, text: str) -> float:
        """What one written answer is worth by the first metric, for training that learns from it. Raises DataError where
        the task is not answered by writing."""
        value = self.grade(item, [(text,)]).get(self.metrics[0].name)
        if value is None:
            raise DataError(
                f"{self.name} has no worth of a single answer",
                "Take a task that is answered by writing, such as gsm8k.",
            )
        return value


class ReadOnce(Task):
    """A task whose items and solved examples are read when they are first asked for, and then kept."""

    _read: Callable[[], Iterable[Item]]
    _read_examples: Callable[[], Iterable[Item]] | None = None

    def items(self) -> Sequence[Item]:
        return self._items

    def examples(self) -> Sequence[Item]:
        return self._examples

    @cached_property
    def _items(self) -> tuple[Item, ...]:
        return tuple(self._read())

    @cached_property
    def _examples(self) -> tuple[Item, ...]:
        return tuple(self._read_examples()) if self._read_examples else ()


class Trial(Task):
    """A task that works with the model itself: it fills an index, or asks in several steps."""

    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        return ()

    def prepare(self, model: Any, tell: Progress) -> None:
        """Make what all items need, such as an index. Called before the first of those that are not answered yet."""
        return

    @abstractmethod
    def answer(self, item: Item, model: Any, setting: Setting) -> Mapping[str, Any]:
        """What the model made of an item, as JSON can keep it."""

    @abstractmethod
    def judge(self, item: Item, answer: Mapping[str, Any]) -> Grade:
        """What that is worth."""

    def grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        raise DataError(f"{self.name} works with the model itself", "Call answer() and judge().")
