"""Derive BPE merges from SentencePiece's scores, fast enough for Gemma's 262,144 tokens.

SentencePiece's BPE joins, again and again, the two neighbours whose union is the best-scored token. So every way of
cutting a token in two tokens is a merge, and its rank is the rank of the token.

There are millions of cuts, and few of them fall between two tokens. A polynomial hash over all tokens written one after
the other tells the hash of every left and right part from prefix sums (Karp and Rabin 1987), in numpy; with B odd,
everything is modulo 2**64:

    P[i] = sum of c[j] * B**j for j < i              hash of [a, b) = (P[b] - P[a]) * B**-a

What the hashes propose is checked letter by letter, so a collision costs nothing but a look.
"""

from __future__ import annotations

import numpy as np

_BASE = 0x9E3779B97F4A7C15
_INVERSE = pow(_BASE, -1, 1 << 64)


def merges_from_scores(tokens: list[str], scores: np.ndarray) -> list[tuple[str, str]]:
    """All (left, right) with left + right among ``tokens``, the best score [V] first; tokens are distinct, not empty.

    Where a token can be cut in several ways, the shorter left part comes first.
    """
    if not tokens:
        return []
    order = np.argsort(-scores, kind="stable")
    ordered = np.empty(len(tokens), object)
    ordered[:] = [tokens[at] for at in order.tolist()]
    lengths = np.fromiter(map(len, ordered), np.int64, len(ordered))
    ends = np.cumsum(lengths)
    starts = ends - lengths
    letters = np.frombuffer("".join(ordered).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)

    with np.errstate(over="ignore"):
        base, inverse = np.uint64(_BASE), np.uint64(_INVERSE)
        prefix = np.concatenate([[np.uint64(0)], np.cumsum(letters * _powers(base, len(letters)), dtype=np.uint64)])
        shift = _powers(inverse, len(letters) + 1)
        whole = (prefix[ends] - prefix[starts]) * shift[starts]
        owner = np.repeat(np.arange(len(ordered)), lengths - 1)  # of each cut, the token that it cuts
        cut = np.arange(len(owner)) + owner + 1  # each token has one cut fewer than letters
        left = (prefix[cut] - prefix[starts[owner]]) * shift[starts[owner]]
        right = (prefix[ends[owner]] - prefix[cut]) * shift[cut]

    seen = np.zeros(1 << 24, bool)  # a coarse sieve first: most cuts fall through it
    seen[whole >> np.uint64(40)] = True
    sieved = np.flatnonzero(seen[left >> np.uint64(40)] & seen[right >> np.uint64(40)])
    by_hash = np.argsort(whole, kind="stable")
    known = whole[by_hash]
    parts = []
    for hashes in (left[sieved], right[sieved]):
        found = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        parts.append(ordered[by_hash[found]].tolist())
    unions = ordered[owner[sieved]].tolist()
    return [(a, b) for a, b, union in zip(*parts, unions, strict=True) if a + b == union]


def _powers(base: np.uint64, count: int) -> np.ndarray:
    """[count] of base**0, base**1, ... modulo 2**64."""
    factors = np.full(count, base, np.uint64)
    factors[:1] = 1
    return np.cumprod(factors, dtype=np.uint64)
