"""Measure retrieval on four judged collections, through the real Index, with the peers beside it.

    python benchmarks/retrieval.py                     # table on the terminal
    python benchmarks/retrieval.py --peers --write     # and bm25s, sentence-transformers; into docs/results/retrieval.md

Each passage becomes a .txt file, is ingested, and counts as found at the rank of its best chunk. Figures are means over
the queries; "even" and "odd" are nDCG@10 on every other query and on those in between: a constant of fuse.py that were
fitted to chance would hold on one and not on the other.

cranfield is given twice: with the gain 2^code - 1 for its codes 1 to 4 (the form in which reference figures were stated),
and with every code above 0 counting 1, as its readme suggests. Its code -1 is not relevant.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hornbook.evals.metrics.ranking import ndcg, recall

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results" / "retrieval.md"
COLLECTIONS = ("cranfield", "cmrc2018_trial_zh", "boolq", "pubmed_qa")
MODES = ("sparse", "dense", "hybrid")


class Collection(NamedTuple):
    """Passages by name, queries by name, and for each query the passages that answer it with their gain."""

    name: str
    passages: dict[str, str]
    queries: dict[str, str]
    judged: dict[str, dict[str, float]]


class Figures(NamedTuple):
    ndcg: float
    recall5: float
    hit5: float
    binary: float  # nDCG@10 with gain 1; differs on cranfield only
    even: float
    odd: float
    milliseconds: float


def read(name: str, shared: Path = SHARED) -> Collection:
    if name in ("boolq", "pubmed_qa"):
        return _questions_on_passages(name, shared)
    folder = shared / "retrieval" / name
    passages = {}
    for row in _jsonl(folder / "corpus.jsonl.gz"):
        title = row.get("title", "") if name != "cranfield" else ""  # cranfield's texts begin with their title
        passages[row["_id"]] = f"{title}\n\n{row['text']}".strip()
    queries = {row["_id"]: row["text"] for row in _jsonl(folder / "queries.jsonl.gz")}
    judged: dict[str, dict[str, float]] = {query: {} for query in queries}
    for line in (folder / "qrels.tsv").read_text("utf-8").splitlines()[1:]:
        query, passage, code = line.split("\t")
        if int(code) > 0:
            judged[query][passage] = 2.0 ** int(code) - 1
    return Collection(name, passages, queries, {query: gains for query, gains in judged.items() if gains})


def _questions_on_passages(name: str, shared: Path) -> Collection:
    """Each question's own passage is its answer; passages that are equal are one."""
    ids: dict[str, str] = {}
    queries: dict[str, str] = {}
    judged: dict[str, dict[str, float]] = {}
    for number, row in enumerate(_jsonl(shared / "reasoning" / f"{name}.jsonl.gz")):
        whole = row["query"].removeprefix("Passage: ") if name == "boolq" else row["context"].removeprefix("Context: ")
        passage, _, question = whole.rpartition("\nQuestion: ")
        passage_id = ids.setdefault(passage, f"p{len(ids)}")
        queries[f"q{number}"] = question.split("\nA. yes")[0]
        judged[f"q{number}"] = {passage_id: 1.0}
    return Collection(name, {id: passage for passage, id in ids.items()}, queries, judged)


