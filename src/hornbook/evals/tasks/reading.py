"""Questions about a passage, answered in its words: SQuAD 2.0 (arXiv 1806.03822) and CMRC 2018 (Chinese, arXiv 1810.07366).

SQuAD's prompt is that of lm-evaluation-harness, and so is what tells how likely the model holds it that there is no answer:
the probability of " unanswerable" where the answer would begin. One departure: a model that writes "unanswerable" has kept
silent, which the harness counts as a wrong answer everywhere.

CMRC is put in Chinese, in the same order; the harness has no such task.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hornbook.errors import DataError
from hornbook.evals.choices import Files
from hornbook.evals.clusters import named
from hornbook.evals.data import Data, Row, field
from hornbook.evals.filters import chain, first_line, strip
from hornbook.evals.metrics import chinese, squad
from hornbook.evals.prompting import Framing, in_chat
from hornbook.evals.registry import Kinds, plain
from hornbook.evals.task import Answer, Grade, Item, Likelihood, Request, Setting, Writing
from hornbook.evals.written import Measure, Written, written
from hornbook.types import Score

_NONE = "unanswerable"


class Unanswerable(Written):
    """Questions of which some have no answer: asked for an answer, and for how likely it is that there is none."""

    def __init__(self, name: str, files: Files) -> None:
        super().__init__(
            name,
            files.items,
            lambda item: "Title: {title}\n\nBackground: {context}\n\nQuestion: {question}\n\nAnswer:".format(
                **item.data
            ),
            lambda item: item.data["answers"] or (_NONE,),
            (),
            examples=files.examples,
            stop=("\n",),
            version="3",
        )
        self.metrics = squad.METRICS

    def requests(self, item: Item, setting: Setting) -> tuple[Request, ...]:
        (asked,) = super().requests(item, setting)
        assert isinstance(asked, Writing)
        lead = "" if in_chat(self, setting) else self.framing.lead
        return asked, Likelihood(asked.prompt, (lead + _NONE,))

    def grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        text = written(answers).strip()
        text = "" if squad.normalised(text) == _NONE else text
        scores = [score for answer in answers for score in answer if isinstance(score, Score)]
        silence = math.exp(scores[0].logprob) if scores else float(not text)
        return squad.grade(text, item.data["answers"], silence)


def squadv2(data: Data) -> Unanswerable:
    names = "squad_v2/validation-*.parquet", "dev-v2.0.json", "dev-v2.0.json.gz"
    training = "squad_v2/train-*.parquet", "train-v2.0.json", "train-v2.0.json.gz"
    return Unanswerable("squadv2", Files(data, "squadv2", _items, names, training, hub="rajpurkar/squad_v2"))


def cmrc(data: Data) -> Written:
    """Chinese counts character by character: see hornbook.evals.metrics.chinese."""
    names = "cmrc2018_dev.json", "cmrc2018-validation*.parquet", "cmrc2018_trial.json", "cmrc2018_trial_qa_zh.jsonl"
    training = "cmrc2018_train.json", "cmrc2018-train*.parquet"
    files = Files(data, "cmrc", _answerable, (*names, f"{names[-1]}.gz"), training, hub="hfl/cmrc2018")
    said = chain(first_line, strip)
    return Written(
        "cmrc",
        files.items,
        lambda item: "文章：{context}\n\n问题：{question}\n\n答案：".format(**item.data),
        lambda item: item.data["answers"],
        (Measure("exact", chinese.exact, said), Measure("f1", chinese.f1, said)),
        examples=files.examples,
        framing=Framing(description="阅读文章，用文章中的原文回答问题。\n\n", lead=""),
        stop=("\n\n",),
        max_tokens=128,
    )


def _answerable(row: Row, id: str) -> Iterator[Item]:
    for item in _items(row, id):
        if not item.data["answers"]:
            raise DataError(f"{row.place}: the question {item.id} has no answer", _MEND)
        yield item


def _items(row: Row, id: str) -> Iterator[Item]:
    """Of SQuAD's file, which is one object; of CMRC's own, an array of passages; or of a table with a question a row."""
    if "data" in row.value:
        for article in _dicts(row, row.value, "data"):
            for passage in _dicts(row, article, "paragraphs"):
                for asked in _dicts(row, passage, "qas"):
                    title = article.get("title", "")
                    yield _item(row, {**asked, "title": title, "context": passage.get("context")}, "")
    elif "context_text" in row.value:
        for asked in _dicts(row, row.value, "qas"):
            about = {"title": row.value.get("title", ""), "context": row.value["context_text"]}
            id = str(asked.get("query_id", ""))
            yield _item(row, {"question": asked.get("query_text"), "answers": asked.get("answers"), **about}, id)
    else:
        yield _item(row, row.value, id)


def _item(row: Row, asked: Mapping[str, Any], id: str) -> Item:
    """Answers are texts, or texts with their places: ``[{text, answer_start}]``, ``{text: [...], answer_start: [...]}``."""
    here = Row(row.place, row.number, {"title": "", **asked}, row.path)
    answers: Any = field(here, "answers", (list, dict))
    answers = (
        field(Row(row.place, row.number, answers, row.path), "text", list) if isinstance(answers, dict) else answers
    )
    answers = [one.get("text") if isinstance(one, dict) else one for one in answers]
    id = str(asked.get("id") or id)
    if not id or not all(isinstance(one, str) for one in answers):
        what = "has no id" if not id else f"has the answers {answers!r:.60}, which are no texts"
        raise DataError(f"{row.place}: the question {asked.get('question')!r:.60} {what}", _MEND)
    texts = {name: field(here, name, str) for name in ("title", "context", "question")}
    return Item(id, {**texts, "answers": tuple(answers)}, cluster=named(texts["context"]))


def _dicts(row: Row, value: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    inner = value.get(name)
    if not isinstance(inner, list) or not all(isinstance(one, dict) for one in inner):
        raise DataError(f"{row.place}: {name} is no list of objects but {inner!r:.60}", _MEND)
    return inner


_MEND = "Take the file as it was published."

TASKS: Kinds = {
    "cmrc": plain("questions about Chinese passages, answered in their words", cmrc),
    "squadv2": plain("questions about passages, some without an answer", squadv2),
}
