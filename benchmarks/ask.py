"""Measure ``ask`` on the planted set (planted.py): retrieval, the decision to answer, citations.

    python benchmarks/ask.py calibrate OUT              # fit the decision on OUT/calibration; prints the coefficients
    python benchmarks/ask.py decide OUT                 # report and nearmiss, without a language model
    python benchmarks/ask.py answer OUT MODEL N         # N answerable questions of the report half, end to end

How it is judged, and what it does not show:
- *gold among the top 5*: one of five hits is a chunk of the gold file of which more than half of the characters lie in
  the gold passage. (Half, because a short passage may share its chunk with its neighbour's end.)
- *a cited span is right* when it lies wholly in the gold passage. For BoolQ and PubMedQA nobody marked the answer's
  words, so that this says the citation points into the passage that answers, not that its sentence alone does.
- *holds the answer* (CMRC only): the quote contains the gold answer, white space aside.
Intervals are Wilson's, 95%.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import planted

import hornbook
from hornbook.evals.statistics import wilson as bounds
from hornbook.evals.tasks.rag import spans
from hornbook.rag import prompt
from hornbook.rag.ask import retrieve
from hornbook.rag.evidence import gather, widen
from hornbook.rag.language import TermWeights, question_terms
from hornbook.retrieve.index import Index
from hornbook.types import Answer, Document, Hit, SamplingParams


@dataclass(frozen=True)
class Decision:
    """One question through retrieval, evidence and decision, without a language model."""

    id: str
    language: str
    dataset: str
    answerable: bool
    gold_among_hits: bool
    coverage: float
    nearness: float | None
    answers: bool
    quote_in_gold: bool
    quote_holds_answer: bool
    quote: str


def inside(question: planted.Question, document: Document, start: int, end: int, *, share: float = 1.0) -> bool:
    """Whether ``share`` of the span's letters lie in the gold passage of the question."""
    if not question.answerable or Path(document.path).name != question.file:
        return False
    gold = next(iter(spans(document, question.passage)), None)
    if gold is None:
        raise AssertionError(f"{question.id}: its passage is not in {document.path}")
    letters = [place for place in range(start, end) if document.text[place].isalnum()]
    return sum(gold[0] <= place < gold[1] for place in letters) >= share * len(letters) > 0


def holds(question: planted.Question, quote: str) -> bool:
    return bool(question.answer) and "".join(question.answer.split()) in "".join(quote.split())


def decide(index: Index, question: planted.Question, k: int = 5) -> tuple[Decision, list[Hit]]:
    hits = retrieve(index, question.text, k)
    weights = TermWeights(*index.frequencies(question_terms(question.text)))
    found = gather(question.text, hits, weights)
    quote = widen(found.windows[0]) if found.windows else None
    return Decision(
        question.id, question.language, question.dataset, question.answerable,
        any(inside(question, hit.document, hit.chunk.start, hit.chunk.end, share=0.5) for hit in hits),
        found.coverage, found.nearness, found.answers,
        quote is not None and inside(question, quote.hit.document, quote.start, quote.end),
        quote is not None and holds(question, quote.text),
        quote.text if quote else "",
    ), hits  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- figures


def wilson(hits: int, of: int) -> str:
    """``87.5% (80.1 to 92.4; 35 of 40)``."""
    if not of:
        return "none"
    low, high = bounds(hits / of, of)
    return f"{100 * hits / of:.1f}% ({100 * low:.1f} to {100 * high:.1f}; {hits} of {of})"


def rate(flags: Iterable[bool]) -> str:
    values = list(flags)
    return wilson(sum(values), len(values))


def report(decisions: Sequence[Decision]) -> dict[str, str]:
    answerable = [d for d in decisions if d.answerable]
    answered = [d for d in answerable if d.answers]
    rows = {
        "gold among the top 5": rate(d.gold_among_hits for d in answerable),
        "false abstention": rate(not d.answers for d in answerable),
        "abstains on unanswerable": rate(not d.answers for d in decisions if not d.answerable),
        "the quotation lies in the gold passage": rate(d.quote_in_gold for d in answered),
    }
    if any(d.dataset == "cmrc" for d in answered):
        rows["the quotation holds the gold answer"] = rate(
            d.quote_holds_answer for d in answered if d.dataset == "cmrc"
        )
    return rows


# --------------------------------------------------------------------------------------------------------- calibration


def fit(rows: Sequence[tuple[tuple[float, ...], bool]], *, steps: int = 20_000, ridge: float = 1e-3) -> list[float]:
    """Logistic regression by gradient descent, both classes weighing the same: (constant, coefficients...)."""
    import numpy as np

    x = np.array([[1.0, *features] for features, _ in rows])
    y = np.array([label for _, label in rows], float)
    weight = np.where(y == 1, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    beta = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-x @ beta))
        beta -= 2.0 * (x.T @ (weight * (p - y)) / len(y) + ridge * np.array([0, *beta[1:]]))
    return [float(value) for value in beta]


