"""LAMBADA (arXiv 1606.06031), in OpenAI's form (GPT-2) and its translations: the last word of a story, which only the story
as a whole tells. Prompts are those of lm-evaluation-harness: words are apart by one space, and the last is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from hornbook.errors import DataError
from hornbook.evals.choices import Files
from hornbook.evals.data import Data, Row, field
from hornbook.evals.metric import Metric
from hornbook.evals.prompting import Framing, drawn, framed, in_chat
from hornbook.evals.registry import Kinds, plain
from hornbook.evals.task import Answer, Grade, Item, Likelihood, Request, Setting, Task
from hornbook.types import Score

_TWO = Framing(
    lead="  "
)  # between a story and its word in a solved example: the harness' words begin with a space of their own


class LastWord(Task):
    """How likely is the word that ends a text, and is it what the model would write?"""

    metrics = (
        Metric("acc"),
        Metric("perplexity", False, False, lambda columns: np.asarray(np.exp(-columns["logprob"].mean(-1)))),
    )

    def __init__(self, name: str, read: Callable[[], Sequence[Item]]) -> None:
        self.name, self._read = name, read
        self._kept: tuple[Item, ...] | None = None

    def items(self) -> Sequence[Item]:
        if self._kept is None:
            self._kept = tuple(self._read())
        return self._kept

    def examples(self) -> Sequence[Item]:
        return self.items()

    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        context = framed(self, item, setting, _story, self.target, _TWO, examples=drawn(self, item, setting))
        return (Likelihood(context, (" " * (not in_chat(self, setting)) + self.target(item),)),)

    def grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        score = answers[0][0]
        if not isinstance(score, Score):
            return {"acc": float(score.strip() == self.target(item))}
        return {"acc": float(score.is_greedy), "logprob": score.logprob}

    def target(self, item: Item) -> str:
        return str(item.data["word"])


def _story(item: Item) -> str:
    return str(item.data["story"])


def lambada(data: Data, language: str = "") -> LastWord:
    """language: of a translation, such as "de"."""
    name = f"lambada_openai_mt_{language}" if language else "lambada_openai"
    english = ("lambada_test.jsonl", "lambada_test_en.jsonl", "lambada_openai.jsonl", "lambada_openai.jsonl.gz")
    files = (f"lambada_test_{language}.jsonl",) if language else english
    return LastWord(name, Files(data, name, _item, files, hub="EleutherAI/lambada_openai").items)


def _item(row: Row, id: str) -> Item:
    if "context" in row.value:
        story, word = field(row, "context", str), field(row, "continuation", str)
    else:
        story, _, word = field(row, "text", str).rpartition(" ")
    if not story or not word:
        raise DataError(f"{row.place} is no text of several words that ends in one", "Mend the row.")
    return Item(id, {"story": story, "word": word})


TASKS: Kinds = {"lambada_openai": plain("the last word of a story", lambada)} | {
    f"lambada_openai_mt_{one}": plain(f"the last word of a story, {language}", partial(lambada, language=one))
    for one, language in {
        "de": "German",
        "en": "English",
        "es": "Spanish",
        "fr": "French",
        "it": "Italian",
    }.items()  # fmt: skip
}
