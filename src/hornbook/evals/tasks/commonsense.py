"""Reading and everyday sense: BoolQ (arXiv 1905.10044).

Prompts are those of lm-evaluation-harness: boolq of SuperGLUE.
"""

from __future__ import annotations

from hornbook.evals.choices import ACC, MultipleChoice, chosen, cut, examples_of, items_of
from hornbook.evals.data import Data, Row, field
from hornbook.evals.registry import Kinds, plain
from hornbook.evals.task import Item

# The files as published: a data set of the hub, SuperGLUE's archive, the authors' own; and a row that holds a whole prompt.
_BOOLQ = ("boolq/validation-*.parquet", "boolq/data/validation-*.parquet", "BoolQ/val.jsonl", "boolq/dev.jsonl", "boolq.jsonl",
          "boolq.jsonl.gz")  # fmt: skip
_BOOLQ_TRAINING = ("boolq/train-*.parquet", "boolq/data/train-*.parquet", "BoolQ/train.jsonl", "boolq/train.jsonl")


def boolq(data: Data) -> MultipleChoice:
    """Yes or no, from a passage."""
    return MultipleChoice(
        "boolq",
        items_of(data, "boolq", _BOOLQ, _boolq),
        examples=examples_of(data, "boolq", _BOOLQ_TRAINING, _BOOLQ, _boolq),
        metrics=(ACC,),
        version="2",
    )


def _boolq(row: Row, id: str) -> Item:
    if "query" in row.value:
        text = cut(row, "query", "Passage: ", "?")
        passage, _, question = text.rpartition("\nQuestion: ")
        right = field(row, "gold", int)
    else:
        passage, question = field(row, "passage", str), field(row, "question", str)
        right = field(row, "answer" if "answer" in row.value else "label", int)  # true and false are numbers too
        id = str(row.value.get("idx", id))
    return Item(id, {"question": f"{passage}\nQuestion: {question}?\nAnswer:", **chosen(row, ("no", "yes"), right)})


TASKS: Kinds = {
    "boolq": plain("yes or no, from a passage", boolq),
}