def calibrate(decisions: Sequence[Decision], *, false_abstention: float = 0.08) -> None:
    """Fit, then move the constant to where ``false_abstention`` of the answerable questions fall below zero."""
    for name, latin in (("_BOTH", True), ("_TERMS_ALONE", False)):
        chosen = [d for d in decisions if (d.nearness is not None) == latin]
        rows = [((d.coverage, d.nearness or 0.0) if latin else (d.coverage,), d.answerable) for d in chosen]
        beta = fit(rows)
        odds = sorted(sum(b * f for b, f in zip(beta, (1.0, *features), strict=True)) for features, yes in rows if yes)
        shift = odds[int(false_abstention * len(odds))]
        beta[0] -= shift
        absent = [sum(b * f for b, f in zip(beta, (1.0, *features), strict=True)) for features, yes in rows if not yes]
        caught = rate(value < 0 for value in absent)
        print(f"{name} = ({', '.join(f'{b:.2f}' for b in beta)})  # abstains on unanswerable: {caught}")


# ------------------------------------------------------------------------------------------------------- whole answers


def answers_of(out: Path, model: str, count: int) -> list[dict[str, Any]]:
    """What ``ask`` answers to ``count`` answerable questions, one judged record each.

    The model writes in batches, for speed; what it wrote then goes through ``ask`` sentence by sentence, by a
    ScriptedLLM with the model's own prompts and context, which is what ``ask`` does with a model that streams.
    """
    asked = [question for question in questions_of(out, "report") if question.answerable]
    random.Random(0).shuffle(asked)
    english = [question for question in asked if question.language == "en"][: count - count // 2]
    chosen = english + [question for question in asked if question.language == "zh"][: count // 2]
    llm = hornbook.load(model)
    records: list[dict[str, Any]] = []
    with open_index(out, "report") as index:
        for start in range(0, len(chosen), 16):
            batch = chosen[start : start + 16]
            prompts: dict[str, Any] = {}
            for question in batch:
                weights = TermWeights(*index.frequencies(question_terms(question.text)))
                found = gather(question.text, retrieve(index, question.text, 5), weights)
                if found.answers:
                    prompts[question.id] = prompt.build(question.text, found.windows, llm).prompt
            sampling = SamplingParams(max_tokens=prompt.REPLY_TOKENS, stop=prompt.STOPS, logprobs=False)
            written = dict(zip(prompts, llm.generate(list(prompts.values()), sampling), strict=True)) if prompts else {}
            for question in batch:
                text = written[question.id].text if question.id in written else ""
                answer = hornbook.ask((), question.text, model=hornbook.ScriptedLLM(text or "…"), index=index)
                records.append(_judged(question, answer, text))
                print(json.dumps(records[-1], ensure_ascii=False), flush=True)
    return records


def _judged(question: planted.Question, answer: Answer, written: str) -> dict[str, Any]:
    documents = {hit.document.path: hit.document for hit in answer.hits}
    right = [inside(question, documents[c.path], c.start, c.end) for c in answer.citations]
    return {
        "id": question.id,
        "dataset": question.dataset,
        "question": question.text,
        "written": written,
        "answer": answer.text,
        "abstained": answer.abstained,
        "citations": len(right),
        "right": sum(right),
        "supported": sum(bool(s.citations) and not s.quoted for s in answer.sentences),
        "withheld": len(answer.withheld),
        "quoted": sum(s.quoted for s in answer.sentences),
        "holds": any(holds(question, c.quote) for c in answer.citations),
    }


def summary(records: Sequence[dict[str, Any]]) -> dict[str, str]:
    answered = [r for r in records if not r["abstained"]]
    return {
        "answered with a citation in the gold passage (coverage)": rate(bool(r["right"]) for r in records),
        "citation precision": wilson(sum(r["right"] for r in answered), sum(r["citations"] for r in answered)),
        "false abstention": rate(r["abstained"] for r in records),
        "answers with a sentence of the model's own": rate(r["supported"] > 0 for r in answered),
        "sentences of the model withheld": wilson(
            sum(r["withheld"] for r in answered), sum(r["withheld"] + r["supported"] for r in answered)
        ),
        "CMRC: a cited quote holds the gold answer": rate(r["holds"] for r in answered if r["dataset"] == "cmrc"),
    }


# -------------------------------------------------------------------------------------------------------- command line


def questions_of(out: Path, split: str) -> list[planted.Question]:
    if not (out / split / "questions.jsonl").exists():
        planted.make(out / split, split)
    return [planted.Question(**json.loads(line)) for line in (out / split / "questions.jsonl").open(encoding="utf-8")]


def open_index(out: Path, split: str) -> Index:
    index = Index.open(out / split / "index")
    index.ingest([out / split / "files"])
    return index


def decisions_of(out: Path, split: str) -> list[Decision]:
    questions = questions_of(out, split)
    with open_index(out, split) as index:
        made = [decide(index, question)[0] for question in questions]
    lines = (json.dumps(asdict(decision), ensure_ascii=False) for decision in made)
    (out / split / "decisions.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return made


def main(arguments: Sequence[str]) -> None:
    command, out = arguments[0], Path(arguments[1])
    if command == "calibrate":
        calibrate(decisions_of(out, "calibration"))
    elif command == "decide":
        for split in ("report", "nearmiss"):
            made = decisions_of(out, split)
            for language in ("en", "zh"):
                print(f"\n{split}, {language}")
                for name, value in report([d for d in made if d.language == language]).items():
                    print(f"  {name}: {value}")
    elif command == "answer":
        records = answers_of(out, arguments[2], int(arguments[3]))
        for language, chosen in (("en", ("boolq", "pubmedqa")), ("zh", ("cmrc",))):
            print(f"\n{arguments[2]}, {language}", file=sys.stderr)
            for name, value in summary([r for r in records if r["dataset"] in chosen]).items():
                print(f"  {name}: {value}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