def _jsonl(path: Path) -> Iterator[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def measure(collection: Collection, search: Callable[[str], Sequence[str]]) -> Figures:
    """``search`` gives the names of passages, best first, without repeats."""
    began = time.perf_counter()
    # cmrc2018_trial_zh has an empty query, which finds nothing
    rankings = {q: search(text) if (text := collection.queries[q]).strip() else [] for q in collection.judged}
    milliseconds = 1000 * (time.perf_counter() - began) / len(rankings)
    graded = [ndcg(rankings[query], gains) for query, gains in collection.judged.items()]
    binary = [ndcg(rankings[query], dict.fromkeys(gains, 1.0)) for query, gains in collection.judged.items()]
    found = [recall(rankings[query], gains, 5) for query, gains in collection.judged.items()]
    return Figures(
        ndcg=float(np.mean(graded)),
        recall5=float(np.mean(found)),
        hit5=float(np.mean([share > 0 for share in found])),
        binary=float(np.mean(binary)),
        even=float(np.mean(graded[::2])),
        odd=float(np.mean(graded[1::2])),
        milliseconds=milliseconds,
    )


def write_files(collection: Collection, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, passage in collection.passages.items():
        (folder / f"{name}.txt").write_text(passage or "(empty)", "utf-8")


def passages_found(hits: Sequence[object]) -> list[str]:
    return list(dict.fromkeys(Path(hit.document.path).stem for hit in hits))  # type: ignore[attr-defined]


def ours(collection: Collection, embedder: object, scratch: Path) -> tuple[dict[str, Figures], str]:
    from hornbook import Index

    write_files(collection, scratch / "files")
    with Index.open(scratch / "index", embedder=embedder) as index:  # type: ignore[arg-type]
        report = index.ingest([scratch / "files"])
        note = f"{len(collection.passages):,} passages, {report.chunks:,} chunks in {report.seconds:.0f} s"
        note += f" ({report.chunks / report.seconds:.0f} chunks/s), {len(collection.judged):,} queries"
        figures = {
            mode: measure(collection, lambda query, mode=mode: passages_found(index.search(query, 60, mode=mode)))  # type: ignore[misc]
            for mode in MODES
        }
    return figures, note


def bm25_on_whole_passages(collection: Collection) -> Figures:
    """Our BM25 with every passage as one unit, as bm25s has it: the like-for-like comparison, without chunks."""
    from hornbook.retrieve import sparse
    from hornbook.retrieve.analyze import terms

    names = list(collection.passages)
    lengths, lists = sparse.invert([terms(passage) for passage in collection.passages.values()])
    segment = sparse.SegmentLengths(0, lengths.astype(np.float32), np.ones(len(names), bool))
    postings = {term: {0: places} for term, places in lists}

    def search(query: str) -> list[str]:
        (scores,), _ = sparse.bm25(terms(query), [segment], postings)
        return [names[i] for i in np.argsort(-scores, kind="stable")[:60]]

    return measure(collection, search)


def peers(collection: Collection, model: Path) -> dict[str, Figures]:
    """bm25s (English stemmed, its stop list; CJK as unigrams and bigrams), sentence-transformers, plain rank fusion."""
    import re

    import bm25s
    import Stemmer
    from sentence_transformers import SentenceTransformer

    names = list(collection.passages)
    texts = list(collection.passages.values())
    han = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]+")

    def words(text: str) -> list[str]:
        grams = [run[i : i + n] for run in han.findall(text) for n in (1, 2) for i in range(len(run) - n + 1)]
        rest = bm25s.tokenize([han.sub(" ", text)], stopwords="en", stemmer=Stemmer.Stemmer("english"),
                              return_ids=False, show_progress=False)[0]  # fmt: skip
        return [*rest, *grams]

    retriever = bm25s.BM25()
    retriever.index([words(text) for text in texts], show_progress=False)
    encoder = SentenceTransformer(str(model), device="cpu")
    matrix = encoder.encode(texts, normalize_embeddings=True, batch_size=32)

    def sparse(query: str) -> np.ndarray:
        terms = words(query)
        return retriever.get_scores(terms) if terms else np.zeros(len(names), np.float32)

    def dense(query: str) -> np.ndarray:
        return matrix @ encoder.encode([query], normalize_embeddings=True)[0]

    def order(scores: np.ndarray) -> list[str]:
        return [names[i] for i in np.argsort(-scores, kind="stable")[:60]]

    def reciprocal(query: str) -> list[str]:
        total: dict[str, float] = {}
        for scores in (sparse(query), dense(query)):
            for rank, name in enumerate(names[i] for i in np.argsort(-scores, kind="stable")[:100]):
                total[name] = total.get(name, 0.0) + 1 / (60 + rank + 1)
        return sorted(total, key=lambda name: -total[name])

    return {
        "bm25s": measure(collection, lambda query: order(sparse(query))),
        "sentence-transformers": measure(collection, lambda query: order(dense(query))),
        "both, plain RRF": measure(collection, reciprocal),
    }


def table(results: Mapping[str, Mapping[str, Figures]]) -> list[str]:
    lines = [
        "| collection | retriever | nDCG@10 | recall@5 | hit@5 | nDCG@10, gain 1 | even queries | odd queries | ms a query |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for collection, rows in results.items():
        for name, f in rows.items():
            values = [f.ndcg, f.recall5, f.hit5, f.binary, f.even, f.odd]
            lines.append(
                f"| {collection} | {name} | "
                + " | ".join(f"{value:.3f}" for value in values)
                + f" | {f.milliseconds:.1f} |"
            )
    return lines


def machine() -> str:
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch", "PyStemmer"))
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, {packages}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="*", default=COLLECTIONS, help=f"default: {' '.join(COLLECTIONS)}")
    parser.add_argument("--peers", action="store_true", help="also bm25s, sentence-transformers and their plain fusion")
    parser.add_argument("--write", action="store_true", help=f"put the table into {RESULTS.name}")
    given = parser.parse_args()
    from hornbook.checkpoint.store import Store
    from hornbook.llm import load
    from hornbook.settings import Settings

    embedder = load("minilm")
    results: dict[str, dict[str, Figures]] = {}
    notes = []
    for name in given.collections:
        collection = read(name)
        with tempfile.TemporaryDirectory() as scratch:
            results[name], note = ours(collection, embedder, Path(scratch))
        notes.append(f"- {name}: {note}.")
        print(notes[-1], file=sys.stderr, flush=True)
        results[name]["sparse, whole passages"] = bm25_on_whole_passages(collection)
        if given.peers:
            results[name] |= peers(collection, Store(Settings.load()).ensure("minilm").path)
        print("\n".join(table({name: results[name]})), flush=True)
    if given.write:
        before, _, after = RESULTS.read_text("utf-8").partition("<!-- figures -->")
        after = after.partition("<!-- end of figures -->")[2]
        figures = "\n".join([*table(results), "", *notes, "", f"Machine: {machine()}."])
        RESULTS.write_text(f"{before}<!-- figures -->\n{figures}\n<!-- end of figures -->{after}", "utf-8")


if __name__ == "__main__":
    main()
