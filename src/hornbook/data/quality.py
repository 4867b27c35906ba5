"""Whether a document looks like something that a person wrote to be read: the published rules, each with its source.

    gopher.*    MassiveText, arXiv 2112.11446, appendix A.1.1 and table A1
    c4.*        C4, arXiv 1910.10683, section 2.2 (its line rules, which change a document, are in data/lines.py)
    fineweb.*   FineWeb, arXiv 2406.17557, section 3.5

A rule measures one number; the document stays where the number lies within the rule's bounds, both included. A rule that
means nothing for a text measures None and lets it pass: Chinese has no spaces, so no mean length of words, and the list
of stop words is English. What the others count there is said in data/profile.py.

Departures: the top and repeated runs count letters without spaces and punctuation; of a repeated run the first
occurrence is not counted; the FineWeb rules' "short line" is 30 columns, so 15 Chinese characters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from hornbook.data.profile import Profile, repeated
from hornbook.errors import UsageError

GOPHER, C4, FINEWEB = "arXiv 2112.11446, A.1.1", "arXiv 1910.10683, 2.2", "arXiv 2406.17557, 3.5"
_STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])


class Rule(NamedTuple):
    """Keeps what measures from ``low`` to ``high``. ``what`` says what is measured."""

    source: str
    what: str
    measure: Callable[[Profile], float | None]
    low: float | None = None
    high: float | None = None


class Refusal(NamedTuple):
    """Why a document was refused: the rule's name, what it measured, and the bound that this passed."""

    rule: str
    value: float
    bound: float

    def __str__(self) -> str:
        return f"{self.rule}: {self.value:.4g} is {'below' if self.value < self.bound else 'above'} {self.bound:g}"


def _mean_word(p: Profile) -> float | None:
    return None if p.unspaced or not p.tokens else sum(map(len, p.tokens)) / len(p.tokens)


def _symbols(p: Profile) -> float:
    signs = max(p.text.count("#"), p.text.count("...") + p.text.count("…"))
    return signs / max(p.words, 1.0)


def _alphabetic(p: Profile) -> float | None:
    return None if p.unspaced or not p.tokens else sum(any(map(str.isalpha, t)) for t in p.tokens) / len(p.tokens)


def _stop_words(p: Profile) -> float | None:
    if p.unspaced or p.language not in ("en", "unknown"):
        return None
    return float(sum(token.lower() in _STOP_WORDS for token in p.tokens))


def _holds(p: Profile, *phrases: str) -> float:
    text = p.text.lower()
    return float(sum(text.count(phrase) for phrase in phrases))


