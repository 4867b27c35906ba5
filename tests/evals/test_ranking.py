"""nDCG, recall, MRR and MAP against ranx: graded relevance, ties, odd rankings, questions without relevant documents."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import pytest

from hornbook.evals.metrics import ranking

OURS: dict[str, Callable[[Sequence[str], Mapping[str, float]], float]] = {
    "ndcg@10": lambda found, gains: ranking.ndcg(found, gains, 10),
    "ndcg@3": lambda found, gains: ranking.ndcg(found, gains, 3),
    "recall@5": lambda found, gains: ranking.recall(found, gains, 5),
    "recall@100": lambda found, gains: ranking.recall(found, gains, 100),
    "mrr@10": ranking.reciprocal_rank,
    "map": ranking.average_precision,
    "map@5": lambda found, gains: ranking.average_precision(found, gains, 5),
}


THEIRS = """
import json, sys
import ranx
scores, judged, names = json.load(sys.stdin)
run = ranx.Run(scores)
order = {query: list(found) for query, found in run.to_dict().items()}
found = ranx.evaluate(ranx.Qrels(judged), run, names, return_mean=False)
print(json.dumps([order, {name: values.tolist() for name, values in found.items()}]))
"""


def ranx_of(scores: object, judged: object) -> tuple[dict[str, list[str]], dict[str, list[float]]]:
    """The orders and the measures, from a process of its own: numba reads once, when it is imported first by whomever, that it is
    to interpret (two seconds) and not to compile (a minute)."""
    pytest.importorskip("ranx")
    given = json.dumps([scores, judged, list(OURS)])
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", THEIRS], input=given, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    order, measures = json.loads(done.stdout.splitlines()[-1])
    return order, measures


def test_the_measures_are_those_of_ranx() -> None:
    """Two hundred questions: 1 to 30 documents found, scores that tie, 0 to 6 judged with relevance 0 to 4, some of them not
    found and some found that nobody judged. In a tie ranx's own order is taken: it is no better than another."""
    draw = random.Random(7)
    scores, judged = {}, {}
    for number in range(200):
        names = [f"d{at}" for at in draw.sample(range(40), 30)]
        scores[f"q{number:03d}"] = {name: float(draw.randint(1, 8)) for name in names[: draw.randint(1, 30)]}
        gains = {name: draw.choice([0, 0, 1, 1, 2, 3, 4]) for name in draw.sample(names, draw.randint(1, 6))}
        judged[f"q{number:03d}"] = gains | ({"nowhere": 2} if draw.random() < 0.3 else {})
    assert sum(not any(gains.values()) for gains in judged.values()) > 5
    order, theirs = ranx_of(scores, judged)
    assert all(sorted(scores[q][name] for name in found) == sorted(scores[q].values()) for q, found in order.items())
    for name, ours in OURS.items():
        values = [ours(order[query], judged[query]) for query in sorted(scores)]
        assert values == pytest.approx(theirs[name], abs=1e-9), name


def test_a_question_without_relevant_documents_is_worth_nothing() -> None:
    for ours in OURS.values():
        assert ours(["a", "b"], {}) == ours(["a", "b"], {"a": 0}) == ours([], {"a": 1}) == 0


def test_what_comes_twice_counts_once() -> None:
    for ours in OURS.values():
        assert ours(["a", "a", "b", "a"], {"a": 1, "b": 3}) == ours(["a", "b"], {"a": 1, "b": 3}) <= 1


def test_documents_of_one_score_stay_in_their_order() -> None:
    assert ranking.ranked({"c": 1.0, "a": 2.0, "b": 1.0, "d": 2.0}) == ["a", "d", "c", "b"]
