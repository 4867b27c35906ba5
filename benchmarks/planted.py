"""Make the planted set: folders of real files, and questions of which we know where the answer lies, or that it is absent.

    python benchmarks/planted.py OUT          # OUT/{calibration,report,nearmiss}/files/..., .../questions.jsonl

The passages come from ../shared/data: BoolQ and PubMedQA (English), CMRC 2018 (Chinese). Each passage, with all its
questions, falls into one of two splits that share nothing: *calibration* (2 of 5), from which thresholds are chosen, and
*report* (3 of 5), on which figures are stated. In each split every third passage is left out of the folder: its
questions are the unanswerable ones. *nearmiss* is the report folder plus the left-out passages with their answer cut
away (the sentence of the gold answer in CMRC; the results in PubMedQA), which is the hard case: the topic is there, the
answer is not.

Half of the passages are files of their own; the others share a file, several under neutral headings. The formats are
.txt, .md, .html, .docx and .pdf; abstracts of the Cranfield collection stand among them as distractors.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SPLITS = ("calibration", "report", "nearmiss")


@dataclass(frozen=True)
class Question:
    """``passage`` is the gold passage (empty where the folder has none) and ``answer`` its gold span (CMRC only)."""

    id: str
    language: str  # "en" | "zh"
    dataset: str  # "boolq" | "pubmedqa" | "cmrc"
    text: str
    answerable: bool
    file: str = ""
    passage: str = ""
    answer: str = ""


@dataclass(frozen=True)
class Passage:
    dataset: str
    text: str
    title: str
    questions: tuple[tuple[str, str], ...]  # (question, gold answer span or "")

    @property
    def language(self) -> str:
        return "zh" if self.dataset == "cmrc" else "en"


# -------------------------------------------------------------------------------------------------------- the sources


def _rows(path: Path) -> Iterator[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _grouped(dataset: str, rows: Iterable[tuple[str, str, str, str]]) -> list[Passage]:
    """(passage, title, question, answer) rows to passages, so that a passage never stands in two splits."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for text, title, question, answer in rows:
        if question:  # one row of BoolQ has none
            groups.setdefault(text, []).append((title, question, answer))
    return [Passage(dataset, text, g[0][0], tuple((q, a) for _, q, a in g)) for text, g in groups.items()]


def boolq(shared: Path) -> list[Passage]:
    def rows() -> Iterator[tuple[str, str, str, str]]:
        for row in _rows(shared / "reasoning" / "boolq.jsonl.gz"):
            passage, question = row["query"].removeprefix("Passage: ").rsplit("\nQuestion: ", 1)
            yield passage.strip(), "", question.strip(), ""

    return _grouped("boolq", rows())


def pubmedqa(shared: Path) -> list[Passage]:
    def rows() -> Iterator[tuple[str, str, str, str]]:
        for row in _rows(shared / "reasoning" / "pubmed_qa.jsonl.gz"):
            passage, question = row["context"].removeprefix("Context: ").rsplit("\nQuestion: ", 1)
            yield passage.strip(), "", question.split("\nA. yes")[0].strip(), ""

    return _grouped("pubmedqa", rows())


def cmrc(shared: Path) -> list[Passage]:
    folder = shared / "retrieval" / "cmrc2018_trial_zh"
    titles = {row["text"]: row["title"] for row in _rows(folder / "corpus.jsonl.gz")}

    def rows() -> Iterator[tuple[str, str, str, str]]:
        for row in _rows(shared / "reasoning" / "cmrc2018_trial_qa_zh.jsonl.gz"):
            context = row["context"]
            bare = re.sub(r"</?nowiki>", "", context).strip()  # markup that one passage carries, and .md and .html lose
            yield bare, titles.get(context, ""), row["question"].strip(), row["answers"][0]["text"].strip()

    return _grouped("cmrc", rows())


def distractors(shared: Path, split: str) -> list[str]:
    """Forty Cranfield abstracts, other ones in each split."""
    texts = [
        row["text"] for row in _rows(shared / "retrieval" / "cranfield" / "corpus.jsonl.gz") if row["text"].strip()
    ]
    start = 0 if split == "calibration" else 40
    return texts[start : start + 40]


# -------------------------------------------------------------------------------------------------------- the formats


def _markdown(parts: Sequence[tuple[str, str]]) -> str:
    return "\n\n".join(f"## {heading}\n\n{text}" if heading else text for heading, text in parts) + "\n"


def _html(parts: Sequence[tuple[str, str]]) -> str:
    body = "\n".join(
        (f"<h2>{html.escape(heading)}</h2>\n" if heading else "")
        + "".join(f"<p>{html.escape(line)}</p>\n" for line in text.split("\n"))
        for heading, text in parts
    )
    return f'<!doctype html>\n<html><head><meta charset="utf-8"><title>Passages</title></head><body>\n{body}</body></html>\n'


def _docx(path: Path, parts: Sequence[tuple[str, str]]) -> None:
    from docx import Document

    document = Document()
    for heading, text in parts:
        if heading:
            document.add_heading(heading, level=2)
        for line in text.split("\n"):
            document.add_paragraph(line)
    document.save(str(path))


