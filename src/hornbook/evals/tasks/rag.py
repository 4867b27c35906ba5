"""Questions about a folder of documents, answered as ``hornbook ask`` answers them: found, cited, right, or rightly declined.

    rag:questions.jsonl@papers      the questions of a file, about the documents in papers/
    rag:FOLDER                      questions.jsonl (or .json, .csv, ...) in it, about documents/ in it

A question's row:

    {"question": "...", "answer": "..." or ["...", ...], "file": "a.pdf", "quote": "words of a.pdf that hold the answer"}
    {"question": "...", "evidence": [{"file": "a.pdf", "quote": "..."}, {"file": "b.md"}]}        several places, all wanted
    {"question": "...", "answerable": false}

``file`` counts from the documents' folder; without a ``quote`` any place in it will do, and of a list of files any one that
has the quote. Questions that hang together, such as those about one report, may name it in ``cluster``. Measured are, over the
questions that have an answer unless another is said:

    contains, f1, exact    of the answer's text, against the right answers (metrics/short.py)
    retrieval_recall       the share of the places that a retrieved passage holds (more than half of the quote's letters)
    citation_recall        the share of the places that a citation points to
    citation_precision     of all citations of all questions, those that point to such a place: they overlap with at least
                           half of the quote, or of themselves; a citation for a question without an answer is wrong
    decided                over all questions: declined where there is no answer, answered where there is one
    declined, answered     the two parts of it: over the questions without an answer, and over those with one

(Citation recall and precision after Gao and others, "Enabling Large Language Models to Generate Text with Citations", arXiv
2305.14627, with marked places in the stead of a model's opinion.)
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hornbook.data.compression import inner_suffix
from hornbook.data.records import FORMATS, TEXT_SUFFIXES
from hornbook.errors import DataError, UsageError
from hornbook.evals.data import Data, Row, field
from hornbook.evals.metric import Column, Columns, Metric
from hornbook.evals.metrics import short
from hornbook.evals.own_rows import cluster, texts
from hornbook.evals.registry import Kind, Kinds
from hornbook.evals.task import Grade, Item, Means, Setting, Trial
from hornbook.evals.written import read_items
from hornbook.rag.ask import ask
from hornbook.retrieve.index import Index
from hornbook.retrieve.ingest import document_id
from hornbook.retrieve.location import index_folder
from hornbook.settings import Settings
from hornbook.types import LLM, Document, Progress

_TABLES = tuple(suffix for suffix in FORMATS if suffix not in TEXT_SUFFIXES)
_MOST = 0.5  # of the letters of a quote
_K = 5  # passages retrieved, as ``ask`` does

Span = tuple[int, int]


def spans(document: Document, quote: str) -> list[Span]:
    """Where a quote stands in a document, whatever the format did to spaces, line ends and markup: letters and digits alone
    are compared."""
    kept = [(place, char) for place, char in enumerate(document.text) if char.isalnum()]
    letters, wanted = "".join(char for _, char in kept), "".join(char for char in quote if char.isalnum())
    found, at = [], letters.find(wanted) if wanted else -1
    while at >= 0:
        found.append((kept[at][0], kept[at + len(wanted) - 1][0] + 1))
        at = letters.find(wanted, at + 1)
    return found


def shared(one: Span, other: Span) -> int:
    return max(0, min(one[1], other[1]) - max(one[0], other[0]))


class Rag(Trial):
    """See the module."""

    metrics = (
        Metric("contains"), Metric("f1"), Metric("exact"), Metric("retrieval_recall"), Metric("citation_recall"),
        Metric("citation_precision", total=lambda columns: _precision(columns)), Metric("decided"), Metric("declined"),
        Metric("answered"),
    )  # fmt: skip

    def __init__(self, name: str, questions: Path, documents: Path) -> None:
        self.name = name
        self._questions, self._documents = questions, documents
        self._index: Index | None = None
        self._rows: dict[str, str] = {}  # of each item: file and line
        self._gold: dict[str, list[list[dict[str, Any]]]] = {}  # of each item: where its quotes stand
        self._lock = threading.Lock()
        self._settings: Settings | None = None

    @cached_property
    def version(self) -> str:  # type: ignore[override]
        """Of other documents or questions the scores do not compare."""
        said = hashlib.sha256(self._questions.read_bytes())
        for path in self._files():
            said.update(str(path.relative_to(self._documents)).encode("utf-8", "surrogateescape"))
            said.update(path.read_bytes())
        return f"1-{said.hexdigest()[:12]}"

    def equip(self, means: Means) -> None:
        self._settings = means.settings

    def items(self) -> Sequence[Item]:
        return read_items([self._questions], self._item)

    def prepare(self, model: Any, tell: Progress) -> None:
        if isinstance(model, LLM):
            self._opened(tell)

    def answer(self, item: Item, model: Any, setting: Setting) -> Mapping[str, Any]:
        if not isinstance(model, LLM):
            raise UsageError(
                f"{self.name} asks a model that writes, and {getattr(model, 'name', model)} is none",
                "Take a language model; embedding models are measured by retrieval:FOLDER.",
            )
        index = self._opened()
        found = ask((), item.data["question"], model=model, index=index, k=_K)
        return {
            "text": found.text,
            "abstained": found.abstained,
            "citations": [[self._name(c.path), c.start, c.end, c.quote] for c in found.citations],
            "hits": [[self._name(hit.document.path), hit.chunk.start, hit.chunk.end] for hit in found.hits],
            "places": self._gold[item.id],
        }

    def judge(self, item: Item, answer: Mapping[str, Any]) -> Grade:
        golds, evidence = item.data["answers"], answer["places"]
        answerable, declined = bool(item.data["answerable"]), bool(answer["abstained"])
        text = "" if declined else answer["text"]
        cited = [(file, (start, end)) for file, start, end, _ in answer["citations"]]
        hits = [(file, (start, end)) for file, start, end in answer["hits"]]
        known = answerable and bool(golds)
        placed = answerable and bool(evidence)
        right = sum(any(_cites(span, file, one) for one in evidence) for file, span in cited)
        return {
            "contains": short.contains(text, golds) if known else math.nan,
            "f1": short.f1(text, golds) if known else math.nan,
            "exact": short.exact(text, golds) if known else math.nan,
            "retrieval_recall": _share(any(_holds(s, f, one) for f, s in hits) for one in evidence)
            if placed
            else math.nan,
            "citation_recall": _share(any(_cites(s, f, one) for f, s in cited) for one in evidence)
            if placed
            else math.nan,
            "decided": float(declined != answerable),
            "declined": math.nan if answerable else float(declined),
            "answered": float(not declined) if answerable else math.nan,
            # where it is not known where the answer stands, no citation can be called wrong
            "citations": float(len(cited)) if placed or not answerable else 0.0,
            "citations_right": float(right),
        }

    def target(self, item: Item) -> str:
        if not item.data["answerable"]:
            return "(the documents do not say)"
        where = ", ".join(" or ".join(one["files"]) for one in item.data["evidence"])
        return " / ".join(item.data["answers"]) + (f" ({where})" if where else "")

    # ------------------------------------------------------------------------------------------------------ questions

    def _item(self, row: Row, id: str) -> Item:
        question = str(field(row, "question", str))
        if not question.strip():
            raise DataError(f"{row.place}: the question is empty", "Ask something, or leave the row out.")
        answerable = row.value.get("answerable", True)
        if isinstance(answerable, str) and answerable.lower() in ("true", "false"):  # in a table
            answerable = answerable.lower() == "true"
        if not isinstance(answerable, bool):
            raise DataError(f"{row.place}: answerable holds {answerable!r}", "Write true or false.")
        golds = [
            text for name in ("answer", "answers") if row.value.get(name) for text in texts(row, name, row.value[name])
        ]
        evidence = [self._evidence(row, one) for one in self._said(row)]
        if answerable and not golds and not evidence:
            raise DataError(
                f"{row.place} has neither an answer nor a file",
                "Say what is right or where it stands; or answerable: false.",
            )
        if not answerable and (golds or evidence):
            raise DataError(f"{row.place} is not answerable, and has an answer", "Leave one of the two out.")
        said = row.value.get("id")
        id = str(said) if said not in (None, "") else id
        self._rows[id] = row.place
        data = {"question": question, "answers": golds, "evidence": evidence, "answerable": answerable}
        return Item(id, data, str(row.value.get("language") or ""), cluster(row))

    def _said(self, row: Row) -> list[Mapping[str, Any]]:
        """The places that a row names."""
        if row.value.get("evidence"):
            several = field(row, "evidence", list)
            if not all(isinstance(one, Mapping) for one in several):
                raise DataError(f"{row.place}: evidence holds {several!r:.60}", 'Write [{"file": ..., "quote": ...}].')
            return list(several)
        if not row.value.get("file"):
            if row.value.get("quote"):
                raise DataError(f"{row.place} has a quote and no file", "Say of which file it is.")
            return []
        return [row.value]

    def _evidence(self, row: Row, said: Mapping[str, Any]) -> dict[str, Any]:
        file, quote = said.get("file"), said.get("quote") or ""
        given = file if isinstance(file, list) else [file]
        files = [one for one in given if isinstance(one, str)]
        if not files or len(files) < len(given) or not isinstance(quote, str):
            raise DataError(f"{row.place}: the file is {file!r:.40} and the quote {quote!r:.40}", "Write two texts.")
        for one in files:
            if not (self._documents / one).is_file():
                raise DataError(
                    f"{row.place}: there is no document {one} in {self._documents}", "Paths count from there."
                )
        return {"files": [Path(one).as_posix() for one in files], "quote": quote}

    # ------------------------------------------------------------------------------------------------------ documents

    def _files(self) -> Iterator[Path]:
        for path in sorted(self._documents.rglob("*")):
            if path.is_file() and path != self._questions:
                yield path

    def _name(self, path: str) -> str:
        return Path(os.path.relpath(path, self._documents.resolve())).as_posix()

    def _opened(self, tell: Progress | None = None) -> Index:
        """The documents' index, the one that ``hornbook ask`` has of them, brought to their state."""
        with self._lock:
            if self._index is None:
                settings = self._settings or Settings.load()
                index = Index.open(index_folder([self._documents], settings), settings=settings)
                report = index.ingest([self._documents], progress=tell)
                if not report.chunks:
                    raise DataError(f"there is nothing in {self._documents} that can be read", "Put documents there.")
                for item in self.items():
                    self._gold[item.id] = [self._place(index, item, one) for one in item.data["evidence"]]
                self._index = index
            return self._index

    def _place(self, index: Index, item: Item, evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Where a quote stands in each of its files. Raises DataError, naming the row, where a document does not have it."""
        found = []
        for file in evidence["files"]:
            document = index.document(document_id(str((self._documents / file).resolve())))
            if document is None:
                raise DataError(
                    f"{self._rows[item.id]}: the document {file} could not be read",
                    "docs/documents.md lists the formats.",
                )
            where = spans(document[0], evidence["quote"]) if evidence["quote"] else []
            if evidence["quote"] and not where:
                raise DataError(
                    f"{self._rows[item.id]}: {file} does not say {evidence['quote']!r:.80}",
                    "Quote it word by word; spaces and punctuation may differ.",
                )
            found.append({"file": file, "spans": where})
        return found


def _holds(hit: Span, file: str, place: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a passage holds the place, in one of its files."""
    return any(
        one["file"] == file
        and (not one["spans"] or any(shared(hit, (a, b)) > _MOST * (b - a) for a, b in one["spans"]))
        for one in place
    )


def _cites(cited: Span, file: str, place: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a citation points to the place, in one of its files."""
    own = cited[1] - cited[0]
    return any(
        one["file"] == file
        and (not one["spans"] or any(0 < shared(cited, (a, b)) >= _MOST * min(own, b - a) for a, b in one["spans"]))
        for one in place
    )


def _share(flags: Iterator[bool]) -> float:
    several = list(flags)
    return sum(several) / len(several)


def _precision(columns: Columns) -> Column:
    """Of all citations the right ones; NaN where there was none."""
    above, below = columns["citations_right"].sum(-1), columns["citations"].sum(-1)
    return np.asarray(np.divide(above, below, out=np.full_like(below, np.nan), where=below > 0))


# ----------------------------------------------------------------------------------------------------------- by name


def _make(data: Data, rest: str) -> list[Rag]:
    questions, at, folder = rest.rpartition("@")
    if at and questions:
        file, documents = _there(questions), _there(folder)
    elif rest:
        documents = _there(rest)
        if not documents.is_dir():
            raise UsageError(f"{rest} is no folder", f"Say where its documents are: rag:{rest}@FOLDER.")
        file = _questions_in(documents)
        documents = documents / "documents"
    else:
        raise UsageError("rag asks about documents, and none were named", "Write rag:questions.jsonl@FOLDER.")
    if not file.is_file() or not documents.is_dir():
        wrong = f"{file} is no file" if not file.is_file() else f"{documents} is no folder"
        raise UsageError(wrong, "Write rag:questions.jsonl@FOLDER.")
    if documents.resolve() in file.resolve().parents:
        raise UsageError(
            f"{file} lies among the documents, where its answers would be found", "Put the questions elsewhere."
        )
    return [Rag(f"rag:{rest}", file, documents)]


def _there(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        raise UsageError(f"{name} is not there", "Check the path; rag:questions.jsonl@FOLDER is expected.")
    return path


def _questions_in(folder: Path) -> Path:
    found = sorted(path for path in folder.glob("questions.*") if inner_suffix(path) in _TABLES)
    if len(found) != 1:
        what = (
            "no questions.jsonl"
            if not found
            else f"several files of questions: {', '.join(path.name for path in found)}"
        )
        raise DataError(f"{folder} has {what}", "Give it one; or write rag:questions.jsonl@FOLDER.")
    return found[0]


TASKS: Kinds = {
    "rag": Kind("questions about a folder of documents, as ask answers them: rag:questions.jsonl@FOLDER", _make)
}
