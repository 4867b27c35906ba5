"""What counts as a word, in every script, and numbers that stand for words and runs of words.

    "The cat, 吾輩は猫"  ->  the | cat | 吾 | 輩 | は | 猫  ->  uint64 [n]  --runs of k-->  uint64 [n - k + 1]

Scripts that put no space between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) give a segment for each
character. Where a published rule counts words, `PER_WORD` characters of such a script are taken for one: Chinese and
Japanese words are about two characters long.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import NamedTuple
from zlib import crc32

import numpy as np

PER_WORD = 2

UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_unspaced = re.compile(f"[{UNSPACED}]")
_plain = re.compile(r"[A-Za-z0-9]+")


def normalise(text: str) -> str:
    """Compatibility forms folded (NFKC) and case folded: what two spellings of the same words share."""
    return unicodedata.normalize("NFKC", text).casefold()


def segments(text: str) -> list[str]:
    """The words of a text without punctuation; one for each character of a script without spaces."""
    return (_plain if text.isascii() else _pattern()).findall(text)


def is_unspaced(text: str) -> bool:
    """Whether a quarter or more of the letters belong to scripts without spaces: the text is then cut at spaces for nothing."""
    return not text.isascii() and singles(text) * 4 > sum(map(str.isalpha, text))


def weight(text: str) -> float:
    """How many words the text has, where ``PER_WORD`` characters of a script without spaces are one."""
    return len(segments(text)) - singles(text) * (1 - 1 / PER_WORD)


def singles(text: str) -> int:
    """How many characters of scripts without spaces the text has."""
    return 0 if text.isascii() else len(_unspaced.findall(text))


def hashes(words: list[str]) -> np.ndarray:
    """A number for each word, the same on every machine and in every run: uint64 [n]."""
    known = {word: crc32(word.encode("utf-8", "surrogatepass")) for word in set(words)}
    return mixed(np.fromiter(map(known.__getitem__, words), np.uint64, len(words)))


class Words(NamedTuple):
    """A text normalised, its words, their numbers uint64 [n], and whether it is written without spaces."""

    plain: str
    words: list[str]
    numbers: np.ndarray
    unspaced: bool


@lru_cache(maxsize=4)
def words_of(text: str) -> Words:
    """The words of a text; the last few are kept, since quality, duplicates and contamination ask for the same."""
    plain = normalise(text)
    found = segments(plain)
    return Words(plain, found, hashes(found), is_unspaced(plain))


def runs(numbers: np.ndarray, length: int) -> np.ndarray:
    """A number for each run of ``length`` words: uint64 [n] -> uint64 [n - length + 1], empty where n < length."""
    return next(runs_of(numbers, [length]))


def runs_of(numbers: np.ndarray, lengths: Sequence[int]) -> Iterator[np.ndarray]:
    """``runs`` of several lengths, rising: one multiplication a word and step up to the longest, as a polynomial grows."""
    found, reached = np.zeros(len(numbers), np.uint64), 0
    with np.errstate(over="ignore"):
        for length in lengths:
            count = max(len(numbers) - length + 1, 0)
            found = found[:count]
            for i in range(reached, length):
                found = found * _ODD
                found += numbers[i : i + count]
            reached = length
            yield mixed(found)


def mixed(numbers: np.ndarray) -> np.ndarray:
    """Numbers whose every bit depends on every bit of the given: the last steps of SplitMix64 (Steele et al., 2014)."""
    x = numbers.astype(np.uint64)
    with np.errstate(over="ignore"):
        x ^= x >> np.uint64(30)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(27)
        x *= np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return x


_ODD = np.uint64(0x9E3779B97F4A7C15)


@cache
def _pattern() -> re.Pattern[str]:
    # Python's \w leaves out the marks that Hindi, Arabic or Thai vowels are written with, which would cut their words.
    every = range(0x300, 0x1F000)  # what lies beyond are variation selectors, which no word needs
    marks = [code for code in every if unicodedata.category(chr(code))[0] == "M" and not _unspaced.match(chr(code))]
    spans: list[list[int]] = []
    for code in marks:
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    held = "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in spans)
    return re.compile(f"[{UNSPACED}]|(?:[^\\W_{UNSPACED}]+[{held}]*)+")
