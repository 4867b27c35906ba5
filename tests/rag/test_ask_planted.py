"""The planted set through retrieval, evidence and decision, and a dozen of its questions through the default model.

The bars are issue 2's; docs/results/ask.md has the figures. Questions, folders and judgement are those of benchmarks/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hornbook
from hornbook.retrieve.index import Index
from hornbook.retrieve.parse import parse

pytestmark = pytest.mark.models


@pytest.fixture(scope="session")
def planted(
    benchmarks: Any, shared: Path, minilm_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Index, list[Any]]]:
    """The report half: its questions, and an index of its folder made by the default encoder."""
    out = tmp_path_factory.mktemp("planted")
    questions = benchmarks.planted.make(out, "report", shared)
    with Index.open(out / "index", embedder=str(minilm_path)) as index:
        report = index.ingest([out / "files"])
        assert not report.failed
        yield index, questions


@pytest.fixture(scope="session")
def decisions(benchmarks: Any, planted: tuple[Index, list[Any]]) -> list[Any]:
    index, questions = planted
    return [benchmarks.decide(index, question)[0] for question in questions]


def share(flags: Iterator[bool] | list[bool]) -> float:
    values = list(flags)
    assert len(values) >= 90, "too few questions to say anything"
    return sum(values) / len(values)


def test_the_set_is_as_large_as_it_must_be_and_its_halves_share_nothing(
    benchmarks: Any, shared: Path, tmp_path: Path
) -> None:
    made = benchmarks.planted
    report = made.make(tmp_path / "report", "report", shared)
    calibration = made.make(tmp_path / "calibration", "calibration", shared)
    assert sum(q.answerable for q in report) >= 200 and sum(not q.answerable for q in report) >= 100
    assert not {q.passage for q in report if q.passage} & {q.passage for q in calibration if q.passage}
    text = "\n".join(parse(file).text for file in sorted((tmp_path / "report" / "files").iterdir()))
    letters = "".join(filter(str.isalnum, text))
    for question in report:
        if question.answerable:
            assert "".join(filter(str.isalnum, question.passage)) in letters, question.id


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_gold_passage_is_among_the_top_five(decisions: list[Any], language: str) -> None:
    assert share([d.gold_among_hits for d in decisions if d.language == language and d.answerable]) >= 0.98


@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_abstains_where_the_documents_do_not_answer_and_seldom_where_they_do(
    decisions: list[Any], language: str
) -> None:
    mine = [d for d in decisions if d.language == language]
    assert share([not d.answers for d in mine if not d.answerable]) >= 0.80
    assert share([not d.answers for d in mine if d.answerable]) <= 0.20


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_quotation_lies_in_the_passage_that_answers(decisions: list[Any], language: str) -> None:
    answered = [d for d in decisions if d.language == language and d.answerable and d.answers]
    assert share([d.quote_in_gold for d in answered]) >= 0.90


def test_a_chinese_quotation_holds_the_gold_answer(decisions: list[Any]) -> None:
    assert (
        share([d.quote_holds_answer for d in decisions if d.dataset == "cmrc" and d.answerable and d.answers]) >= 0.70
    )


def test_the_default_model_answers_with_citations_that_hold(
    benchmarks: Any, planted: tuple[Index, list[Any]], smollm2_path: Path
) -> None:
    """Twelve real questions through the real model, streamed: spans exact, the text's numbers resolve, and mostly right."""
    index, questions = planted
    asked = [q for q in questions if q.answerable and q.language == "en"][::25][:7]
    asked += [q for q in questions if q.answerable and q.language == "zh"][::90][:3]
    absent = [q for q in questions if not q.answerable][::150][:2]
    llm = hornbook.load(str(smollm2_path))
    right: list[bool] = []
    for question in [*asked, *absent]:
        pieces: list[str] = []
        answer = hornbook.ask((), question.text, model=llm, index=index, stream=pieces.append)
        assert "".join(pieces) == answer.text
        assert answer.abstained == (not answer.citations)
        for citation in answer.citations:
            assert parse(citation.path).text[citation.start : citation.end] == citation.quote
            assert f"[{citation.n}]" in answer.text
            document = next(hit.document for hit in answer.hits if hit.document.path == citation.path)
            right.append(benchmarks.inside(question, document, citation.start, citation.end))
        assert all(s.citations for s in answer.sentences)
    assert len(right) >= 7
    assert sum(right) >= 0.8 * len(right)
