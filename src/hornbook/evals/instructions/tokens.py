"""A sentence as tokens, in the manner of the Penn Treebank that nltk follows: IFEval counts words in capitals by them.

"DON'T shout, A.B. JONES-SMITH!"  ->  DO N'T shout , A.B. JONES-SMITH !
"""

from __future__ import annotations

import re

# Signs that are tokens of their own wherever they stand. A comma or a colon is, unless a digit follows: "1,200".
_APART = re.compile(
    "[\u00ab\u00bb\u2018\u2019\u201c\u201d\u201e\"@#$%&;?!*()\\[\\]{}<>\u2012-\u2015]|`+|''|--|\\.{2,}|[:,](?!\\d)"
)
_FINAL = re.compile(r"(?<=[^.])\.(?=[\])}>\"'\u00bb\u201d\u2019 ]*+\s*+\Z)")
_QUOTE = re.compile(r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", re.IGNORECASE)
_CLITIC = re.compile(r"(?<=[^' ])(?='(?:[sSmMdD]|ll|LL|re|RE|ve|VE)? )|(?<=[^' ])(?=(?:n't|N'T) )")
_JOINED = re.compile(
    r"\b(?:(can)(not)|(d)('ye)|(gim)(me)|(gon)(na)|(got)(ta)|(lem)(me)|(more)('n)|(wan)(na)(?=\s))\b", re.IGNORECASE
)


def tokens(sentence: str) -> list[str]:
    """The tokens of a sentence, quotation marks as they stand."""
    apart = _FINAL.sub(" . ", _QUOTE.sub("' ", sentence))
    spaced = " ".join(f" {_APART.sub(lambda sign: f' {sign[0]} ', apart)} ".split())
    split = _CLITIC.sub(" ", f" {spaced} ")
    return _JOINED.sub(lambda both: " {} {}".format(*filter(None, both.groups())), split).split()
