"""Training documents that hold what a model will be examined with: n-gram overlap with evaluation sets.

    evaluation files -> items -> their texts -> runs of 13 words -> one sorted table -> which document holds which run

After GPT-3's appendix C (arXiv 2005.14165): texts in lower case without punctuation, runs of 13 words; a text of 8 to 12
words is looked for in full. Shorter ones ("Yes", "4") stand in half of all documents, so a document counts as contaminated
by them only where it holds nothing else. In scripts without spaces a run has twice as many characters.

Departure: GPT-3 cut 200 characters around a run out of the document; here the whole document goes, and the account says
which item of which set it held.

Memory: 16 bytes for each run of the evaluation sets, so about 16 MB for a million words of questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hornbook.data.compression import inner_suffix
from hornbook.data.records import FORMATS, Fault, records
from hornbook.data.texts import strings
from hornbook.data.words import PER_WORD, runs, runs_of, words_of
from hornbook.errors import DataError, UsageError

RUN, LEAST = 13, 8


class Overlap(NamedTuple):
    """A document holds a text of evaluation item ``item`` (counted from 1) of the set ``name``. ``text``: the words in
    common, as far as one run shows them."""

    name: str
    item: int
    text: str

    def __str__(self) -> str:
        return f"{self.name}, item {self.item}: {self.text}"


class Held(NamedTuple):
    """What of an evaluation set is looked for: items, runs, and items that hold no text long enough to be looked for."""

    items: int
    runs: int
    short: int


class Contamination:
    """A table of evaluation sets that documents are held against. Build with `of`."""

    def __init__(self) -> None:
        self.sets: dict[str, Held] = {}
        self._names: list[str] = []
        self._keys: dict[int, np.ndarray] = {}  # a run's length, rising -> its numbers, sorted uint64 [n]
        self._items: dict[int, np.ndarray] = {}  # beside them: (set, item), int64 [n,2]
        self._whole: dict[bytes, tuple[int, int]] = {}  # short texts

    @classmethod
    def of(cls, sets: Mapping[str, Iterable[Iterable[str]]]) -> Contamination:
        """``sets``: name -> items -> each item's texts (its question, its passage, its answers)."""
        table = cls()
        found: dict[int, list[tuple[np.ndarray, int, int]]] = {}
        for name, items in sets.items():
            number, held = len(table._names), [0, 0, 0]
            table._names.append(name)
            for item, texts in enumerate(items, 1):
                held[0] += 1
                looked = 0
                for text in texts:
                    looked += table._learn(text, number, item, found)
                held[1] += looked
                held[2] += not looked
            table.sets[name] = Held(*held)
        for length, rows in sorted(found.items()):
            keys = np.concatenate([keys for keys, _, _ in rows])
            owners = np.concatenate([np.full((len(keys), 2), (number, item)) for keys, number, item in rows])
            order = np.argsort(keys, kind="stable")
            table._keys[length], table._items[length] = keys[order], owners[order]
        return table

    def _learn(self, text: str, number: int, item: int, found: dict[int, list[tuple[np.ndarray, int, int]]]) -> int:
        _, words, numbers, unspaced = words_of(text)
        factor = PER_WORD if unspaced else 1
        if len(words) < LEAST * factor:
            if words:
                self._whole.setdefault(_key(words), (number, item))
            return 0
        length = min(RUN * factor, len(words))
        keys = runs(numbers, length)
        found.setdefault(length, []).append((keys, number, item))
        return len(keys)

    def find(self, text: str) -> Overlap | None:
        """The first overlap of a document with any set, None where there is none."""
        _, words, numbers, unspaced = words_of(text)
        if not words:
            return None
        whole = self._whole.get(_key(words)) if len(words) < LEAST * PER_WORD else None
        if whole is not None:
            return Overlap(self._names[whole[0]], whole[1], " ".join(words))
        for length, mine in zip(self._keys, runs_of(numbers, list(self._keys)), strict=True):
            if not len(mine):
                break
            keys = self._keys[length]
            place = np.searchsorted(keys, mine)
            hit = np.flatnonzero(keys[np.minimum(place, len(keys) - 1)] == mine)
            if len(hit):
                at = int(hit[0])
                number, item = self._items[length][place[at]]
                held = words[at : at + length]
                return Overlap(self._names[number], int(item), ("" if unspaced else " ").join(held))
        return None


def texts_of_items(path: Path) -> Iterator[list[str]]:
    """The items of an evaluation file as the texts that each holds, whatever its fields are called.

    JSON lines, JSON, Parquet and CSV (also compressed): every string of a row, also in lists and objects; text: a line.
    Raises DataError on a damaged file or line, UsageError where there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"there is no evaluation file {path}", "Give the path of a file that is there.")
    format = inner_suffix(path)
    for record in records(path, format if format in FORMATS else ".txt", split="line"):
        if isinstance(record.value, Fault):
            raise DataError(f"{path}, line {record.line}: {record.value.what}", record.value.remedy)
        yield list(strings(record.value))


def _key(words: list[str]) -> bytes:
    return " ".join(words).encode("utf-8", "surrogatepass")
