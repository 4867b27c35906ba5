"""The forms in which the data sets of written tasks are published, and rows that are not as they should be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hornbook.errors import DataError, UsageError
from hornbook.evals.data import Data
from hornbook.evals.registry import tasks
from hornbook.evals.task import Item, Likelihood, Setting, Writing
from hornbook.evals.written import Written
from hornbook.types import Score


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def only(name: str, folder: Path, files: dict[str, str | list[dict[str, Any]]]) -> Written:
    """The task over these files: texts, or rows of a Parquet file."""
    for place, content in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, "utf-8")
        else:
            pq.write_table(pa.Table.from_pylist(content), path)
    (task,) = tasks([name], Data((folder,)))
    assert isinstance(task, Written)
    return task


def prompt(task: Written, item: Item, **setting: Any) -> str:
    asked = task.requests(item, Setting(**{"shots": 0, **setting}))[0]
    assert isinstance(asked, Writing) and isinstance(asked.prompt, str)
    return asked.prompt


MATH = {"question": "1 + 1?", "answer": "It is <<1+1=2>>2.\n#### 2"}
TRIVIA = {"question": "Who?", "question_id": "tc_1", "answer": {"value": "Ann", "aliases": ["Ann", "Anna"]}}
SVAMP = {
    "ID": "chal-1",
    "Body": "Ann has 3 .",
    "Question": "How many?",
    "Equation": "3",
    "Answer": 3.0,
    "Type": "Addition",
}
HUB_SVAMP = [{**SVAMP, "Answer": "3"}]
FLAT = {"id": "q1", "title": "T", "context": "Ann ran.", "question": "Who ran?"}
ANSWERS = {"text": ["Ann", "Ann"], "answer_start": [0, 0]}
NESTED = {"version": "v2.0", "data": [{"title": "T", "paragraphs": [{"context": "Ann ran.", "qas": [
    {"id": "q1", "question": "Who ran?", "is_impossible": False, "answers": [{"text": "Ann", "answer_start": 0}] * 2},
    {"id": "q2", "question": "Who slept?", "is_impossible": True, "answers": [], "plausible_answers": [{"text": "Ann"}]},
]}]}]}  # fmt: skip
ZH = {"context": "安跑了。", "question": "谁跑了？", "answers": [{"text": "安", "answer_start": 0}]}
OWN_ZH = [{"context_id": "D1", "context_text": "安跑了。", "title": "跑", "qas": [
    {"query_id": "D1_Q0", "query_text": "谁跑了？", "answers": ["安", "安"]}]}]  # fmt: skip
HUB_TABLE = {"id": "nt-1", "question": "who won?", "answers": ["Ann", "Bo"],
             "table": {"header": ["Year", "Winner"], "rows": [["2001", "Ann\nand Bo"]], "name": "csv/1-csv/2.csv"}}  # fmt: skip
TSV = "id\tutterance\tcontext\ttargetValue\nnu-1\twho won?\tcsv/1-csv/2.csv\tAnn|B\\p\\\\o\nnu-2\thow many?\tcsv/1-csv/2.csv\t1,000\n"
CSV = '"Year","Winner"\n"2001","Ann, \\"A\\"\nand Bo"\n'
TAGGED = "id\tutterance\ttargetCanon\ttargetCanonType\nnu-2\thow many?\t1000.0\tnumber\nnu-1\twho won?\tAnn|B\\p\\\\o\tstring\n"

PUBLISHED: list[tuple[str, dict[str, Any], str, str, str]] = [  # task, files, id of the first item, end of its prompt, target
    ("gsm8k", {"openai/gsm8k/main/test-00000-of-00001.parquet": [MATH]}, "test-00000-of-00001-0", "Question: 1 + 1?\nAnswer:",
     MATH["answer"]),
    ("gsm8k", {"grade_school_math/data/test.jsonl": lines(MATH)}, "test-0", "Question: 1 + 1?\nAnswer:", MATH["answer"]),
    ("gsm8k_cot", {"gsm8k_test.jsonl": lines(MATH)}, "gsm8k_test-0", "Q: 1 + 1?\nA:", "2"),
    ("svamp", {"SVAMP.json": json.dumps([SVAMP], indent=1)}, "chal-1", "Q: Ann has 3 . How many?\nA:", "3.0"),
    ("svamp", {"ChilleD/SVAMP/data/test-00000-of-00001-a.parquet": HUB_SVAMP}, "chal-1", "Q: Ann has 3 . How many?\nA:", "3"),
    ("triviaqa", {"trivia_qa/rc.nocontext/validation-00000-of-00001.parquet": [TRIVIA]}, "tc_1", "Question: Who??\nAnswer:",
     "Ann"),
    ("nq_open", {"NQ-open.dev.jsonl": lines({"question": "who", "answer": ["Ann"]})}, "NQ-open-0",
     "Answer these questions:\n\nQ: who?\nA:", "Ann"),
    ("squadv2", {"dev-v2.0.json": json.dumps(NESTED)}, "q1",
     "Title: T\n\nBackground: Ann ran.\n\nQuestion: Who ran?\n\nAnswer:", "Ann"),
    ("squadv2", {"rajpurkar/squad_v2/squad_v2/validation-00000-of-00001.parquet": [{**FLAT, "answers": ANSWERS}]}, "q1",
     "Title: T\n\nBackground: Ann ran.\n\nQuestion: Who ran?\n\nAnswer:", "Ann"),
    ("cmrc", {"cmrc2018_trial_qa_zh.jsonl": lines({**ZH, "id": "Z"})}, "Z", "文章：安跑了。\n\n问题：谁跑了？\n\n答案：", "安"),
    ("cmrc", {"cmrc2018_dev.json": json.dumps(OWN_ZH)}, "D1_Q0", "文章：安跑了。\n\n问题：谁跑了？\n\n答案：", "安"),
    ("bbh", {"bbh/navigate.json": json.dumps({"canary": "x", "examples": [{"input": "Back?", "target": "No"}]})}, "navigate-0",
     "the starting point.\n\nQ: Back?\nA:", "No"),
    ("bbh", {"SaylorTwift/bbh/snarks/test-00000-of-00001.parquet": [{"input": "Which?", "target": "(B)"}]}, "snarks-0",
     "witty remarks.\n\nQ: Which?\nA:", "(B)"),
    ("wikitablequestions", {"random-split-1/test-00000-of-00001.parquet": [HUB_TABLE]}, "nt-1",
     "\n\nTable:\nYear | Winner\n2001 | Ann and Bo\n\nQuestion: who won?\nAnswer:", "Ann | Bo"),
    ("wikitablequestions", {"W/data/pristine-unseen-tables.tsv": TSV, "W/csv/1-csv/2.csv": CSV}, "nu-1",
     '\n\nTable:\nYear | Winner\n2001 | Ann, "A" and Bo\n\nQuestion: who won?\nAnswer:', "Ann | B|\\o"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "files", "id", "end", "target"), PUBLISHED)
def test_published_forms(tmp_path: Path, name: str, files: dict[str, Any], id: str, end: str, target: str) -> None:
    task = only(name, tmp_path, files)
    item = task.items()[0]
    assert (item.id, task.target(item)) == (id, target)
    assert prompt(task, item).endswith(end)
    if "|\\" not in target:  # a value that holds | itself cannot be written in an answer
        assert 1.0 in task.grade(item, [(f" {target}\n",)]).values()


def test_what_the_tagged_files_say_of_an_answer_is_believed(tmp_path: Path) -> None:
    files: dict[str, Any] = {"W/data/pristine-unseen-tables.tsv": TSV, "W/csv/1-csv/2.csv": CSV}
    assert only("wikitablequestions", tmp_path, files).items()[1].data["canon"] == ("1000",)  # told from the text
    files["W/tagged/data/pristine-unseen-tables.tagged"] = TAGGED
    task = only("wikitablequestions", tmp_path, files)
    assert [item.data["canon"] for item in task.items()] == [("Ann", "B|\\o"), ("1000.0",)]
    assert task.reward(task.items()[1], "1000") == task.reward(task.items()[1], " 1,000\nTable:") == 1.0


def test_silence_is_a_right_answer_and_so_is_saying_so(tmp_path: Path) -> None:
    task = only("squadv2", tmp_path, {"dev-v2.0.json": json.dumps(NESTED)})
    has, none = task.items()
    assert task.target(none) == "unanswerable"
    writing, likely = task.requests(none, Setting())
    assert isinstance(writing, Writing) and writing.sampling.stop == ("\n",)
    assert likely == Likelihood(writing.prompt, (" unanswerable",))
    (_, in_chat) = task.requests(none, Setting(chat=True))
    assert isinstance(in_chat, Likelihood) and in_chat.continuations == ("unanswerable",)
    assert prompt(task, none, shots=1).startswith(
        "Title: T\n\nBackground: Ann ran.\n\nQuestion: Who ran?\n\nAnswer: Ann\n\nTitle"
    )
    sure = (Score(math.log(0.25), False, 2),)
    for text in ("", "  ", " unanswerable", "Unanswerable."):
        grade = task.grade(none, [(text,), sure])
        assert grade["exact"] == grade["NoAns_f1"] == 1.0 and grade["answered"] == 0.0
        assert grade["silence"] == pytest.approx(0.25)
        assert task.grade(has, [(text,), sure])["f1"] == 0.0
    assert task.reward(has, "Ann") == 1.0 and task.reward(none, "Ann") == 0.0  # without a likelihood too


def test_solved_puzzles_are_of_the_same_kind_and_are_never_the_one_that_is_asked(tmp_path: Path) -> None:
    rows = [
        {"task": kind, "input": f"{kind} {i}?", "target": str(i)} for kind in ("navigate", "snarks") for i in range(4)
    ]
    task = only("bbh", tmp_path, {"bbh.jsonl": lines(*rows)})
    for item in task.items():
        text = prompt(task, item, shots=3)
        assert text.count(item.group + " ") == 4 and text.count(item.data["input"]) == 1
    one = only("bbh:snarks", tmp_path, {})
    assert one.name == "bbh:snarks" and {item.group for item in one.items()} == {"snarks"}
    with pytest.raises(UsageError, match="no puzzles 'snark'"):
        only("bbh:snark", tmp_path, {})


@pytest.mark.parametrize(
    ("name", "files", "said"),
    [
        ("gsm8k", {"gsm8k_test.jsonl": lines(MATH, {"question": "?"})}, "gsm8k_test.jsonl, line 2: the field answer is absent"),
        ("gsm8k", {"gsm8k_test.jsonl": lines(MATH) + "{"}, "line 2: it is not JSON"),
        ("gsm8k", {"gsm8k_test.jsonl": ""}, "no questions in"),
        ("gsm8k", {}, "the questions of gsm8k are not here"),
        ("svamp", {"svamp.jsonl": lines({"context": "?", "answer": "three"})}, "'three' is no number"),
        ("triviaqa", {"triviaqa_sub.jsonl": lines({"context": "Who?", "answer": "Ann", "aliases": []})}, "is not 'Question: '"),
        ("nq_open", {"NQ-open.dev.jsonl": lines({"question": "who", "answer": []})}, r"the answers are no texts but \[\]"),
        ("nq_open", {"NQ-open.dev.jsonl": lines({"question": "who", "answer": [1]})}, r"the answers are no texts but \[1\]"),
        ("squadv2", {"dev-v2.0.json": json.dumps({"data": [{"title": "T"}]})}, "paragraphs is no list"),
        ("squadv2", {"dev-v2.0.json": json.dumps({"data": [{"paragraphs": [{"qas": [FLAT]}]}]})}, "the field answers is absent"),
        ("cmrc", {"cmrc2018_trial_qa_zh.jsonl": lines({**ZH, "id": "Z", "answers": []})}, "the question Z has no answer"),
        ("cmrc", {"cmrc2018_trial_qa_zh.jsonl": lines({**ZH, "answers": [{"text": 5}]})}, r"the answers \[5\], which are no"),
        ("bbh", {"bbh.jsonl": lines({"task": "chess", "input": "?", "target": "!"})}, "there are no puzzles 'chess'"),
        ("wikitablequestions", {"W/data/pristine-unseen-tables.tsv": TSV}, "csv/1-csv/2.csv is not there"),
        ("wikitablequestions", {"W/data/pristine-unseen-tables.tsv": TSV.replace("csv/1-csv/2.csv", "../x.csv"), "x.csv": CSV},
         "its table ../x.csv is not there"),
        ("wikitablequestions", {"W/data/pristine-unseen-tables.tsv": TSV, "W/csv/1-csv/2.csv": '"Year'},
         "2.csv: the table cannot be read: unexpected end"),
        ("wikitablequestions", {"W/data/pristine-unseen-tables.tsv": "id\tutterance\nx\n"}, "has 1 columns, not 2"),
    ],
)  # fmt: skip
def test_rows_that_are_not_as_they_should_be_are_named(
    tmp_path: Path, name: str, files: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        only(name, tmp_path, files).items()


def test_the_shared_samples_are_read_whole(shared: Path) -> None:
    counts = {
        "gsm8k": 659,
        "svamp": 150,
        "triviaqa": 400,
        "nq_open": 1000,
        "cmrc": 1002,
        "bbh": 1620,
        "wikitablequestions": 400,
    }
    for name, count in counts.items():
        (task,) = tasks([name], Data((shared,)))
        assert len(task.items()) == count
        for item in task.items()[:: count // 20]:
            assert 1.0 in task.grade(item, [(task.target(item),)]).values(), (name, item.id)
            assert not any(task.grade(item, [("",)]).values())
