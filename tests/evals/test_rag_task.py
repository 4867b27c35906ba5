"""Answers about documents: what was found, cited, said and rightly declined; and what is wrong with a question's row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hornbook.engine.scripted import ScriptedLLM
from hornbook.errors import DataError, UsageError
from hornbook.evals.data import Data
from hornbook.evals.registry import tasks
from hornbook.evals.run import run
from hornbook.evals.task import Item, Setting
from hornbook.evals.tasks.rag import Rag, spans
from hornbook.types import Document
from word_embedder import WordEmbedder

KIWI = "The kiwi is a flightless bird of New Zealand. It lays one large egg. It eats worms at night."
PANDA = "大熊猫主要以竹子为食，每天进食约十二小时。大熊猫生活在中国四川省的山区。"
ROWS: list[dict[str, Any]] = [
    {"id": "egg", "question": "How many eggs does the kiwi bird lay?", "answer": "one", "file": "birds/kiwi.txt", "quote": "It lays one  large egg"},
    {"id": "panda", "question": "大熊猫主要以什么为食？", "answer": ["竹子"], "file": ["panda.md", "birds/kiwi.txt"][:1], "language": "zh"},
    {"id": "peru", "question": "What is the capital of Peru?", "answerable": False},
]  # fmt: skip


@pytest.fixture(autouse=True)
def words(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[None]:
    """The index's embedder is one without a model."""
    monkeypatch.setattr("hornbook.llm.load", lambda source, **more: WordEmbedder())
    yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    documents = tmp_path / "zoo" / "documents"
    (documents / "birds").mkdir(parents=True)
    (documents / "birds" / "kiwi.txt").write_text(KIWI, "utf-8")
    (documents / "panda.md").write_text(f"# 动物\n\n{PANDA}\n", "utf-8")
    return written(tmp_path / "zoo", *ROWS)


