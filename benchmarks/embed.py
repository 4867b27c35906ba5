"""Embedding speed on real passages, ours and sentence-transformers' in turn: python benchmarks/embed.py [--threads 2]

The same 200 PubMedQA passages, the same weights (MiniLM, float32), the same threads; rounds alternate, so that what else
the machine does falls on both. Prints medians, the ratio, and the time of a single query.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path


def passages(data: Path, count: int, words: int) -> list[str]:
    """The beginnings of ``count`` PubMedQA abstracts, as long as a chunk of an index."""
    with gzip.open(data / "reasoning" / "pubmed_qa.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    return [" ".join(row["context"].split()[:words]) for row in rows]


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passages", type=int, default=200)
    parser.add_argument("--words", type=int, default=100, help="of each passage; 100 words are about 150 tokens")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"

    import torch
    from sentence_transformers import SentenceTransformer

    import hornbook
    from hornbook.checkpoint.store import Store
    from hornbook.settings import Settings

    torch.set_num_threads(options.threads)
    texts = passages(options.data, options.passages, options.words)
    path = Store(Settings.load()).ensure("minilm").path
    ours, theirs = hornbook.load("minilm", device="cpu"), SentenceTransformer(str(path), device="cpu")
    tokens = [min(ours.count_tokens(text) + 2, ours.max_tokens) for text in texts]
    query = "Does the intervention reduce mortality after two years?"
    work: dict[str, Callable[[], object]] = {
        "hornbook": lambda: ours.embed(texts),
        "sentence-transformers": lambda: theirs.encode(texts, batch_size=32),
        "hornbook, one query": lambda: ours.embed([query], kind="query"),
        "sentence-transformers, one query": lambda: theirs.encode([query]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for name in work:
        work[name]()  # warm
    for _ in range(options.rounds):
        for name in work:
            repeats = 20 if "query" in name else 1
            seconds[name].append(timed(lambda name=name, n=repeats: [work[name]() for _ in range(n)]) / repeats)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"{len(texts)} passages, {statistics.mean(tokens):.0f} tokens each, {options.threads} threads, torch {torch.__version__}"
    )
    for name in ("hornbook", "sentence-transformers"):
        print(
            f"  {name:24} {len(texts) / median[name]:7.1f} passages/s   {sum(tokens) / median[name]:8.0f} tokens/s   one query {1000 * median[name + ', one query']:6.1f} ms"
        )
    cosine = (ours.embed(texts) * theirs.encode(texts, batch_size=32, normalize_embeddings=True)).sum(1).min()
    print(f"  cosine at least {cosine:.6f}")
    print(
        f"  ratio {median['sentence-transformers'] / median['hornbook']:.2f}, one query {median['sentence-transformers, one query'] / median['hornbook, one query']:.2f}"
    )


if __name__ == "__main__":
    main()
