"""What is known of the world: ARC (arXiv 1803.05457).

Prompts are those of lm-evaluation-harness.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from hornbook.errors import DataError
from hornbook.evals.choices import MultipleChoice, chosen, cut, examples_of, items_of
from hornbook.evals.data import Data, Row, field
from hornbook.evals.registry import Kinds, plain
from hornbook.evals.task import Item


def arc(data: Data, part: str) -> MultipleChoice:
    """Science questions of schools. part: "Easy" or "Challenge"."""
    name = f"arc_{part.lower()}"
    files = (f"ARC-{part}/test-*.parquet", f"ARC-{part}-Test.jsonl", f"{name}.jsonl", f"{name}.jsonl.gz")
    training = (f"ARC-{part}/train-*.parquet", f"ARC-{part}-Train.jsonl")
    return MultipleChoice(
        name, items_of(data, name, files, _arc), examples=examples_of(data, name, training, files, _arc)
    )


def _arc(row: Row, id: str) -> Item:
    if "query" in row.value:
        question = cut(row, "query", "Question: ")
        options: list[Any] = field(row, "choices", list)
        right = field(row, "gold", int)
    else:
        question, options, right = labelled(row, "question")
        id = field(row, "id", str)
    return Item(id, {"question": f"Question: {question}\nAnswer:", **chosen(row, options, right)})


def labelled(row: Row, name: str) -> tuple[str, list[Any], int]:
    """Question, options and where the right one stands, of a row that letters its options: as the hub has them, a question
    ``name`` and ``choices: {text: [...], label: [...]}``, or as their authors gave them, ``question: {stem, choices: [{text,
    label}]}``; the right one is told by ``answerKey``."""
    place, value = row.place, row.value
    inner = value.get("question")
    if isinstance(inner, dict):
        question, choices = field(Row(place, row.number, inner), "stem", str), inner.get("choices")
    else:
        question, choices = field(row, name, str), value.get("choices")
    if isinstance(choices, list) and all(isinstance(one, dict) for one in choices):
        labels, options = [one.get("label") for one in choices], [one.get("text") for one in choices]
    elif isinstance(choices, dict) and all(isinstance(choices.get(key), list) for key in ("text", "label")):
        labels, options = choices["label"], choices["text"]
    else:
        raise DataError(f"{place}: choices are not texts with labels but {choices!r:.60}", _MEND)
    key = field(row, "answerKey", str).strip()
    if key not in labels:
        raise DataError(f"{place}: the answer {key!r} is none of {', '.join(map(str, labels))}", _MEND)
    return question, options, labels.index(key)


_MEND = "Mend the row, or take the file the task is made for."

TASKS: Kinds = {
    "arc": plain("arc_easy and arc_challenge", partial(arc, part="Easy"), partial(arc, part="Challenge")),
    "arc_challenge": plain("science questions of schools, the hard ones", partial(arc, part="Challenge")),
    "arc_easy": plain("science questions of schools", partial(arc, part="Easy")),
}
