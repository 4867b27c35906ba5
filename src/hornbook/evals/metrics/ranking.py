"""How good is a ranking, where it is known which documents are relevant, and how much?

    ranking: names, best first          gains: name -> relevance, above 0 where it is relevant

All of them are 0 where nothing is relevant: a question without relevant documents says nothing of a ranking, and who takes a
mean leaves it out. A name that comes twice counts once, at its first place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Names by score, the highest first; those of one score stay in the order in which they are given."""
    return sorted(scores, key=lambda name: -scores[name])


def ndcg(ranking: Sequence[str], gains: Mapping[str, float], depth: int = 10) -> float:
    """Normalised discounted cumulative gain at ``depth`` (Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR
    techniques", 2002, with the discount log2(rank + 1) that became common): the relevance itself is the gain."""
    best = sorted((gain for gain in gains.values() if gain > 0), reverse=True)[:depth]
    if not best:
        return 0.0
    got = sum(max(gains.get(name, 0.0), 0.0) * _discount(rank) for rank, name in enumerate(_once(ranking)[:depth]))
    return got / sum(gain * _discount(rank) for rank, gain in enumerate(best))


def recall(ranking: Sequence[str], gains: Mapping[str, float], depth: int) -> float:
    """The share of the relevant that the first ``depth`` hold."""
    relevant = _relevant(gains)
    return len(relevant.intersection(_once(ranking)[:depth])) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Sequence[str], gains: Mapping[str, float], depth: int = 10) -> float:
    """1 over the rank of the first that is relevant; 0 where none of the first ``depth`` is. Its mean is MRR."""
    relevant = _relevant(gains)
    return next((1 / rank for rank, name in enumerate(_once(ranking)[:depth], 1) if name in relevant), 0.0)


def average_precision(ranking: Sequence[str], gains: Mapping[str, float], depth: int | None = None) -> float:
    """The mean, over the relevant, of the precision at the rank where each stands; those not found count 0. Its mean is MAP."""
    relevant = _relevant(gains)
    found, total = 0, 0.0
    for rank, name in enumerate(_once(ranking)[:depth], 1):
        if name in relevant:
            found += 1
            total += found / rank
    return total / len(relevant) if relevant else 0.0


def _discount(rank: int) -> float:
    """``rank`` from 0."""
    return 1 / math.log2(rank + 2)


def _relevant(gains: Mapping[str, float]) -> set[str]:
    return {name for name, gain in gains.items() if gain > 0}


def _once(ranking: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(ranking))
