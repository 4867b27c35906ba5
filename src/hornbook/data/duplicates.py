"""Documents that were there before: the same words (exact), or nearly the same (MinHash with locality-sensitive hashing).

    text -> words -> shingles (runs of 5 words) -> signature, uint32 [P]: the least value of P hash functions over them
         -> B bands of R values each -> documents that agree in a whole band are candidates -> estimate of their Jaccard
         similarity: how many of the P values agree -> pairs at or above the threshold -> clusters -> the first of each stays

MinHash: Broder 1997. Two sets of similarity s agree in one value with probability s, so they become candidates with
1 - (1 - s^R)^B, an S-shaped curve; B and R are chosen so that it has risen at the threshold (Leskovec et al., Mining of Massive
Datasets, section 3.4). For web text: arXiv 2107.06499, and arXiv 2406.17557 (runs of 5 words). The hash functions
multiply by a random odd number, add one and take the high half (arXiv 1504.06804, section 3.3): 64-bit arithmetic that
wraps does it, without a prime.

Memory: a document costs 4 * P bytes (512 of them) where signatures are kept; `clusters` sorts one band at a time, so it
takes 8 + 8 + 8 bytes a document beside them, and signatures may be a memory-mapped file. Everything follows from the
order of the documents and the seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hornbook.data.words import PER_WORD, hashes, mixed, normalise, runs, words_of
from hornbook.errors import UsageError

FOUND = 0.9  # of the pairs at the threshold
_FEW = 64  # documents in a bucket up to which every pair is compared


class Exact:
    """Which documents are the same but for case, spaces and compatibility forms (NFKC): 16 bytes and a number a document.

    Punctuation counts: 3+4 is not 3-4.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def first(self, key: bytes, number: int) -> int | None:
        """The number under which the same key came before; None, and this number is kept, where it is new."""
        found = self._seen.setdefault(key, number)
        return None if found == number else found


def exact_key(text: str) -> bytes:
    """16 bytes of a text that are the same for all its exact duplicates."""
    plain = " ".join(normalise(text).split())
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class MinHash:
    """How near duplicates are found. ``threshold``: the Jaccard similarity of shingles from which two documents are the
    same; ``hashes``: P, how many values a signature has; ``shingle``: words in a run (characters of a script without
    spaces: twice as many). Raises UsageError on values that find nothing."""

    threshold: float = 0.8
    hashes: int = 128
    shingle: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise UsageError(f"a threshold of {self.threshold} is no similarity", "Give one above 0 and up to 1.")
        if self.hashes < 16 or self.shingle < 1:
            raise UsageError(
                f"{self.hashes} hash functions over runs of {self.shingle} words estimate no similarity",
                "Take 16 or more hash functions (128 is usual) and runs of at least 1 word.",
            )

    @cached_property
    def bands(self) -> tuple[int, int]:
        """(B, R) with B * R <= P: the longest bands with which two documents at the threshold become candidates nine times in
        ten. Longer bands give fewer wrong candidates, and those cost only a comparison; a missed one stays."""
        for rows in range(self.hashes, 1, -1):
            count = self.hashes // rows
            if 1 - (1 - self.threshold**rows) ** count >= FOUND:
                return count, rows
        return self.hashes, 1

    def probability(self, similarity: float) -> float:
        """How likely two documents of this similarity become candidates."""
        bands, rows = self.bands
        return 1 - (1 - similarity**rows) ** bands

    def shingles(self, text: str) -> np.ndarray:
        """Numbers of the different runs of words, uint64 [n]. A text shorter than a run is one, with its punctuation."""
        plain, words, numbers, unspaced = words_of(text)
        length = self.shingle * (PER_WORD if unspaced else 1)
        if len(words) < length:
            return hashes([" ".join(plain.split())])
        return np.unique(runs(numbers, length))

    def signature(self, text: str) -> np.ndarray:
        """uint32 [P]."""
        found = self.shingles(text)
        factor, shift = self._functions
        high = (found >> np.uint64(32))[:, None]
        least = np.full(self.hashes, np.uint64(2**64 - 1))
        with np.errstate(over="ignore"):
            for i in range(0, len(high), 128):  # what a processor's cache holds
                block = high[i : i + 128] * factor
                block += shift
                np.minimum(least, block.min(0), out=least)
        least >>= np.uint64(32)  # the least of the high halves is the high half of the least
        return least.astype(np.uint32)

    @cached_property
    def _functions(self) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(self.seed)
        factor, shift = random.integers(0, 2**63, (2, self.hashes), dtype=np.uint64, endpoint=True)
        return mixed(factor) | np.uint64(1), mixed(shift)


def similarity(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The estimate of Jaccard's similarity: which part of two signatures agrees, uint32 [..., P] -> float [...]."""
    equal: np.ndarray = (one == other).mean(-1)
    return equal


def clusters(signatures: np.ndarray, minhash: MinHash) -> np.ndarray:
    """Signatures, uint32 [n,P] -> the number of the first document of each one's cluster, int64 [n].

    Two documents are in a cluster where they are near duplicates or a chain of such leads from one to the other.
    In a bucket of more than 64 documents each is compared not with all others, but with the first that is like none
    before; a pair that this misses may be found in another band.
    """
    parent = np.arange(len(signatures))
    bands, rows = minhash.bands
    for band in range(bands):
        keys = _keys(signatures[:, band * rows : (band + 1) * rows])
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        edges = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1], [True]]))
        for start, end in zip(edges[:-1], edges[1:], strict=True):
            if end - start > 1:
                _join(np.sort(order[start:end]), signatures, minhash.threshold, parent)
    for i in range(len(parent)):  # a parent is never later than its child, so one pass finds all roots
        parent[i] = parent[parent[i]]
    return parent


def _keys(band: np.ndarray) -> np.ndarray:
    """A number for each row of a band: uint32 [n,R] -> uint64 [n]."""
    found = np.zeros(len(band), np.uint64)
    for column in range(band.shape[1]):
        found = mixed(found + band[:, column].astype(np.uint64) + np.uint64(1))
    return found


def _join(bucket: np.ndarray, signatures: np.ndarray, threshold: float, parent: np.ndarray) -> None:
    """Unite the near duplicates among documents that share a band; numbers in ``bucket`` rise."""
    if len(bucket) > 2 and len({_root(parent, int(i)) for i in bucket}) == 1:
        return
    rest = bucket
    while len(rest) > 1:
        head, rest = int(rest[0]), rest[1:]
        alike = similarity(signatures[rest], signatures[head]) >= threshold
        for other in rest[alike]:
            _unite(parent, head, int(other))
        if len(bucket) > _FEW:
            rest = rest[~alike]


def _root(parent: np.ndarray, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = int(parent[i])
    return i


def _unite(parent: np.ndarray, one: int, other: int) -> None:
    first, second = sorted((_root(parent, one), _root(parent, other)))
    parent[second] = first
