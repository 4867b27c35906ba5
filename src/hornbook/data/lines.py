"""Lines of web pages that are no prose: C4's rules that take out lines and keep the rest (arXiv 1910.10683, section 2.2).

The thresholds are those of the published program: at least 5 words a line. A line of a script without spaces counts two
characters as a word, and its full stops are 。！？.
"""

from __future__ import annotations

import re
from collections import Counter

from hornbook.data.profile import ends_sentence
from hornbook.data.words import weight

_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
_CITATION = re.compile(r"\[(?:\d{1,3}|edit|citation needed)\]")


def keep_prose(text: str, *, words: int = 5) -> tuple[str, Counter[str]]:
    """The text without lines that are no sentence, and how many lines went for which reason.

    Reasons: "c4.unended" (no terminal punctuation), "c4.few-words", "c4.javascript", "c4.policy". Wikipedia's marks of citations are taken out first.
    """
    kept, gone = [], Counter[str]()
    for line in text.split("\n"):
        line = _CITATION.sub("", line)
        bare = line.strip()
        reason = _reason(bare, words) if bare else None
        if reason is None:
            kept.append(line)
        else:
            gone[reason] += 1
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n") if gone else "\n".join(kept), gone


def _reason(line: str, words: int) -> str | None:
    lowered = line.lower()
    if line.endswith("...") or not ends_sentence(line):
        return "c4.unended"
    if weight(line) < words:
        return "c4.few-words"
    if "javascript" in lowered:
        return "c4.javascript"
    if any(phrase in lowered for phrase in _POLICIES):
        return "c4.policy"
    return None
