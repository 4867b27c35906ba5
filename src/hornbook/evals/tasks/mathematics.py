"""Arithmetic told as a story: GSM8K (arXiv 2110.14168) and SVAMP (arXiv 2103.07191).

Prompts, stop texts and what is read out of an answer are those of lm-evaluation-harness' gsm8k and gsm8k_cot, which SVAMP's
questions are put in too.
"""

from __future__ import annotations

from hornbook.evals.data import Data, Row, field
from hornbook.evals.filters import last_number, regex
from hornbook.evals.metrics.exact import exact_match
from hornbook.evals.registry import Kind, Kinds
from hornbook.evals.task import Item
from hornbook.evals.written import Measure, Written, read_items

_SAME = exact_match(ignore=(",", r"\$", r"(?s).*#### ", r"\.$"), case=False)
_FILES = {
    "test": ("gsm8k/main/test-*.parquet", "grade_school_math/data/test.jsonl", "gsm8k_test.jsonl", "gsm8k_test.jsonl.gz"),
    "train": ("gsm8k/main/train-*.parquet", "grade_school_math/data/train.jsonl", "gsm8k_train.jsonl", "gsm8k_train.jsonl.gz"),
}  # fmt: skip


def gsm8k(data: Data) -> Written:
    """Five solved examples, drawn from the questions for training; the answer follows "####", or is the last number."""

    def read(split: str) -> list[Item]:
        return read_items(data.find("gsm8k", *_FILES[split]), _gsm8k_item)

    return Written(
        "gsm8k",
        lambda: read("test"),
        lambda item: f"Question: {item.data['question']}\nAnswer:",
        lambda item: (item.data["answer"],),
        (
            Measure("strict-match", _SAME, regex(r"#### (\-?[0-9\.\,]+)")),
            Measure("flexible-extract", _SAME, last_number),
        ),
        examples=lambda: read("train"),
        stop=("Question:", "</s>", "<|im_end|>"),
        shots=5,
        version="3",
    )


def _gsm8k_item(row: Row, id: str) -> Item:
    return Item(id, {"question": field(row, "question", str), "answer": field(row, "answer", str)})


TASKS: Kinds = {
    "gsm8k": Kind("grade-school mathematics told as stories, by a chain of thought", lambda data, rest: [gsm8k(data)]),
}
