"""What counts as a word, in every script, and numbers that stand for words and runs of words.

    "The cat, 吾輩は猫"  ->  the | cat | 吾 | 輩 | は | 猫  ->  uint64 [n]  --runs of k-->  uint64 [n - k + 1]

Scripts that put no space between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) give a segment for each
character. Where a published rule counts words, `PER_WORD` characters of such a script are taken for one: Chinese and
Japanese words are about two characters long.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache
from zlib import crc32

import numpy as np

PER_WORD = 2

UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
_unspaced = re.compile(f"[{UNSPACED}]")


def normalise(text: str) -> str:
    """Compatibility forms folded (NFKC) and case folded: what two spellings of the same words share."""
    return unicodedata.normalize("NFKC", text).casefold()


def segments(text: str) -> list[str]:
    """The words of a text without punctuation; one for each character of a script without spaces."""
    return _pattern().findall(text)


def is_unspaced(text: str) -> bool:
    """Whether a quarter or more of the letters belong to scripts without spaces: the text is then cut at spaces for nothing."""
    if text.isascii():
        return False
    return len(_unspaced.findall(text)) * 4 > sum(map(str.isalpha, text))


def weight(text: str) -> float:
    """How many words the text has, where ``PER_WORD`` characters of a script without spaces are one."""
    found = segments(text)
    single = len(_unspaced.findall(text))
    return len(found) - single + single / PER_WORD


def hashes(words: list[str]) -> np.ndarray:
    """A number for each word, the same on every machine and in every run: uint64 [n]."""
    plain = np.fromiter((crc32(word.encode("utf-8", "surrogatepass")) for word in words), np.uint64, len(words))
    return mixed(plain)


def runs(numbers: np.ndarray, length: int) -> np.ndarray:
    """A number for each run of ``length`` words: uint64 [n] -> uint64 [n - length + 1], empty where n < length.

    A polynomial over the words' numbers, so that a run of any length costs one multiplication a word and length.
    """
    count = max(len(numbers) - length + 1, 0)
    found = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for i in range(length):
            found *= _ODD
            found += numbers[i : i + count]
    return mixed(found)


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
    marks = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M"]
    spans: list[list[int]] = []
    for code in marks:
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    held = "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in spans)
    return re.compile(f"[{UNSPACED}]|(?:[^\\W_{UNSPACED}]|(?![{UNSPACED}])[{held}])+")
