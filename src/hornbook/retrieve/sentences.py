"""Sentences as exact spans, in English, Chinese, Japanese and what is punctuated like them.

    split('Dr. Wu paid 3.50. "Why?" he asked.')  ->  [(0, 17), (18, 34)]

Rules, not a model: a language model's answer, a table cell and a poem must all split the same way every time, and in
linear time. A span begins and ends with a visible character; spans are ordered, do not overlap, and leave out only
white space. What a rule cannot know it leaves together: two sentences in one span harm a citation less than half of one.
"""

from __future__ import annotations

import re
import unicodedata

Span = tuple[int, int]

# A run of terminators with the quotes and brackets that close after it. Every quantifier is possessive in effect: the
# classes that follow one another are disjoint, so that matching is linear.
_CLOSERS = "\"'”’»)\\]}」』）】》〉］｝〕"
_WIDE = "。！？｡؟।॥۔།"  # these end a sentence without a space after them
_END = re.compile(rf"[.!?…{_WIDE}‼⁇⁈⁉]+[{_CLOSERS}]*")
_QUOTED = re.compile(r"「[^「」\n]{0,100}」|『[^『』\n]{0,100}』|（[^（）\n]{0,100}）|\([^()\n]{0,100}\)")
_PARAGRAPH = re.compile(r"\n[ \t\u3000]*\n\s*")
_ITEM = re.compile(
    r"[ \t\u3000]*(?:[-*+•·‣▪◦–—][ \t]|[（(]?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,4})[.)）、][ \t]?|[一二三四五六七八九十]{1,3}[、．.]|[|#>])"
)
_INITIALS = re.compile(r"(?:\b[A-Za-z]\.)+\Z")
_ORDINAL = re.compile(r"(?:\A|[\n(（])[ \t]*\d{1,3}\Z")
_WORD_BEFORE = re.compile(r"[^\W\d_]+\Z")

_SHORT = (
    "dr mr mrs ms mx prof st sr jr rev hon gen col lt sgt capt gov sen rep pres mt ft vs cf al fig figs eq eqs no nos "
    "vol vols pp ed eds inc ltd co corp dept univ est approx ca resp ref refs sec ch art tab thm jan feb mar apr jun "
    "jul aug sep sept oct nov dec eg ie viz etc bzw usw nr str bd hrsg vgl dh zb"
)
_SHORT_OR_LAST = "etc inc ltd co corp jr sr al st no usw"  # these may also stand last in a sentence
_OPENING = (
    "The This That These Those It Its He She They We You I In On At A An And But However If When While There Then For "
    "As By To His Her Their Our My What Why How Who Where After Before Since Although Such No Yes"
)
_ABBREVIATIONS = frozenset(_SHORT.split())
_MAY_END = frozenset(_SHORT_OR_LAST.split())
_STARTERS = frozenset(_OPENING.split())
_NARROW = 60  # columns: a block of lines no wider is verse, a list or an address, unless a line goes on in lower case
_NARROW_WIDE_SCRIPT = 30


def split(text: str) -> list[Span]:
    """The sentences of a text, as half-open spans of its characters."""
    spans: list[Span] = []
    caseless = not any(map(str.isupper, text))  # all lower case, or no letters with case: case says nothing
    for start, end in _blocks(text):
        before = start
        for cut in _cuts(text, start, end, caseless):
            _append(spans, text, before, cut)
            before = cut
        _append(spans, text, before, end)
    return spans


def _append(spans: list[Span], text: str, start: int, end: int) -> None:
    piece = text[start:end]
    trimmed = piece.lstrip()
    start += len(piece) - len(trimmed)
    end = start + len(trimmed.rstrip())
    if start < end:
        spans.append((start, end))


def _blocks(text: str) -> list[Span]:
    """Cut at blank lines, then at line ends that part items, verses and rows."""
    blocks: list[Span] = []
    at = 0
    for gap in _PARAGRAPH.finditer(text):
        blocks += _lines(text, at, gap.start())
        at = gap.end()
    return blocks + _lines(text, at, len(text))


def _lines(text: str, start: int, end: int) -> list[Span]:
    lines = text[start:end].split("\n")
    if len(lines) == 1:
        return [(start, end)]
    widths = [_columns(line) for line in lines]
    wide_script = sum(widths) > 1.5 * sum(map(len, lines))
    narrow = max(widths) <= (_NARROW_WIDE_SCRIPT if wide_script else _NARROW)
    verse = narrow and not any(line.lstrip()[:1].islower() for line in lines[1:])
    blocks: list[Span] = []
    begin, at = start, start
    for number, line in enumerate(lines):
        at += len(line)
        if number + 1 < len(lines) and (verse or _ITEM.match(lines[number + 1]) or line.rstrip().endswith((":", "："))):
            blocks.append((begin, at))
            begin = at + 1
        at += 1
    return [*blocks, (begin, end)]


def _columns(line: str) -> int:
    return len(line) if line.isascii() else sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def _cuts(text: str, start: int, end: int, caseless: bool) -> list[int]:
    inside = iter(_QUOTED.finditer(text, start, end))
    quoted = next(inside, None)
    cuts = []
    for mark in _END.finditer(text, start, end):
        while quoted is not None and quoted.end() <= mark.start():
            quoted = next(inside, None)
        if quoted is not None and quoted.start() < mark.start() and mark.end() < quoted.end():
            continue  # within a short quotation or parenthesis: it belongs to the sentence around it
        if mark.end() < end and _ends_sentence(text, start, mark, caseless):
            cuts.append(mark.end())
    return cuts


def _ends_sentence(text: str, start: int, mark: re.Match[str], caseless: bool) -> bool:
    following = text[mark.end() : mark.end() + 40]
    signs = mark.group()
    if any(sign in _WIDE for sign in signs):
        # 「…。」と言った: a particle after the closing bracket carries the sentence on
        return (
            not (signs[-1] in "」』）" and "\u3041" <= following[:1] <= "\u309f") and following[:1] not in "、，,；;："
        )
    if not following[:1].isspace():
        return following[:1] >= "\u3000" and any(
            sign in "!?…" for sign in signs
        )  # "OK!然后": a wide script needs no space
    after = following.lstrip().lstrip("\"'“‘«([{「『（")[:1]
    if signs[0] != "." or signs.startswith(".."):
        return not after.islower() or (caseless and signs[0] in "!?")
    word = text[max(start, mark.start() - 24) : mark.start()]
    if not word or word[-1].isspace():  # " . " stands alone: typed by hand, as in old collections
        return True
    if after.islower() and not caseless:
        return False
    if _ORDINAL.search(word):  # "1. Introduction"
        return False
    next_word = following.split(maxsplit=1)[0].strip(_CLOSERS.replace("\\", "") + "“‘,;:") if following.strip() else ""
    if _INITIALS.search(word + "."):  # "J. Smith", "U.S. Navy"
        return next_word in _STARTERS and not (len(word) < 2 or word[-2].isspace())
    last = _WORD_BEFORE.search(word)
    if last and last.group().lower() in _ABBREVIATIONS and signs == ".":
        return last.group().lower() in _MAY_END and next_word in _STARTERS
    return True