def _pdf(path: Path, parts: Sequence[tuple[str, str]]) -> None:
    """A plain PDF 1.4: one passage a page, Helvetica 10, lines broken as a word processor breaks them."""
    objects: list[bytes] = [
        b"",
        b"",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    pages = []
    for heading, text in parts:
        lines = ([heading, ""] if heading else []) + [
            line for paragraph in text.split("\n") for line in textwrap.wrap(paragraph, 92)
        ]
        shown = b"".join(b"(" + re.sub(rb"([\\()])", rb"\\\1", line.encode("cp1252")) + b") Tj T*\n" for line in lines)
        stream = b"BT /F1 10 Tf 14 TL 50 790 Td\n" + shown + b"ET"
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
        pages.append(len(objects) + 1)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>"
            % len(objects)
        )
    objects[0] = b"<< /Type /Catalog /Pages 2 0 R >>"
    kids = b" ".join(b"%d 0 R" % page for page in pages)
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (kids, len(pages))
    out, offsets = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer << /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    path.write_bytes(bytes(out))


def _write(path: Path, parts: Sequence[tuple[str, str]]) -> None:
    match path.suffix:
        case ".docx":
            _docx(path, parts)
        case ".pdf":
            _pdf(path, parts)
        case ".html":
            path.write_text(_html(parts), "utf-8")
        case _:
            path.write_text(_markdown(parts) if path.suffix == ".md" else "\n\n".join(t for _, t in parts), "utf-8")


def _fits_pdf(text: str) -> bool:
    try:
        text.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return len(text) < 92 * 50


# -------------------------------------------------------------------------------------------------------- the splits


def _without_answer(passage: Passage) -> list[Passage]:
    """The near misses of a passage: the same text with the answer gone, one for each question that allows it."""
    if passage.dataset == "pubmedqa":
        kept = [line for line in passage.text.split("\n") if not re.match(r"(RESULTS?|FINDINGS|CONCLUSIONS?)\b", line)]
        text = "\n".join(kept)
        return [Passage("pubmedqa", text, "", passage.questions)] if 0 < len(text) < len(passage.text) else []
    if passage.dataset == "cmrc":
        question, answer = passage.questions[0]
        sentences = re.findall(r"[^。！？；]*[。！？；]?", passage.text)
        text = "".join(s for s in sentences if answer not in s)
        if answer not in text and len(text) > 60 and len(text) < len(passage.text):
            return [Passage("cmrc", text, passage.title, ((question, answer),))]
    return []


def _place(folder: Path, passages: Sequence[Passage]) -> dict[int, str]:
    """Write the passages as files; which file each (by its number) went to."""
    placed: dict[int, str] = {}
    shared_file: dict[str, list[int]] = {"en": [], "zh": []}
    pdf: list[int] = []
    for number, passage in enumerate(passages):
        if number % 2 == 0:
            suffix = (".txt", ".md", ".html")[number // 2 % 3]
            placed[number] = f"{passage.dataset}-{number:03d}{suffix}"
            _write(folder / placed[number], [("", passage.text)])
        elif passage.language == "en" and number % 10 == 1 and _fits_pdf(passage.text):
            pdf.append(number)
        else:
            shared_file[passage.language].append(number)
    batches = [
        (language, numbers[i : i + 5]) for language, numbers in shared_file.items() for i in range(0, len(numbers), 5)
    ]
    files = [
        (f"{lang}-notes-{i:02d}{('.md', '.docx', '.html')[i % 3]}", batch) for i, (lang, batch) in enumerate(batches)
    ]
    files += [(f"en-paper-{i:02d}.pdf", pdf[start : start + 4]) for i, start in enumerate(range(0, len(pdf), 4))]
    for name, batch in files:
        _write(folder / name, [(passages[n].title or f"Part {i}", passages[n].text) for i, n in enumerate(batch, 1)])
        placed |= dict.fromkeys(batch, name)
    return placed


def make(out: Path, split: str, shared: Path = SHARED) -> list[Question]:
    """Write ``out/files`` and ``out/questions.jsonl`` for one split; return the questions."""
    folder = out / "files"
    folder.mkdir(parents=True, exist_ok=True)
    inside: list[Passage] = []
    absent: list[Passage] = []
    for passages in (boolq(shared), pubmedqa(shared), cmrc(shared)):
        for number, passage in enumerate(passages):
            if (number % 5 < 2) == (split == "calibration"):
                (absent if number // 5 % 3 == 0 else inside).append(passage)
    cut = [near for passage in absent for near in _without_answer(passage)] if split == "nearmiss" else []
    placed = _place(folder, [*inside, *cut])
    for number, text in enumerate(distractors(shared, split)):
        (folder / f"abstract-{number:02d}.txt").write_text(text, "utf-8")

    questions = [
        Question(f"{split}-{n:03d}-{i}", p.language, p.dataset, q, True, placed[n], p.text, a)
        for n, p in enumerate(inside)
        for i, (q, a) in enumerate(p.questions)
    ]
    questions += [
        Question(f"{split}-x{n:03d}-{i}", p.language, p.dataset, q, False)
        for n, p in enumerate(cut if split == "nearmiss" else absent)
        for i, (q, _) in enumerate(p.questions)
    ]
    lines = (json.dumps(asdict(question), ensure_ascii=False) for question in questions)
    (out / "questions.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return questions


if __name__ == "__main__":
    for name in SPLITS:
        made = make(Path(sys.argv[1]) / name, name)
        print(
            f"{name}: {sum(q.answerable for q in made)} answerable, {sum(not q.answerable for q in made)} unanswerable"
        )
