"""From text to the terms that BM25 counts: the same for a passage and a query, whatever the language.

    "The Wings' twist (max_lift)"  ->  wing twist max_lift max lift
    "使用Python编程"                 ->  使 用 使用 python 编 程 编程

Words are NFKC-normalised, case-folded, stripped of Latin accents and, where they are plain ASCII letters, stemmed with
Snowball's English stemmer (Porter2). Scripts written without spaces (Chinese, Japanese, Korean, Thai, Lao, Khmer,
Burmese) become single characters and overlapping pairs: pairs carry the meaning, single characters catch one-character
words. Identifiers count whole and in parts. Every other script is plain words.

The stop list is Lucene's classic one for English, and the pronouns and question words that a question is made of.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Any

# Scripts without spaces between words, and Hangul, whose particles stick to the words.
_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Burmese
    "\u1100-\u11ff\uac00-\ud7af"  # Hangul
    "\u1780-\u17ff"  # Khmer
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # 々〆〇, kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_TOKEN = re.compile(
    rf"[{_UNSPACED}]+"
    r"|\d+(?:[.,]\d+)+(?![^\W\d_])"  # 3.14, 1,000, 2.13.0: one token
    rf"|(?:[^\W{_UNSPACED}]|[\u0300-\u036f])+"  # a word or an identifier, underscores inside
)
_IS_UNSPACED = re.compile(rf"[{_UNSPACED}]")
_CONTRACTION = re.compile(r"(?<=\w)['\u2019](?:s|t|d|m|ll|re|ve)\b", re.IGNORECASE)
_ACCENT = re.compile(r"(?<=[A-Za-z])[\u0300-\u036f]+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_LONGEST_TERM = (
    64  # characters; a longer "word" is data (base64, a hash table dump), cut so that it cannot fill the index
)

_LUCENE = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this "
    "to was will with"
)
_ASKING = (
    "about am any been being can could did do does doing from had has have having he her here him his how i its me my "
    "our she should so than them those through us very we were what when where which while who whom why would you your"
)
STOP_WORDS = frozenset(f"{_LUCENE} {_ASKING}".split())


def terms(text: str) -> list[str]:
    """The terms of a text, in order, repeats kept; empty for a text of stop words and signs only."""
    text = unicodedata.normalize("NFKC", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", _ACCENT.sub("", unicodedata.normalize("NFD", text)))
    out: list[str] = []
    plain: list[str] = []  # ASCII words in a row go to the stemmer together: one call is cheaper than many
    for token in _TOKEN.findall(_CONTRACTION.sub("", text)):
        if _IS_UNSPACED.match(token):
            out += token
            out += [token[i : i + 2] for i in range(len(token) - 1)]
        elif token[0].isdigit() and ("," in token or "." in token):
            out.append(token.replace(",", ""))
        elif token.isascii() and token.isalpha() and (token.islower() or token[1:].islower() or token.isupper()):
            plain.append(token)
        else:
            out += _identifier(token)
    folded = [word for word in (word.lower() for word in plain) if word not in STOP_WORDS]
    out += _stemmer().stemWords([word[:_LONGEST_TERM] for word in folded])
    return out


def runs(text: str) -> list[tuple[int, int, bool]]:
    """The text's words as spans, each with whether it is of a script without spaces."""
    return [(m.start(), m.end(), bool(_IS_UNSPACED.match(m.group()))) for m in _TOKEN.finditer(text)]


def _identifier(token: str) -> list[str]:
    """``max_lift``, ``maxLift``, ``H2O``, ``naïve``, ``слово``: the whole, then its parts where there are several."""
    whole = token.strip("_").casefold()[:_LONGEST_TERM]
    if not whole:
        return []
    parts = [part.casefold() for piece in token.split("_") for part in _CAMEL.split(piece) if part]
    if len(parts) <= 1:
        return _stemmer().stemWords([whole]) if whole.isascii() and whole.isalpha() else [whole]
    kept = [part[:_LONGEST_TERM] for part in parts if part not in STOP_WORDS]
    return [whole, *_stemmer().stemWords(kept)]


@cache
def _stemmer() -> Any:
    import Stemmer  # PyStemmer: Snowball's C code; imported late, a search for nothing need not load it

    return Stemmer.Stemmer("english")
