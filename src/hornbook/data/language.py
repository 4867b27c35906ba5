"""Which language a text is in: its script where that decides, else py3langid's model, which lies in its package.

    kana, Hangul, Thai, Greek, ...  decide alone, however short the text is
    Han without kana                Chinese (a short line of Japanese may hold none, so fewer than 4 characters are unknown)
    everything else                 a naive Bayes model over byte n-grams of 97 and more languages (Lui and Baldwin, ACL 2012)

A text of a few words fits many languages. Where there are fewer than `LETTERS` letters, or the best language is not
likely, the answer is "unknown", and what to do with that is the caller's to say.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

UNKNOWN = "unknown"
LETTERS = 20
LIKELY = 0.5
_SAMPLE = 300  # characters, of beginning, middle and end each

_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_HANGUL = re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
# Scripts of one language, or nearly so. Cyrillic, Arabic, Devanagari and Hebrew serve many, and are for the model.
_OWN = {
    "th": re.compile("[\u0e01-\u0e5b]"),
    "lo": re.compile("[\u0e81-\u0edf]"),
    "el": re.compile("[\u0370-\u03e1\u03f0-\u03ff\u1f00-\u1fff]"),
    "ka": re.compile("[\u10a0-\u10ff]"),
    "hy": re.compile("[\u0531-\u058f]"),
    "km": re.compile("[\u1780-\u17ff]"),
    "ta": re.compile("[\u0b80-\u0bff]"),
    "te": re.compile("[\u0c00-\u0c7f]"),
    "kn": re.compile("[\u0c80-\u0cff]"),
    "ml": re.compile("[\u0d00-\u0d7f]"),
    "gu": re.compile("[\u0a80-\u0aff]"),
    "si": re.compile("[\u0d80-\u0dff]"),
}


class Language(NamedTuple):
    """An ISO 639-1 code or "unknown", and how likely it is, from 0 to 1."""

    code: str
    likelihood: float


def identify(text: str) -> Language:
    """The language in which most of the text is written. Deterministic, offline, about 0.1 ms for a page."""
    sample = _sampled(text)
    letters = sum(map(str.isalpha, sample))
    if not letters:
        return Language(UNKNOWN, 0.0)
    by_script = None if sample.isascii() else _of_script(sample, letters)
    if by_script is not None:
        return by_script
    if letters < LETTERS:
        return Language(UNKNOWN, 0.0)
    code, likelihood = _model().classify(sample)
    if code == "zxx" or likelihood < LIKELY:  # zxx: what no person wrote as language
        return Language(UNKNOWN, float(likelihood))
    return Language(str(code), float(likelihood))


def _of_script(sample: str, letters: int) -> Language | None:
    kana, han = len(_KANA.findall(sample)), len(_HAN.findall(sample))
    if (kana + han) * 2 > letters:
        # Japanese prose is half kana, a heading may hold but one; a Chinese page may quote a name.
        if kana * (10 if letters < 30 else 4) >= han:
            return Language("ja", (kana + han) / letters)
        return Language("zh", han / letters) if han >= 4 else Language(UNKNOWN, 0.0)
    hangul = len(_HANGUL.findall(sample))
    if hangul * 2 > letters:
        return Language("ko", hangul / letters)
    for code, script in _OWN.items():
        own = sum(map(str.isalpha, script.findall(sample)))
        if own * 2 > letters:
            return Language(code, own / letters)
    return None


def _sampled(text: str) -> str:
    if len(text) <= 3 * _SAMPLE:
        return text
    middle = (len(text) - _SAMPLE) // 2
    return f"{text[:_SAMPLE]}\n{text[middle : middle + _SAMPLE]}\n{text[-_SAMPLE:]}"


@cache
def _model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
