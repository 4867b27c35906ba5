"""The official measures of CMRC 2018 (arXiv 1810.07366), for answers in Chinese, with foreign words among them.

Chinese is compared character by character, anything else word by word, as "mixed segmentation" cuts it:

    在2002年打败了Serena Williams  ->  在 2002 年 打 败 了 serena williams

F1 counts the longest run of pieces that both texts have in common, unlike SQuAD's, which counts pieces wherever they stand.
Punctuation that is Chinese is taken away, and so are these of ASCII: - : _ * ^ / \\ ~ ` + =. Words are cut by the rules of the
Penn Treebank, which the official script leaves to NLTK.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_DROPPED = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")  # not …, nor ‘: as officially
_SINGLE = re.compile("[\u4e00-\u9fa5]")

# Robert MacIntyre's rules for the Penn Treebank, as far as text in lower case without the characters above can meet them.
_TREEBANK: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), into)
    for pattern, into in (
        (r'^"', " `` "),
        (r"""(?<=[ (\[{<])(?:"|'')""", " `` "),
        (r"([«„‘‚‹]|[»‟›])", r" \1 "),
        (r",(?!\d)", " , "),
        (r"\.\.\.", " ... "),
        (r"[;@#$%&?!]", r" \g<0> "),
        (r"(?<=[^.])(\.)([\])}>\"'»]*)\s*$", r" \1 \2 "),
        (r"(?<=[^'])' ", " ' "),
        (r"[\]\[(){}<>]", r" \g<0> "),
        (r""""|''""", " '' "),
        (r"(?<=[^' ])('s|'m|'d|'ll|'re|'ve|n't|')(?= )", r" \1"),
        (r"(?<!\S)('t)(is|was)\b", r"\1 \2 "),
        (r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(gim|lem)(me)\b|\b(got)(ta)\b", r"\1\3\5\7 \2\4\6\8 "),
    )
)


def segments(text: str) -> list[str]:
    """The pieces of a text that are compared: Chinese characters, and words of what stands between them."""
    pieces: list[str] = []
    run = ""
    for char in text.lower().strip():
        if char in _DROPPED:
            continue
        if _SINGLE.match(char):
            pieces += [*_words(run), char]
            run = ""
        else:
            run += char
    return [*pieces, *_words(run)]


def exact(text: str, golds: Sequence[str]) -> float:
    """1.0 where a text is one of the right answers, letter by letter without the punctuation, else 0.0."""
    said = _bare(text)
    return float(any(said == _bare(gold) for gold in golds))


def f1(text: str, golds: Sequence[str]) -> float:
    """0 to 1: the harmonic mean of the shares of either text that their longest common run has, for the best answer."""
    said = segments(text)
    return max(_shared(said, segments(gold)) for gold in golds)


def _shared(said: Sequence[str], right: Sequence[str]) -> float:
    common = _longest_run(said, right)
    return 2 * common / (len(said) + len(right)) if common else 0.0


def _longest_run(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest run of pieces that stands in both."""
    longest = 0
    ending = [0] * (len(other) + 1)  # at j: the common run that ends before one's piece now and other's piece j
    for piece in one:
        ending = [0, *(ending[j] + 1 if piece == there else 0 for j, there in enumerate(other))]
        longest = max(longest, *ending)
    return longest


def _bare(text: str) -> str:
    return "".join(char for char in text.lower().strip() if char not in _DROPPED)


def _words(text: str) -> list[str]:
    if not text.strip():
        return []
    text = f"{text} "
    for pattern, into in _TREEBANK:
        text = pattern.sub(into, text)
    return text.split()