# Cheap rules first: the first that refuses is the one that is told.
RULES: dict[str, Rule] = {
    "gopher.words": Rule(GOPHER, "words", lambda p: p.words, 50, 100_000),
    "gopher.word-length": Rule(GOPHER, "mean length of a word", _mean_word, 3, 10),
    "gopher.symbols": Rule(GOPHER, "hash signs or ellipses, to a word", _symbols, high=0.1),
    "gopher.bullets": Rule(GOPHER, "lines that begin with a bullet", Profile.bullets, high=0.9),
    "gopher.ellipses": Rule(GOPHER, "lines that end with an ellipsis", Profile.ellipses, high=0.3),
    "gopher.alphabetic": Rule(GOPHER, "words with a letter", _alphabetic, low=0.8),
    "gopher.stop-words": Rule(GOPHER, "the, be, to, of, and, that, have, with (English)", _stop_words, low=2),
    "gopher.lines": Rule(GOPHER, "lines that came before", lambda p: repeated(p.lines, characters=False), high=0.3),
    "gopher.paragraphs": Rule(
        GOPHER, "paragraphs that came before", lambda p: repeated(p.paragraphs, characters=False), high=0.3
    ),
    "gopher.line-characters": Rule(
        GOPHER, "characters in lines that came before", lambda p: repeated(p.lines, characters=True), high=0.2
    ),
    "gopher.paragraph-characters": Rule(
        GOPHER, "characters in paragraphs that came before", lambda p: repeated(p.paragraphs, characters=True), high=0.2
    ),
    **{
        f"gopher.top-{n}": Rule(
            GOPHER, f"letters in the commonest run of {n} words", partial(Profile.commonest_run, length=n), high=bound
        )
        for n, bound in ((2, 0.2), (3, 0.18), (4, 0.16))
    },
    **{
        f"gopher.repeated-{n}": Rule(
            GOPHER, f"letters in runs of {n} words that came before", partial(Profile.repeated_run, length=n), high=bound
        )
        for n, bound in ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
    },
    "c4.sentences": Rule(C4, "sentences", lambda p: float(p.sentences), low=3),
    "c4.lorem-ipsum": Rule(C4, "lorem ipsum", lambda p: _holds(p, "lorem ipsum"), high=0),
    "c4.braces": Rule(C4, "curly brackets", lambda p: _holds(p, "{", "}"), high=0),
    "fineweb.ended-lines": Rule(FINEWEB, "lines that end as a sentence does", Profile.ended, low=0.12),
    "fineweb.repeated-lines": Rule(
        FINEWEB, "characters in lines that came before", lambda p: repeated(p.lines, characters=True), high=0.1
    ),
    "fineweb.short-lines": Rule(FINEWEB, "lines shorter than 30 columns", partial(Profile.short, width=30), high=0.67),
}  # fmt: skip


class Quality:
    """A choice of rules. ``rules``: names, or families ("gopher"); ``bounds``: {"gopher.words": (20, None)} instead of theirs.

    ``forbidden``: words of which none may stand in a document (C4 used a published list of English bad words; there is
    none here). Raises UsageError on a rule that there is not.
    """

    def __init__(
        self,
        rules: Sequence[str] = ("gopher", "c4", "fineweb"),
        *,
        bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
        forbidden: Sequence[str] = (),
    ) -> None:
        bounds = dict(bounds or {})
        known = {*RULES, *(name.split(".")[0] for name in RULES)}
        for name in (*rules, *bounds):
            if name not in known or (name in bounds and name not in RULES):
                raise UsageError(f"there is no quality rule {name!r}", f"There are {', '.join(RULES)}.")
        self.rules = {
            name: rule if name not in bounds else rule._replace(low=bounds[name][0], high=bounds[name][1])
            for name, rule in RULES.items()
            if name in rules or name.split(".")[0] in rules or name in bounds
        }
        self._asked = (tuple(rules), bounds, tuple(forbidden))
        if forbidden:
            lowered = tuple(word.lower() for word in forbidden)
            self.rules["c4.forbidden"] = Rule(C4, "forbidden words", partial(_forbidden, words=lowered), high=0)

    def __reduce__(self) -> tuple[Any, ...]:
        """By what was asked for: rules are functions, which no process can send to another."""
        return _again, self._asked

    def refuse(self, text: str, language: str = "unknown") -> Refusal | None:
        """The first rule that the text breaks, None where it may stay."""
        profile = Profile(text, language)
        for name, rule in self.rules.items():
            value = rule.measure(profile)
            if value is None:
                continue
            if rule.low is not None and value < rule.low:
                return Refusal(name, value, rule.low)
            if rule.high is not None and value > rule.high:
                return Refusal(name, value, rule.high)
        return None


def _again(rules: tuple[str, ...], bounds: dict[str, Any], forbidden: tuple[str, ...]) -> Quality:
    return Quality(rules, bounds=bounds, forbidden=forbidden)


def _forbidden(profile: Profile, words: tuple[str, ...]) -> float:
    """Whole words in spaced scripts, characters in a row elsewhere."""
    text = profile.text.lower()
    held = set(profile.segments)
    return float(sum(word in held if word.isascii() and word.isalpha() else word in text for word in words))
