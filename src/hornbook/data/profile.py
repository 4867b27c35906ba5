"""What quality rules measure of a text: counted once, asked by many rules.

Everything that is counted in words counts `PER_WORD` characters of a script without spaces as one word (data/words.py),
and a run of n words is there a run of n * PER_WORD characters; widths count a wide character as two.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cached_property

import numpy as np

from hornbook.data.words import PER_WORD, runs, singles, words_of

# What ends a sentence, in the scripts at hand; closing quotes and brackets may follow it.
ENDS = ".!?\u2026。！？｡…؟۔।॥։።"
_CLOSING = "\"'”’»›)]）］」』】〉》｝"
_BULLETS = tuple("\u2022\u2023\u25b6\u25c0\u25e6\u25a0\u25a1\u25aa\u25ab\u2013-*·・")
_ELLIPSES = ("...", "…", "。。。")
_SENTENCE_END = re.compile(rf"[{re.escape(ENDS)}]+[{re.escape(_CLOSING)}]*(?=\s|$)|[。！？｡]")


class Profile:
    """A text as rules see it. ``language``: an ISO 639-1 code or "unknown". Values are computed when first asked."""

    def __init__(self, text: str, language: str = "unknown") -> None:
        self.text = text
        self.language = language
        self._unrepeated: float = float("inf")  # runs of so many words or more do not come twice

    @cached_property
    def unspaced(self) -> bool:
        """Whether enough is of a script without spaces for rules about words as such to mean nothing."""
        return words_of(self.text).unspaced

    @cached_property
    def words(self) -> float:
        return len(self.segments) - singles(words_of(self.text).plain) * (1 - 1 / PER_WORD)

    @cached_property
    def tokens(self) -> list[str]:
        """What stands between spaces, punctuation included: what Gopher's rules count as words in spaced scripts."""
        return self.text.split()

    @cached_property
    def lines(self) -> list[str]:
        """Lines that hold something, without the spaces around."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        return [part for part in map(str.strip, re.split(r"\n\s*\n", self.text)) if part]

    @cached_property
    def sentences(self) -> int:
        return max(len(_SENTENCE_END.findall(self.text)), 1 if self.text.strip() else 0)

    @cached_property
    def segments(self) -> list[str]:
        """Words without punctuation, in lower case; characters of a script without spaces each by itself."""
        return words_of(self.text).words

    @cached_property
    def _hashes(self) -> np.ndarray:
        return words_of(self.text).numbers

    @cached_property
    def _sizes(self) -> np.ndarray:
        """Characters of each segment, int64 [n]."""
        return np.fromiter(map(len, self.segments), np.int64, len(self.segments))

    # -------------------------------------------------------------------------------------------- fractions, 0 to 1

    def fraction_of_lines(self, *, starting: tuple[str, ...] = (), ending: tuple[str, ...] = ()) -> float:
        if not self.lines:
            return 0.0
        found = sum(
            bool(starting and line.startswith(starting) or ending and line.endswith(ending)) for line in self.lines
        )
        return found / len(self.lines)

    def bullets(self) -> float:
        return self.fraction_of_lines(starting=_BULLETS)

    def ellipses(self) -> float:
        return self.fraction_of_lines(ending=_ELLIPSES)

    def ended(self) -> float:
        """Lines that end as a sentence does."""
        return sum(map(ends_sentence, self.lines)) / len(self.lines) if self.lines else 0.0

    def short(self, width: int) -> float:
        """Lines narrower than ``width`` columns."""
        return sum(columns(line, width) < width for line in self.lines) / len(self.lines) if self.lines else 0.0

    def repeated_run(self, length: int) -> float:
        """Letters inside runs of ``length`` words that came before in the text, each letter counted once."""
        size = length * (PER_WORD if self.unspaced else 1)
        if size >= self._unrepeated:
            return 0.0
        found = runs(self._hashes, size)
        order = np.argsort(found, kind="stable")
        again = order[1:][found[order[1:]] == found[order[:-1]]]  # of equal runs all but the first
        if not len(again):
            self._unrepeated = size  # then no longer run is repeated either
            return 0.0
        edges = np.zeros(len(self._sizes) + 1, np.int64)
        np.add.at(edges, again, 1)
        np.add.at(edges, again + size, -1)
        inside = np.cumsum(edges[:-1]) > 0
        return float(self._sizes[inside].sum() / self._sizes.sum())

    def commonest_run(self, length: int) -> float:
        """Letters in the most frequent run of ``length`` words, times how often it comes; 0 where none comes twice."""
        size = length * (PER_WORD if self.unspaced else 1)
        found = runs(self._hashes, size)
        if size >= self._unrepeated or not len(found):
            return 0.0
        _, first, count = np.unique(found, return_index=True, return_counts=True)
        most = int(count.max())
        if most < 2:
            return 0.0
        ends = np.concatenate([[0], np.cumsum(self._sizes)])
        starts = first[count == most]
        letters = int((ends[starts + size] - ends[starts]).max())
        return min(letters * most / int(self._sizes.sum()), 1.0)


def repeated(parts: list[str], *, characters: bool) -> float:
    """The fraction of parts (lines, paragraphs) that came before, or of the characters in them."""
    if not parts:
        return 0.0
    seen: set[str] = set()
    again = total = 0
    for part in parts:
        size = len(part) if characters else 1
        total += size
        again += size if part in seen else 0
        seen.add(part)
    return again / total


def ends_sentence(line: str) -> bool:
    """Whether a line ends as a sentence does, quotes and brackets after the end allowed."""
    bare = line.rstrip(_CLOSING)
    return bare[-1:] in ENDS if bare else False


def columns(line: str, enough: int) -> int:
    """The width of a line, a wide East Asian character taken for two; exact only below ``enough``."""
    if len(line) >= enough or line.isascii():
        return len(line)
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in line)