def written(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


def made(name: str) -> Rag:
    (task,) = tasks([name], Data(()))
    assert isinstance(task, Rag)
    return task


def test_questions_are_asked_and_judged(folder: Path) -> None:
    task = made(f"rag:{folder}")
    model = ScriptedLLM(lambda prompt: "It lays one large egg." if "egg" in prompt else "大熊猫主要以竹子为食。")
    result = run(model, [task]).results[0]
    found = {figure.name: figure.value for figure in result.figures}
    assert 0 < (found.pop("f1") or 0) < 1
    assert found == {
        "contains": 1, "exact": 0, "retrieval_recall": 1, "citation_recall": 1, "citation_precision": 1, "decided": 1,
        "declined": 1, "answered": 1,
    }  # fmt: skip
    assert [sample.target for sample in result.samples] == [
        "one (birds/kiwi.txt)",
        "竹子 (panda.md)",
        "(the documents do not say)",
    ]
    assert result.samples[2].asked[0].answers[0]["abstained"]


def judged(data: dict[str, Any], **answer: Any) -> dict[str, float]:
    item = Item("i", {"answers": [], "evidence": [], "answerable": True, **data})
    said = {"text": "", "abstained": False, "citations": [], "hits": [], "places": [], **answer}
    grade = Rag("rag:x", Path("q"), Path("d")).judge(item, said)
    return {name: value for name, value in grade.items() if not math.isnan(value)}


PLACE = [{"file": "a.txt", "spans": [(100, 140)]}]
TWICE = [{"file": "a.txt", "spans": [(100, 140), (500, 540)]}, {"file": "b.txt", "spans": [(0, 40)]}]


@pytest.mark.parametrize(
    ("cited", "right"),
    [
        ([["a.txt", 90, 200, ""]], 1),  # around it
        ([["a.txt", 110, 120, ""]], 1),  # inside it
        ([["a.txt", 0, 115, ""]], 0),  # less than half of the quote
        ([["a.txt", 200, 240, ""]], 0),
        ([["b.txt", 100, 140, ""]], 0),
        ([["a.txt", 100, 140, ""], ["a.txt", 300, 340, ""]], 1),
    ],
)
def test_a_citation_is_right_where_it_points_to_the_quote(cited: list[Any], right: int) -> None:
    grade = judged({"evidence": [PLACE]}, citations=cited, places=[PLACE])
    assert (grade["citations"], grade["citations_right"]) == (len(cited), right)
    assert grade["citation_recall"] == min(right, 1)


def test_any_place_that_says_it_will_do_and_several_are_all_wanted() -> None:
    cited = [["b.txt", 0, 50, ""]]
    assert judged({}, citations=cited, places=[TWICE])["citation_recall"] == 1
    both = judged({}, citations=cited, hits=[["a.txt", 490, 600]], places=[TWICE, PLACE])
    assert (both["citation_recall"], both["retrieval_recall"]) == (0.5, 0.5)
    assert judged({}, hits=[["a.txt", 0, 121]], places=[PLACE])["retrieval_recall"] == 1
    assert judged({}, hits=[["a.txt", 0, 120]], places=[PLACE])["retrieval_recall"] == 0


def test_abstention_is_right_or_wrong() -> None:
    assert judged({"answerable": False}, abstained=True) == {
        "decided": 1, "declined": 1, "citations": 0, "citations_right": 0,
    }  # fmt: skip
    wrong = judged({"answerable": False}, citations=[["a.txt", 0, 9, ""]])
    assert (wrong["decided"], wrong["declined"], wrong["citations"], wrong["citations_right"]) == (0, 0, 1, 0)
    silent = judged({"answers": ["one"]}, abstained=True, text="one cannot say")
    assert (silent["contains"], silent["answered"], silent["decided"]) == (0, 0, 0)


def test_a_quote_is_found_whatever_became_of_spaces_and_punctuation() -> None:
    document = Document("d", "d.txt", "A b—c.\n\nd “E” a b c d")
    assert [document.text[a:b] for a, b in spans(document, "a, b c d")] == ["a b c d"]
    assert [document.text[a:b] for a, b in spans(document, "b c d")] == ["b—c.\n\nd", "b c d"]
    assert spans(document, "...") == spans(document, "nowhere") == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": " "}, "line 2: the question is empty"),
        ({"question": "q"}, "line 2 has neither an answer nor a file"),
        ({"question": "q", "answer": "a", "answerable": False}, "line 2 is not answerable, and has an answer"),
        ({"question": "q", "answerable": "maybe"}, "line 2: answerable holds 'maybe'"),
        ({"question": "q", "answer": "a", "file": "gone.txt"}, "line 2: there is no document gone.txt"),
        ({"question": "q", "answer": "a", "quote": "x"}, "line 2 has a quote and no file"),
        ({"question": "q", "answer": "a", "file": 3}, "line 2: the file is 3"),
    ],
)
def test_a_malformed_question_is_named_by_file_and_line(folder: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        made(f"rag:{written(folder, ROWS[0], row)}").items()


def test_a_quote_that_no_document_has_is_refused_before_anything_is_asked(folder: Path) -> None:
    wrong = {**ROWS[0], "id": "wrong", "quote": "It lays two large eggs"}
    task, model = made(f"rag:{written(folder, ROWS[0], wrong)}"), ScriptedLLM([])
    with pytest.raises(DataError, match=r"line 2: birds/kiwi.txt does not say 'It lays two large eggs'"):
        task.answer(task.items()[0], model, Setting())
    assert not model.asked


def test_questions_and_documents_are_told_apart(folder: Path, tmp_path: Path) -> None:
    documents = folder / "documents"
    assert made(f"rag:{folder}/questions.jsonl@{documents}").version == made(f"rag:{folder}").version
    inside = documents / "q.jsonl"
    inside.write_text((folder / "questions.jsonl").read_text())
    with pytest.raises(UsageError, match="lies among the documents"):
        made(f"rag:{inside}@{documents}")
    for name, said in (
        ("rag", "none were named"),
        ("rag:nowhere", "nowhere is not there"),
        (f"rag:{documents}", "has no questions.jsonl"),
        (f"rag:{folder}/questions.jsonl", "is no folder"),
    ):
        with pytest.raises((UsageError, DataError), match=said):
            made(name)


def test_an_embedder_is_refused_by_name(folder: Path) -> None:
    task = made(f"rag:{folder}")
    with pytest.raises(UsageError, match="asks a model that writes, and words is none"):
        task.answer(task.items()[0], WordEmbedder(), Setting())


def test_the_questions_about_the_real_documents_have_their_quotes(shared: Path) -> None:
    """Every quote stands in its document, as it is parsed, and words alone find most of them."""
    task = made(f"rag:{Path(__file__).parent / 'questions' / 'documents.jsonl'}@{shared / 'docs'}")
    result = run(ScriptedLLM(lambda prompt: "…"), [task]).results[0]
    assert result.items == 17
    found = {figure.name: figure.value for figure in result.figures}
    assert found["retrieval_recall"] is not None and found["retrieval_recall"] > 0.7
