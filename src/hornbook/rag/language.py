"""What of a text carries its meaning, for English, Chinese and Japanese: content terms, and the language to answer in.

Retrieval counts every term that can find a passage; judging whether a passage *answers*, or *says the same*, needs the
terms without the words that only make a question or a report ("which", "多少", "the study states that").
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from hornbook.retrieve import analyze

Language = Literal["en", "zh", "ja"]

_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_KANA = re.compile(r"[\u3040-\u30ff]")
_LETTER = re.compile(r"[^\W\d_]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")

# What makes a question and is not in its answer. Longer forms first: "什么时候" is not "什么" and "时候".
_ASKING = re.compile(
    "请问|什么时候|什么地方|为什么|是什么|有什么|什么样|什么|哪一?[年天日月个位次种座家部支项届些]|哪里|哪儿|哪|多少|多[大长高远久重]|几[年月日个次人岁位种]?|如何|"
    "怎么样|怎么|怎样|为何|何时|何地|何处|何人|是谁|谁|是否|是不是|有没有|吗|呢|"
    "[的是了有在被由]|"  # particles: the pairs that they form with their neighbours are no words
    "ですか|ますか|でしょうか|何ですか|なぜ|どこ|だれ|誰|いつ|どの|どう|何"
)
# Words with which a report speaks of its source; they are true of any source and support nothing.
_REPORTING = frozenset(
    analyze.terms(
        "document documents passage passages text article paragraph author authors study studies paper report excerpt "
        "source context states stated state mentions mentioned notes noted says said suggests suggested indicates "
        "indicated shows shown found describes described explains explained according provided information question "
        "answer also however therefore thus overall additionally specifically based given"
    )
)


def language_of(text: str) -> Language:
    """The language that an answer to this text is framed in: Japanese where there is kana, Chinese where there is Han."""
    if _KANA.search(text):
        return "ja"
    return "zh" if len(_HAN.findall(text)) * 2 > len(_LATIN.findall(text)) / 3 else "en"


def is_latin(text: str) -> bool:
    """Whether the text is mostly written in Latin letters, which an English encoder can read."""
    return 2 * len(_LATIN.findall(text)) >= len(_LETTER.findall(text))


def content_terms(text: str) -> list[str]:
    """Terms in order, repeats kept. Of scripts without spaces only pairs count: one character alone says little."""
    found = analyze.terms(text)
    pairs = [term for term in found if len(term) > 1 or term.isdigit() or term.isascii()]
    return pairs or found


def question_terms(question: str) -> list[str]:
    """The distinct content terms of a question, without what only makes it a question."""
    bare = _ASKING.sub(" ", question)
    return list(dict.fromkeys(content_terms(bare) or content_terms(question)))


def claim_terms(sentence: str) -> list[str]:
    """The content terms of a sentence that a source must hold, in order; "The study found that" drops out."""
    return [term for term in content_terms(sentence) if term not in _REPORTING]


@dataclass(frozen=True)
class TermWeights:
    """How much a term says: the idf of BM25 over the index, smoothed by ``background`` passages that lack the term.

    weight(t) = ln(1 + (N + b - n_t + 0.5) / (n_t + 0.5))

    Without the background, in a folder of three passages a term that all three share would weigh next to nothing and
    one that none has would outweigh all others, so that a small folder could not answer anything.
    """

    passages: int = 0
    containing: Mapping[str, int] = field(default_factory=dict)
    background: int = 200

    def __call__(self, term: str) -> float:
        count = self.containing.get(term, 0)
        return math.log1p((self.passages + self.background - count + 0.5) / (count + 0.5))
