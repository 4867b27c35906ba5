"""What is read out of a written answer before it is judged: functions from text to text that are put one after the other.

chain(after("</think>"), last_number)("... so that is 4 + 5 = 9.")  ->  "9."
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

Filter: TypeAlias = Callable[[str], str]

NOTHING = "[invalid]"  # where a pattern is not found: what no right answer is, as in lm-evaluation-harness

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n`]*\n(.*?)(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)


def chain(*filters: Filter) -> Filter:
    """One filter that is all of these, in their order; of none, the text as it is."""

    def chained(text: str) -> str:
        for one in filters:
            text = one(text)
        return text

    return chained


def verbatim(text: str) -> str:
    """The text as it was written."""
    return text


def strip(text: str) -> str:
    """Without white space at both ends."""
    return text.strip()


def first_line(text: str) -> str:
    """The first line that holds anything, without white space at its ends."""
    return text.strip().partition("\n")[0].rstrip()


def last_line(text: str) -> str:
    """The last line that holds anything, without white space at its ends."""
    return text.strip().rpartition("\n")[2].lstrip()


def before(*marks: str) -> Filter:
    """What stands before the first of these marks; all of it where there is none."""
    ends = re.compile("|".join(re.escape(mark) for mark in marks))
    return lambda text: ends.split(text, maxsplit=1)[0]


def after(mark: str) -> Filter:
    """What follows the last such mark, without white space at its beginning; the text as it is where there is none."""
    return lambda text: text.rpartition(mark)[2].lstrip() if mark in text else text


def regex(pattern: str, *, which: int = 0, otherwise: str = NOTHING) -> Filter:
    """The match of a pattern: its first group that holds something, or all of it where it has no groups.

    ``which``: the how-manyth match, from 0; -1 is the last. Without white space at its ends; ``otherwise`` where there is no
    such match. Raises re.error where the pattern is none.
    """
    compiled = re.compile(pattern)

    def matched(text: str) -> str:
        found = compiled.findall(text)
        if not -len(found) <= which < len(found):
            return otherwise
        match = found[which]
        if isinstance(match, tuple):
            match = next((group for group in match if group), otherwise)
        return str(match).strip()

    return matched


# The last number of a text, with its signs: "$1,200." too. The pattern is the one GSM8K's scores are known by.
last_number: Filter = regex(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", which=-1)


def code_block(text: str) -> str:
    """What stands in the first fenced block of Markdown, open at its end or not; the text as it is where there is none."""
    found = _FENCE.search(text)
    return found[2] if found else text


_UNITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
          "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: i for i, word in enumerate(_UNITS)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORD = rf"(?:{'|'.join(sorted([*_SMALL, *_LARGE, 'hundred'], key=len, reverse=True))})"
IN_WORDS = re.compile(rf"\b{_WORD}(?:(?:[\s,-]|\band\b)+{_WORD})*\b")


def number_in_words(text: str) -> str:
    """The first number that is written in English words, in digits: "two hundred and forty-two" is "242"."""
    found = IN_WORDS.search(text.lower())
    if not found:
        return NOTHING
    whole = part = 0  # of "five million two hundred", 5,000,000 and what has no thousands after it yet
    for word in re.findall(_WORD, found[0]):
        if word in _LARGE:
            whole, part = whole + max(part, 1) * _LARGE[word], 0
        else:
            part = max(part, 1) * 100 if word == "hundred" else part + _SMALL[word]
    return str(whole + part)


# For files that name a filter.
NAMED: Mapping[str, Filter] = {
    "verbatim": verbatim, "strip": strip, "first-line": first_line, "last-line": last_line, "last-number": last_number,
    "code-block": code_block,
}  # fmt: skip
