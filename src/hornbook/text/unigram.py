"""Train a unigram model of pieces: arXiv 1804.10959, section 3.2, the same in every run.

    words with counts --frequent stretches of letters--> seeds --EM--> probabilities --least useful ones out--> ... -> size

1. All letters, and the stretches of up to `LONGEST` letters with the largest count times length, are the first pieces.
2. EM: how often each piece is expected to be used, over all ways of cutting each word (forward and backward sums over
   the lattice of its cuts), becomes its probability. Twice.
3. A piece's loss is what the likelihood of the words falls by when it is written with others: expected count times
   (its log probability - that of its best cut without itself). The quarter with the least loss goes; letters stay.
4. From 2 again, until ``size`` pieces are left.

The tokenizers library has a trainer for this, whose sums run in an order that changes from run to run, and with it the
vocabulary. Here every word of a step is worked on at once in numpy. Departures: words longer than `CHUNK` letters (lines
of Chinese) are cut there; of more than `MOST` different words the most frequent are taken; probabilities are plain
relative counts.

Memory: 64 + 40 bytes for each letter of the different words.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

LONGEST, CHUNK, MOST = 16, 32, 1_000_000
SEEDS = 10  # times the size asked for
SHRINK = 0.75
_ODD, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


def train_unigram(words: Mapping[str, int], size: int) -> list[tuple[str, float]]:
    """(piece, log probability) of at most ``size`` pieces, likeliest first; every letter of the words is among them, so
    ``size`` must hold those. words: each with how often it comes."""
    lattice = Lattice(_chunks(words))
    pieces = lattice.seeds(size * SEEDS)
    table = lattice.table(pieces)
    counts = lattice.frequencies(table, len(pieces))
    while True:
        for _ in range(2):
            counts = lattice.expected(table, _log(counts))
        if len(pieces) <= size:
            break
        scores = _log(counts)
        others = Lattice(dict.fromkeys(pieces, 1)).best_without(pieces, scores)
        letters = np.array([len(piece) == 1 for piece in pieces])
        losses = np.where(letters, np.inf, counts * (scores - others))
        keep = max(size, int(len(pieces) * SHRINK))
        kept = np.sort(np.argsort(-losses, kind="stable")[:keep])
        renumbered = np.full(len(pieces) + 1, -1, np.int32)  # the last: no piece, which is -1 before and after
        renumbered[kept] = np.arange(len(kept))
        table = [renumbered[row] for row in table]
        pieces, counts = [pieces[i] for i in kept], counts[kept]
    scores = _log(np.maximum(counts, 0.1))  # a letter that only longer pieces use keeps a small chance
    order = np.argsort(-scores, kind="stable")
    return [(pieces[i], float(scores[i])) for i in order]


def _chunks(words: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for word, count in words.items():
        for start in range(0, len(word), CHUNK):
            part = word[start : start + CHUNK]
            found[part] = found.get(part, 0) + count
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return dict(sorted(ranked[:MOST]))


def _log(counts: np.ndarray) -> np.ndarray:
    """Relative counts as log probabilities, float64 [n]; what is never used gets next to nothing."""
    kept = np.maximum(counts, 1e-10)
    logs: np.ndarray = np.log(kept) - np.log(kept.sum())
    return logs


class Lattice:
    """All ways of cutting words into pieces, for every word at once.

    Letters of all words stand one behind the other, N of them; ``starts`` and ``sizes`` [W] say whose they are. A piece is
    known by a number that its letters give (a polynomial over 64 bits); row l - 1 of ``keys`` [L,N] holds those of the
    stretches of l letters that begin at each letter.
    """

    def __init__(self, words: Mapping[str, int]) -> None:
        self.words = list(words)
        self.counts = np.fromiter(words.values(), np.float64, len(words))
        self.sizes = np.fromiter(map(len, self.words), np.int64, len(words))
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.text = "".join(self.words)
        letters = np.frombuffer(self.text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
        owner = np.repeat(np.arange(len(self.words)), self.sizes)
        self.owner = owner
        self.left = (self.starts + self.sizes)[owner] - np.arange(len(letters))  # letters to the end of the word
        self.keys = _keys(letters, int(self.sizes.max(initial=0)))

    def seeds(self, size: int) -> list[str]:
        """All letters, then the stretches with the largest count times length, ``size`` pieces in all at most."""
        found: list[tuple[float, str]] = []
        letters: list[str] = []
        for length, keys in enumerate(self.keys, 1):
            here = np.flatnonzero(self.left >= length)
            if not len(here):
                break
            unique, first, place = np.unique(keys[here], return_index=True, return_inverse=True)
            counts = np.bincount(place, self.counts[self.owner[here]], len(unique))
            stretches = (self.text[at : at + length] for at in here[first].tolist())
            if length == 1:
                letters = sorted(stretches)
                continue
            often = counts >= 2
            worth = counts * length
            found += [(worth[i], s) for i, s in enumerate(stretches) if often[i]]
        found.sort(key=lambda item: (-item[0], item[1]))
        return letters + [stretch for _, stretch in found[: max(size - len(letters), 0)]]

    def table(self, pieces: list[str]) -> list[np.ndarray]:
        """For each length the piece that each letter begins, int32 [N], -1 where there is none."""
        tables = []
        for length, keys in enumerate(self.keys, 1):
            mine = [i for i, piece in enumerate(pieces) if len(piece) == length]
            row = np.full(len(keys), -1, np.int32)
            if mine:
                own = _keys_of([pieces[i] for i in mine], length)
                order = np.argsort(own, kind="stable")
                place = np.minimum(np.searchsorted(own[order], keys), len(mine) - 1)
                hit = (own[order][place] == keys) & (self.left >= length)
                row[hit] = np.array(mine, np.int32)[order[place[hit]]]
            tables.append(row)
        return tables

    def frequencies(self, table: list[np.ndarray], pieces: int) -> np.ndarray:
        """How often each piece stands in the words, float64 [n]."""
        found = np.zeros(pieces)
        for row in table:
            here = np.flatnonzero(row >= 0)
            found += np.bincount(row[here], self.counts[self.owner[here]], pieces)
        return found

    def expected(self, table: list[np.ndarray], scores: np.ndarray) -> np.ndarray:
        """How often each piece is used, over all cuts of every word by their probability: scores [n] -> float64 [n]."""
        before, after = self._sums(table, scores)
        whole = before[self._ends]
        found = np.zeros(len(scores))
        for length, row in enumerate(table, 1):
            here = np.flatnonzero(row >= 0)
            word = self.owner[here]
            start = here + word  # places count one more for each word: between its letters, and at both its ends
            share = np.exp(before[start] + scores[row[here]] + after[start + length] - whole[word])
            found += np.bincount(row[here], share * self.counts[word], len(scores))
        return found

    @cached_property
    def _ends(self) -> np.ndarray:
        return self.starts + np.arange(len(self.words)) + self.sizes

    def _sums(self, table: list[np.ndarray], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log sums over all cuts of what lies before and behind each place, float64 [N + W]."""
        before = np.full(len(self.text) + len(self.words), -np.inf)
        after = before.copy()
        firsts = self.starts + np.arange(len(self.words))
        before[firsts], after[self._ends] = 0.0, 0.0
        with np.errstate(invalid="ignore"):
            for at in range(1, int(self.sizes.max(initial=0)) + 1):
                words = np.flatnonzero(self.sizes >= at)
                for length in range(1, min(at, len(table)) + 1):
                    row = table[length - 1][self.starts[words] + at - length]
                    add = before[firsts[words] + at - length] + np.where(row >= 0, scores[row], -np.inf)
                    before[firsts[words] + at] = np.logaddexp(before[firsts[words] + at], add)
                    row = table[length - 1][self._ends[words] - np.arange(len(self.words))[words] - at]
                    add = after[self._ends[words] - at + length] + np.where(row >= 0, scores[row], -np.inf)
                    after[self._ends[words] - at] = np.logaddexp(after[self._ends[words] - at], add)
        return before, after

    def best_without(self, pieces: list[str], scores: np.ndarray) -> np.ndarray:
        """The log probability of each word's best cut that is not the word itself; the words are the pieces, in order."""
        table = self.table(pieces)
        firsts = self.starts + np.arange(len(self.words))
        best = np.full(len(self.text) + len(self.words), -np.inf)
        best[firsts] = 0.0
        for at in range(1, int(self.sizes.max(initial=0)) + 1):
            words = np.flatnonzero(self.sizes >= at)
            for length in range(1, min(at, len(table)) + 1):
                row = table[length - 1][self.starts[words] + at - length]
                other = (row >= 0) & (self.sizes[words] > length)
                add = best[firsts[words] + at - length] + np.where(other, scores[row], -np.inf)
                best[firsts[words] + at] = np.maximum(best[firsts[words] + at], add)
        found: np.ndarray = best[self._ends]
        return found


def _keys(letters: np.ndarray, longest: int) -> np.ndarray:
    """Numbers of the stretches of 1, 2, ... letters from each letter on: uint64 [N] -> [L,N]. Those that would run over
    the end are made of what is there, and are nobody's."""
    found = np.zeros((min(longest, LONGEST), len(letters)), np.uint64)
    key = np.zeros(len(letters), np.uint64)
    with np.errstate(over="ignore"):
        for length in range(len(found)):
            ahead = np.zeros(len(letters), np.uint64)
            ahead[: len(letters) - length] = letters[length:]
            key = (key ^ (key >> np.uint64(29))) * _ODD + ahead * _MIX + np.uint64(1)
            found[length] = key
    return found


def _keys_of(pieces: list[str], length: int) -> np.ndarray:
    letters = np.frombuffer("".join(pieces).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    numbers: np.ndarray = _keys(letters, length)[length - 1, ::length]
    return numbers
