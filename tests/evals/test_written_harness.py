"""Prompts, stop texts and grades of the tasks that lm-evaluation-harness has too, held against it on odd answers."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from harness_tasks import HarnessTask

from hornbook.evals.data import Data
from hornbook.evals.registry import tasks
from hornbook.evals.task import Item, Likelihood, Setting, Writing
from hornbook.evals.written import Written

ODD = (
    "", " ", "\n\n", "18", " 18.", "#### 18", "#### 18.", "####18", "#### -18", "#### 1,8", "#### $18", "So it is 18 dollars.",
    "$18", "18.00", "18 eggs\n#### 19", "#### 18\nQuestion", "- 3 4 -5", "The answer is 18.", "The answer is 18", "The answer is",
    "...", "$", ",.,", "答案是18。", "一共18个", "١٨", "x" * 500, "#### ", "1.8.", "6,000", "#### 6,000", "-", "TRUE", "18\u00a0",
)  # fmt: skip


def ours(name: str, shared: Path, **setting: Any) -> tuple[Written, Sequence[Item], Setting]:
    (task,) = tasks([name], Data((shared,)))
    assert isinstance(task, Written)
    return task, task.items(), Setting(**setting)


def prompt(task: Written, item: Item, setting: Setting) -> str:
    (asked,) = task.requests(item, setting)
    assert isinstance(asked, Writing) and isinstance(asked.prompt, str)
    return asked.prompt


def rows(shared: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(shared / "reasoning" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize(("name", "shots"), [("gsm8k", 0), ("gsm8k_cot", 8), ("gsm8k_cot", 2)])
def test_gsm8k_is_asked_and_graded_as_the_harness_does(shared: Path, name: str, shots: int) -> None:
    task, items, setting = ours(name, shared, shots=shots)
    harness = HarnessTask(f"gsm8k/{name.replace('_', '-')}.yaml", rows(shared, "gsm8k_test")[:40])
    assert [*task.sampling.stop] == harness.stop
    assert task.sampling.max_tokens == 256  # the harness' own for models of transformers
    for at in range(0, 40, 5):
        assert prompt(task, items[at], setting) == harness.fixed_prompt(at, shots)
        right = items[at].data["answer"].split("####")[-1].strip()
        for text in (*ODD, f"#### {right}", f"it is ${right}.", f"The answer is {right}.", f"The answer is {right}. Q"):
            assert dict(task.grade(items[at], [(text,)])) == harness.grades(at, text), (at, text)


def test_triviaqa_is_asked_and_graded_as_the_harness_does(shared: Path) -> None:
    task, items, setting = ours("triviaqa", shared, shots=0)
    told = [
        {
            "question": item.data["question"],
            "answer": {"value": item.data["answer"], "aliases": [*item.data["answers"]]},
        }
        for item in items[:30]
    ]
    harness = HarnessTask("triviaqa/default.yaml", told)
    assert [*task.sampling.stop] == harness.stop
    for at in range(30):
        assert prompt(task, items[at], setting) == harness.prompt(at)
        names = items[at].data["answers"]
        for text in (*ODD, *names[:3], f" {names[-1].upper()}!", f"the {names[0]}", names[0] + " or so"):
            assert task.grade(items[at], [(text,)])["exact_match"] == harness.grades(at, text)["remove_whitespace"]


def test_nq_open_is_asked_and_graded_as_the_harness_does(shared: Path) -> None:
    task, items, setting = ours("nq_open", shared, shots=0)
    harness = HarnessTask("nq_open/nq_open.yaml", rows(shared, "nq_open_dev")[:30])
    assert [*task.sampling.stop] == harness.stop
    for at in range(30):
        assert prompt(task, items[at], setting) == harness.prompt(at)
        names = items[at].data["answers"]
        for text in (*ODD, *names, f" The {names[-1].upper()}!", f"an {names[0]}", names[0] + " or so", "the"):
            assert task.grade(items[at], [(text,)])["exact_match"] == harness.grades(at, text)["remove_whitespace"]


PUZZLED = (
    "", " ", "(A)", "(b)", "The answer is (C).", "Answer: B", "answer:\n  A", "A", "it is B", "Yes", "yes, surely", "NO", "No.",
    "True", "not false", "False and True", "valid", "It is invalid.", "plausible", "not plausible", "It is Not Plausible!",
    "tells the truth", "does not tell the truth", "is not telling the truth", "Noah says yes", "] ]", " ] ) >", "the end is } >",
    "24", "-24", " 24.", "2,400", "--", "five", "twenty-four", "one hundred and four", "two thousand five hundred", "twelve items",
    "nothing", "(Z)", "\\(A\\)", '"Yes"', "答案是(B)", "（A）", "“yes”", "no\n\n",
)  # fmt: skip


def test_puzzles_are_asked_and_graded_as_the_harness_does(shared: Path) -> None:
    task, items, setting = ours("bbh", shared, shots=0)
    groups = {item.group: item for item in items}
    assert len(groups) == 27
    chance = random.Random(0)
    for kind, item in groups.items():
        harness = HarnessTask(f"bbh/zeroshot/{kind}.yaml", [dict(item.data)])
        assert [*task.sampling.stop] == harness.stop
        assert prompt(task, item, setting) == harness.prompt(0)
        lines = [line.partition(") ")[2] or line for line in item.data["input"].splitlines()]
        words = item.data["input"].split()
        own = [
            *lines,
            *(line.upper() + "!" for line in lines),
            " ".join(words),
            " ".join(chance.sample(words, len(words))),
        ]
        for text in (*PUZZLED, *own, item.data["target"], item.data["target"] + "."):
            grade, right = task.grade(item, [(text,)]), harness.grades(0, text)
            assert grade["flexible-extract"] == right["flexible-extract"], (kind, text)
            # white space at the ends is the one difference
            assert grade["strict-match"] == harness.grades(0, text.strip())["strict-match"] >= right["strict-match"]


def test_squad_is_asked_as_the_harness_does(tmp_path: Path) -> None:
    from lm_eval.tasks.squadv2.task import SQuAD2

    row = {
        "id": "1",
        "title": "北京",
        "context": "A {b}\nc.",
        "question": "Who?",
        "answers": {"text": [], "answer_start": []},
    }
    (tmp_path / "dev-v2.0.json").write_text(
        json.dumps({"data": [{"title": row["title"], "paragraphs": [
            {"context": row["context"], "qas": [{"id": "1", "question": row["question"], "answers": []}]}]}]})
    )  # fmt: skip
    task, (item,), setting = ours("squadv2", tmp_path)
    harness = SQuAD2.__new__(SQuAD2)  # its constructor fetches the data
    asked, likely = task.requests(item, setting)
    assert isinstance(asked, Writing) and isinstance(likely, Likelihood)
    reference = harness.construct_requests(row, harness.doc_to_text(row))
    assert (asked.prompt, {"until": [*asked.sampling.stop]}) == reference[0].arguments
    assert (likely.context, *likely.continuations) == reference[1].arguments
