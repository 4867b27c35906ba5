"""Does a stretch of a document say what a sentence says? A score from 0 to 1, made so that doubt counts against.

    score = coverage · (1 - ORDER + ORDER · order)       0 where a veto speaks

coverage  the weighted share (TermWeights) of the sentence's content terms that the source holds. After the vetoes it
          falls below 1 for scripts without spaces only, whose pairs of characters break where something was left out.
order     how much of the sentence comes in the source's order: longest common subsequence of the terms over their
          number. "A owns B" against "B owns A" shares every word.
vetoes    a content word (in scripts without spaces: a character) or a name that the source does not have; a number that
          it does not have, compared by value; a negation more or less, or over other words; a word where the source has
          its opposite ("increased" for "decreased"); a place or time under another preposition ("within Paris" for
          "near Paris"); a leading yes or no against the sentence's own polarity; a statement of not knowing.

A paraphrase in other words fails, and is meant to: a true sentence withheld costs a quotation in its place, a false one
with a citation costs the reader's trust. An embedding's cosine is left out because it cannot tell these cases apart:
docs/decisions/0007-citations.md has the measurement. The threshold is calibrated on sentences of real documents altered
in just these ways, and on true ones cut short: benchmarks/support.py, docs/results/ask.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from hornbook.rag.language import TermWeights, claim_terms, content_terms

THRESHOLD = 0.85
ORDER = 0.3
_FEWEST_TERMS = 2  # below that a sentence ("Yes.", "It is.") says nothing that a source could hold

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], start=2
    )  # without "one": "one of them" is no count
} | {"twenty": "20", "thirty": "30", "forty": "40", "fifty": "50", "hundred": "100", "thousand": "1000"}
_WORD_NUMBER = re.compile(rf"\b(?:{'|'.join(_WORD_NUMBERS)})\b", re.IGNORECASE)
_HAN_DIGITS = {digit: str(value) for value, digit in enumerate("〇一二三四五六七八九")} | {"两": "2"}
_HAN_NUMBER = re.compile(
    "(?:[〇一二两三四五六七八九]?[十百千万亿][〇零一二两三四五六七八九十百千万亿]*|[〇零一二三四五六七八九]{2,}|[二两三四五六七八九])(?=[年月日个次名人岁位种座部支届项天小分秒公元米%％])"
)

_NEGATION = re.compile(
    r"\b(?:not|no|never|none|neither|nor|cannot|without|nobody|nothing|nowhere|hardly|unable|lacks?|fail(?:s|ed)? to)\b"
    r"|n['’]t\b|不|没|無|无|非|未|别|ない|ません|なかった|ず[、。]"
)
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_PARTICLES = frozenset("的了是在也都而且和与就等其它他她这那所以因为有个之於于及又则，。、；：")
_NOT = frozenset("不没無无非未别")
_NOT_NEGATION = re.compile(
    r"\bnot only\b|\bno longer than\b|\bno doubt\b|\bno\. ?\d|不仅|不但|不断|不少|不同|不久|不过|无论|非常|未来|别墅|别名|特别|分别|区别|类别|级别|性别|个别|"
    r"非洲|无线|不只|不得不|差不多"
)
_UNKNOWING = re.compile(
    r"\b(?:unclear|not clear|unknown|not (?:explicitly |directly )?(?:stated?|mention(?:ed)?|specif(?:y|ied)|provided?)|"
    r"(?:do|does|did)(?: not|n['’]t) (?:explicitly |directly )?(?:state|mention|specify|provide|say|contain|answer))\b"
    r"|没有(?:提到|提及|说明|回答)|不清楚|无法确定",
    re.IGNORECASE,
)
_WORD = re.compile(r"[^\W\d_]+")
_SCOPE = 3  # content terms that an English negation reaches
_CLAUSE_END = re.compile(r"[,;:!?()，；：。！？]|\.\s|\b(?:but|and|while|although|though|however|because)\b")
# Of and for are left out: they join a name to anything. In, on, at, within and inside place it alike.
_PREPOSITIONS = (
    "in on at by from to near within under over before after between against with without outside inside until since"
)
_ALIKE = {"on": "in", "at": "in", "within": "in", "inside": "in"}
_PLACED = re.compile(
    rf"\b((?i:{'|'.join(_PREPOSITIONS.split())}))\s+(?:(?i:the|a|an|its|their|his|her)\s+)?((?:[A-Z]|\d)[\w.,%-]*)"
)
_LEADING = re.compile(r"\A\s*(yes|no|是的?|不是?|没有)\b\s*[,，.:：。!！]\s*", re.IGNORECASE)

_OPPOSITES = """
increase decrease|increased decreased|increases decreases|rise fall|rises falls|rose fell|more less|more fewer|most least
higher lower|high low|highest lowest|larger smaller|large small|largest smallest|longer shorter|longest shortest
older younger|oldest youngest|faster slower|better worse|best worst|before after|above below|over under|positive negative
win lose|wins loses|won lost|true false|legal illegal|allowed prohibited|allowed forbidden|permitted prohibited
possible impossible|safe dangerous|safe unsafe|improved worsened|first last|north south|northern southern|east west
eastern western|male female|men women|maximum minimum|begin end|began ended|always never|same different|all none
able unable|sufficient insufficient|significant insignificant|significantly insignificantly|open closed|early late
earlier later|with without|include exclude|includes excludes|included excluded|accepted rejected|success failure
增加 减少|上升 下降|提高 降低|上涨 下跌|合法 非法|允许 禁止|胜利 失败|最大 最小|最高 最低|最多 最少|最早 最晚|以前 以后|之前 之后
北部 南部|东部 西部|以上 以下|开始 结束|成功 失败|男性 女性|高于 低于|大于 小于|多于 少于
"""


@dataclass(frozen=True, slots=True)
class Clause:
    terms: frozenset[str]
    negated: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """What a text asserts, in the parts that are compared."""

    terms: tuple[str, ...]  # content terms in order, numbers aside
    numbers: frozenset[str]
    names: frozenset[str]  # as content terms
    sides: frozenset[str]  # words that have an opposite
    negations: int
    denied: frozenset[str] = frozenset()  # terms that follow a negation within its clause
    asserted: frozenset[str] = frozenset()  # terms that do not
    placed: frozenset[tuple[str, str]] = frozenset()  # (preposition, first term of the name or number after it)
    characters: frozenset[str] = frozenset()  # of scripts without spaces
    clauses: tuple[Clause, ...] = ()

    def foreign_to(self, parts: Sequence[Statement], besides: set[str]) -> bool:
        """Whether it says something in a word that the source does not have.

        Of scripts without spaces the single character is the word: pairs are broken wherever something was left out.
        But a negation and what it stands before belong together ("不能").
        """
        held = {term for part in parts for term in part.terms}
        foreign = set(self.terms) - held - besides
        if any(not _UNSPACED.match(term) for term in foreign):
            return True
        characters = {character for part in parts for character in part.characters}
        return bool(self.characters - characters - _PARTICLES) or any(term[0] in _NOT for term in foreign)


def support(sentence: str, source: Sequence[str], *, context: str = "", weights: TermWeights | None = None) -> float:
    """How well ``source`` (its sentences, in order) supports ``sentence``, 0 to 1; THRESHOLD is where it counts.

    context: what the source stands under (title, section) and what the question named: it may supply a name that the
    source calls "it", and nothing else.
    """
    lead = _LEADING.match(sentence)
    bare = sentence[lead.end() :] if lead else sentence
    claim = statement(bare, claim=True)
    if (
        not claim.terms
        or len(claim.terms) + len(claim.numbers) < _FEWEST_TERMS
        or (_UNKNOWING.search(bare) and not _UNKNOWING.search(" ".join(source)))
    ):
        return 0.0
    if lead and (lead.group(1).lower() in ("yes", "是", "是的")) == bool(claim.negations):
        return 0.0
    parts = [statement(text) for text in source]
    held = {term for part in parts for term in part.terms}
    around = set(content_terms(context))
    if _vetoed(claim, parts, held, around):
        return 0.0
    weigh = weights or TermWeights()
    known = held | (around & claim.names)
    total = sum(weigh(term) for term in claim.terms)
    coverage = sum(weigh(term) for term in claim.terms if term in known) / total
    order = _common(claim.terms, [term for part in parts for term in part.terms]) / len(claim.terms)
    return coverage * (1 - ORDER + ORDER * order)


def _vetoed(claim: Statement, parts: Sequence[Statement], held: set[str], around: set[str]) -> bool:
    if claim.numbers - {number for part in parts for number in part.numbers}:
        return True
    if claim.foreign_to(parts, around & claim.names):
        return True
    sides = {side for part in parts for side in part.sides}
    if any(side not in sides and _opposites()[side] & sides for side in claim.sides):
        return True
    if not any(part.clauses for part in parts):
        return True
    # What the source only denies, the claim must not assert; what the claim denies, the source must deny in part.
    denied = {term for part in parts for term in part.denied}
    only_denied = denied - {term for part in parts for term in part.asserted}
    if claim.asserted & only_denied or (claim.denied and not claim.denied & denied):
        return True
    # "within Paris" is not "near Paris".
    placed = {pair for part in parts for pair in part.placed}
    where = {name for _, name in placed}
    if any(name in where and (preposition, name) not in placed for preposition, name in claim.placed):
        return True
    # Of several clauses, the one that the claim is nearest to must be as negative as the claim itself.
    wanted = set(claim.terms)
    if claim.negations > max(parts, key=lambda part: len(wanted & set(part.terms))).negations:
        return True
    clauses = [clause for part in parts for clause in part.clauses]
    nearest = max(clauses, key=lambda clause: len(wanted & clause.terms))
    own = {clause.negated for clause in claim.clauses} if len(claim.clauses) > 1 else {claim.negations > 0}
    return nearest.negated not in own


@lru_cache(maxsize=4096)
def statement(text: str, *, claim: bool = False) -> Statement:
    """Take a sentence apart. ``claim``: leave out the words of reporting ("the study found that")."""
    text = unicodedata.normalize("NFKC", text)
    terms = tuple(term for term in (claim_terms if claim else content_terms)(text) if not _is_number(term))
    lower = _NOT_NEGATION.sub(" ", text.lower())
    words = set(_WORD.findall(lower)) if " " in text else set()
    sides = frozenset(side for side in _opposites() if (side in words if side.isascii() else side in text))
    denied = _denied(lower)
    return Statement(
        terms,
        frozenset(_numbers(text)),
        frozenset(_names(text)),
        sides,
        len(_NEGATION.findall(lower)),
        frozenset(denied),
        frozenset(terms) - denied | _asserted_twice(terms, denied, lower),
        frozenset(_placed(text)),
        frozenset(_UNSPACED.findall(text)) - _HAN_DIGITS.keys() - set("十百千万亿"),
        tuple(
            Clause(frozenset(content_terms(clause)), bool(_NEGATION.search(clause)))
            for clause in _CLAUSE_END.split(lower)
            if clause.strip()
        ),
    )


def _denied(lower: str) -> set[str]:
    """The content terms that follow an English negation within its clause, at most ``_SCOPE`` of them."""
    denied: set[str] = set()
    for match in _NEGATION.finditer(lower):
        if match.group()[0].isascii():
            clause = _CLAUSE_END.split(lower[match.end() :], maxsplit=1)[0]
            denied.update(content_terms(clause)[:_SCOPE])
    return denied


def _asserted_twice(terms: Sequence[str], denied: set[str], lower: str) -> set[str]:
    """Denied terms that the sentence also says elsewhere: more often than in the scope of a negation."""
    scopes = len(_NEGATION.findall(lower))
    return {term for term in denied if terms.count(term) > scopes}


def _placed(text: str) -> set[tuple[str, str]]:
    """(preposition, first term) of names and numbers that a preposition stands before: ("near", "destin")."""
    found: set[tuple[str, str]] = set()
    for match in _PLACED.finditer(text):
        terms = content_terms(match.group(2))
        if terms:
            word = match.group(1).lower()
            found.add((_ALIKE.get(word, word), terms[0]))
    return found


def _numbers(text: str) -> set[str]:
    """Numbers as digits without grouping: "1,099", "twelve", "十二年" are 1099, 12, 12."""
    found = {match.replace(",", "").rstrip(".") for match in _NUMBER.findall(text)}
    found |= {_WORD_NUMBERS[word.lower()] for word in _WORD_NUMBER.findall(text)}
    return found | {_han_value(match) for match in _HAN_NUMBER.findall(text)}


def _is_number(term: str) -> bool:
    """Whether a term is a number, which is compared by its value and not as a word."""
    return (
        term[0].isdigit()
        or term in _number_terms()
        or all(char in _HAN_DIGITS or char in "十百千万亿" for char in term)
    )


@cache
def _number_terms() -> frozenset[str]:
    return frozenset(content_terms(" ".join(_WORD_NUMBERS)))


def _han_value(text: str) -> str:
    """ "十二" -> "12", "一九九八" -> "1998"; what mixes units in another way stays as it is written."""
    if all(char in _HAN_DIGITS or char == "零" for char in text):
        return "".join(_HAN_DIGITS.get(char, "0") for char in text)
    if re.fullmatch("[一二两三四五六七八九]?十[一二三四五六七八九]?", text):
        tens, ones = text.split("十")
        return str(int(_HAN_DIGITS[tens] if tens else 1) * 10 + int(_HAN_DIGITS[ones] if ones else 0))
    return text


def _names(text: str) -> set[str]:
    """The content terms of words that are capitalised although they do not begin the sentence, or have capitals inside."""
    names: set[str] = set()
    for place, match in enumerate(re.finditer(r"[^\W\d_][\w’'-]*", text)):
        word = match.group()
        inside = any(char.isupper() for char in word[1:])
        if (word[0].isupper() and place > 0) or inside:
            names.update(content_terms(word))
    return names


def _common(claim: Sequence[str], source: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(source) + 1)
    for term in claim:
        before = 0
        for place, other in enumerate(source, start=1):
            held = row[place]
            row[place] = before + 1 if term == other else max(row[place], row[place - 1])
            before = held
    return row[-1]


@cache
def _opposites() -> dict[str, set[str]]:
    table: dict[str, set[str]] = {}
    for pair in _OPPOSITES.replace("\n", "|").strip("|").split("|"):
        one, other = pair.split()
        table.setdefault(one, set()).add(other)
        table.setdefault(other, set()).add(one)
    return table
