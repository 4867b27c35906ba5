"""WikiTableQuestions' official comparison (arXiv 1508.00305): whether a list of values denotes the right set of values.

A value is a number, a date or a text. The lists agree where, each without its doubles, they are as long as each other and
every right value has its like among the others. Alike are

    texts     once accents, citations ([3], †), a note in brackets at the end, outer quotes, a final full stop and capitals
              are taken away, and quotes, dashes and spaces are made one kind
    numbers   within a millionth
    dates     year, month and day, each of which may be unknown on both sides
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hornbook.evals.filters import IN_WORDS, number_in_words

Date: TypeAlias = "tuple[int | None, int | None, int | None]"

_QUOTES = str.maketrans(dict.fromkeys("‘’´`", "'") | dict.fromkeys("“”", '"') | dict.fromkeys("‐‑‒–—−", "-"))
_CITATIONS = re.compile(r"((?<!^)\[[^\]]*\]|\[\d+\]|[•♦†‡*#+])*$")
_NOTES = re.compile(r"(?<!^)( \([^)]*\))*$")
_QUOTED = re.compile(r'^"([^"]*)"$')
_NAMES = ("january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
          "december")  # fmt: skip
_MONTHS = {name[:letters]: i for i, name in enumerate(_NAMES, 1) for letters in (3, len(name))} | {"sept": 9}
_THOUSANDS = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?")
_DURATION = re.compile(r"(\d+) (?:seconds?|minutes?|hours?|days?|weeks?|months?|years?)")
_DAY_MONTH = re.compile(r"(\d{1,2})(?:st|nd|rd|th)?(?: of)? ([a-z]+)\.?,?(?: (\d{4}))?")
_MONTH_DAY = re.compile(r"([a-z]+)\.? (\d{1,2})(?:st|nd|rd|th)?(?:,? (\d{4}))?")
_MONTH_YEAR = re.compile(r"([a-z]+)\.?,? (\d{4})")


def same(text: str, golds: Sequence[str]) -> float:
    """1.0 where a text, with | between its values, denotes the list of the right ones, else 0.0. A right value may be followed
    by a tab and by the number or the date that it is (see ``value``)."""
    said = [value(one.strip()) for one in text.split("|")]
    return float(agree([value(one, canon) for one, _, canon in (gold.partition("\t") for gold in golds)], said))


@dataclass(frozen=True, slots=True)
class Value:
    """``text`` is normalised; at most one of the others is there."""

    text: str
    number: float | None = None
    date: Date | None = None

    def key(self) -> object:
        """Values with the same key count once."""
        return self.number if self.number is not None else self.date or self.text

    def alike(self, other: Value) -> bool:
        if self.text == other.text:
            return True
        if self.number is not None and other.number is not None:
            return abs(self.number - other.number) < 1e-6
        return self.date is not None and self.date == other.date


def normalised(text: str) -> str:
    """A text as values are compared."""
    text = "".join(char for char in unicodedata.normalize("NFKD", text) if unicodedata.category(char) != "Mn")
    text = text.translate(_QUOTES)
    before = None
    while text != before:
        before = text
        text = _CITATIONS.sub("", text.strip())
        text = _NOTES.sub("", text.strip())
        text = _QUOTED.sub(r"\1", text.strip())
    return " ".join(text.removesuffix(".").split()).lower()


def value(text: str, canon: str = "") -> Value:
    """What a text stands for. ``canon``: its number, or its date as "2001-05-xx", where the data tells it."""
    canon = canon or text
    number = _number(canon)
    if number is not None:
        return Value(normalised(text), number)
    date = _date(canon)
    if date and date[1] is date[2] is None and date[0] is not None:
        return Value(normalised(text), float(date[0]))  # a year alone is a number
    return Value(normalised(text), date=date)


def canonical(text: str) -> str:
    """The number or the date that a right answer is, where the data does not tell: "1,694" is 1694, "3 years" is
    3, "May 5, 2001" is 2001-5-5. Empty where it is neither.

    The official files tell it, by Stanford CoreNLP, for all right answers; this knows the forms that nearly all of them have.
    """
    text = normalised(text)
    if _THOUSANDS.fullmatch(text):
        return text.replace(",", "")
    if IN_WORDS.fullmatch(text):
        return number_in_words(text)
    if found := _DURATION.fullmatch(text):
        return found[1]
    for pattern, day, month, year in ((_DAY_MONTH, 1, 2, 3), (_MONTH_DAY, 2, 1, 3), (_MONTH_YEAR, None, 1, 2)):
        found = pattern.fullmatch(text)
        if found and found[month] in _MONTHS and (day is None or 1 <= int(found[day]) <= 31):
            return f"{found[year] or 'xx'}-{_MONTHS[found[month]]}-{found[day] if day else 'xx'}"
    return ""


def agree(right: Sequence[Value], said: Sequence[Value]) -> bool:
    """Whether two lists denote the same."""
    right, said = _once(right), _once(said)
    return len(right) == len(said) and all(any(one.alike(other) for other in said) for one in right)


def _once(values: Sequence[Value]) -> list[Value]:
    first: dict[object, Value] = {}
    for one in values:
        first.setdefault(one.key(), one)
    return list(first.values())


def _number(text: str) -> float | None:
    try:
        number = math.nan if "_" in text else float(text)  # Python would take 1_000 for a number
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return float(round(number)) if abs(number - round(number)) < 1e-6 else number


def _date(text: str) -> Date | None:
    parts = text.lower().split("-")
    if len(parts) != 3 or "_" in text:
        return None
    try:
        year = None if parts[0] in ("xx", "xxxx") else int(parts[0])
        month, day = (None if part == "xx" else int(part) for part in parts[1:])
    except ValueError:
        return None
    sound = (month is None or 1 <= month <= 12) and (day is None or 1 <= day <= 31)
    return (year, month, day) if sound and (year, month, day) != (None, None, None) else None
