"""Questions of general knowledge without a passage: TriviaQA (arXiv 1705.03551) and NQ-open (arXiv 1906.00300).

Prompts, stop texts and comparison are those of lm-evaluation-harness; that a question mark is added even to a question which
has one is so there.
"""

from __future__ import annotations

from typing import Any

from hornbook.errors import DataError
from hornbook.evals.choices import Files, cut
from hornbook.evals.data import Data, Row, field
from hornbook.evals.filters import strip
from hornbook.evals.metrics.exact import exact_match
from hornbook.evals.prompting import Framing
from hornbook.evals.registry import Kinds, plain
from hornbook.evals.task import Item
from hornbook.evals.written import Measure, Written

_STOP = ("\n", ".", ",")


def triviaqa(data: Data) -> Written:
    """Any of the names that an answer goes by is right."""
    files = Files(
        data,
        "triviaqa",
        _trivia,
        ("rc.nocontext/validation-*.parquet", "triviaqa_sub.jsonl", "triviaqa_sub.jsonl.gz", "triviaqa_sm_sub.jsonl"),
        ("rc.nocontext/train-*.parquet",),
        hub="mandarjoshi/trivia_qa",
    )
    return Written(
        "triviaqa",
        files.items,
        lambda item: f"Question: {item.data['question']}?\nAnswer:",
        lambda item: item.data["answers"],
        (Measure("exact_match", exact_match(case=False, punctuation=False), strip),),
        solution=lambda item: str(item.data["answer"]),
        examples=files.examples,
        stop=_STOP,
        version="3",
    )


def nq_open(data: Data) -> Written:
    """Questions that people asked a search engine; any of the short answers is right."""
    files = Files(
        data,
        "nq_open",
        _natural,
        ("nq_open/validation-*.parquet", "NQ-open.dev.jsonl", "nq_open_dev.jsonl", "nq_open_dev.jsonl.gz"),
        ("nq_open/train-*.parquet", "NQ-open.train.jsonl"),
        hub="google-research-datasets/nq_open",
    )
    same = exact_match(ignore=(r"\b(?:The |the |An |A |The |a |an )",), case=False, punctuation=False)
    return Written(
        "nq_open",
        files.items,
        lambda item: f"Q: {item.data['question']}?\nA:",
        lambda item: item.data["answers"],
        (Measure("exact_match", same, strip),),
        examples=files.examples,
        framing=Framing(description="Answer these questions:\n\n", between="\n"),
        stop=_STOP,
        version="4",
    )


def _trivia(row: Row, id: str) -> Item:
    """``answer: {value, aliases}``, or of mixtures of tasks ``context``, which holds the prompt, ``answer``, ``aliases``."""
    if "context" in row.value:
        question, answer = cut(row, "context", "Question: ", "\nAnswer:"), field(row, "answer", str)
        names = field(row, "aliases", list)
    else:
        id = str(row.value.get("question_id") or id)
        told = Row(row.place, row.number, field(row, "answer", dict), row.path)
        question, answer, names = field(row, "question", str), field(told, "value", str), field(told, "aliases", list)
    texts = _texts(row, names or [answer])
    ordered = sorted(texts, key=lambda name: name != answer)  # the one that readers are shown comes first
    return Item(id, {"question": question, "answer": answer, "answers": tuple(ordered)})


def _natural(row: Row, id: str) -> Item:
    return Item(id, {"question": field(row, "question", str), "answers": _texts(row, field(row, "answer", list))})


def _texts(row: Row, answers: list[Any]) -> tuple[str, ...]:
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{row.place}: the answers are no texts but {answers!r:.60}", "Mend the row.")
    return tuple(answers)


TASKS: Kinds = {
    "nq_open": plain("questions that people asked a search engine, without a passage", nq_open),
    "triviaqa": plain("questions of quizzes, without a passage", triviaqa),
}
