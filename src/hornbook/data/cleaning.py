"""Examples made fit to learn from, or refused with the reason: what is done to each one by itself.

    example -> repair -> lines of prose (where asked) -> anything left? -> language -> quality -> contamination -> private
            -> Cleaned(example, or None and why; what was changed; keys to find its duplicates by)

Conversations, preferences, pairs and labelled texts are cleaned in all their texts, and refused as a whole. The quality
rules and the rules for lines were published for web pages, so they judge `Text` alone: a good answer may be one word. A Pair is in two
languages on purpose and is not judged by language.

Nothing here remembers what came before, so examples may be cleaned by many processes at once; what is said of
duplicates is decided where the results come together (`hornbook.recipes.corpus`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hornbook.data.contamination import Contamination
from hornbook.data.duplicates import MinHash, exact_key
from hornbook.data.example import Conversation, Example, Labelled, Pair, Preference, Text
from hornbook.data.language import UNKNOWN, Language, identify
from hornbook.data.lines import keep_prose
from hornbook.data.private import scrub
from hornbook.data.quality import Quality
from hornbook.data.repair import repair
from hornbook.data.texts import rewritten, texts


@dataclass(frozen=True)
class Cleaning:
    """What is done. None, or False, leaves a step out.

    languages: codes that stay, empty for all; unknown: whether a text of no telling language stays where some are named.
    private: kinds of `hornbook.data.private.KINDS` that are taken out, empty for all of them.
    """

    repair: bool = True
    prose_lines: bool = False
    languages: Sequence[str] = ()
    unknown: bool = True
    quality: Quality | None = None
    contamination: Contamination | None = None
    private: Sequence[str] | None = ()
    near: MinHash | None = field(default_factory=MinHash)


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What became of an example. ``example`` is None where it was refused: ``reason`` is then a rule's name and ``detail``
    a sentence about it. changes: names of repairs, of lines taken out and of private things, how often each.
    key: 16 bytes for exact duplicates; signature: uint32 [P] for near ones, None where they are not looked for."""

    example: Example | None
    characters: int  # of all its texts, as they came in
    language: str
    changes: Counter[str]
    reason: str = ""
    detail: str = ""
    key: bytes = b""
    signature: np.ndarray | None = None


def clean(example: Example, cleaning: Cleaning) -> Cleaned:
    """Clean one example. Never raises for what a text holds."""
    changes: Counter[str] = Counter()
    before = texts(example)
    size = sum(map(len, before))

    def change(text: str) -> str:
        if cleaning.repair:
            text, repairs = repair(text)
            changes.update(f"repair.{name}" for name in repairs)
        if cleaning.prose_lines and isinstance(example, Text):
            text, gone = keep_prose(text)
            changes.update({f"line.{name}": count for name, count in gone.items()})
        return text

    made = rewritten(example, change)
    after = texts(made)
    whole = "\n\n".join(after)
    language = identify(whole)
    reason, detail = _refused(made, before, after, language, whole, cleaning)
    if reason:
        return Cleaned(None, size, language.code, changes, reason, detail)

    def mark(text: str) -> str:
        text, found = scrub(text, cleaning.private or ())
        changes.update({f"private.{name}": count for name, count in found.items()})
        return text

    signature = None if cleaning.near is None else cleaning.near.signature(_compared(made))
    key = exact_key(whole if not isinstance(made, Labelled) else f"{whole}\n\n{made.label}")
    if cleaning.private is not None:
        made = rewritten(made, mark)
    return Cleaned(made, size, language.code, changes, key=key, signature=signature)


def _compared(example: Example) -> str:
    """What near duplicates are told by: all texts but those of the system, which a thousand conversations may share."""
    if isinstance(example, Conversation):
        example = replace(example, messages=tuple(m for m in example.messages if m.role != "system"))
    elif isinstance(example, Preference):
        example = replace(example, prompt=tuple(m for m in example.prompt if m.role != "system"))
    return "\n\n".join(texts(example))


def _refused(
    example: Example, before: list[str], after: list[str], language: Language, whole: str, cleaning: Cleaning
) -> tuple[str, str]:
    """(reason, detail), both empty where the example may stay."""
    if not whole.strip() or any(a.strip() and not b.strip() for a, b in zip(before, after, strict=True)):
        return "empty", "nothing is left of a text"
    if isinstance(example, Preference) and example.chosen == example.rejected:
        return "empty", "both answers are the same once repaired"
    if cleaning.languages and not isinstance(example, Pair) and language.code not in cleaning.languages:
        if language.code != UNKNOWN:
            return f"language.{language.code}", f"likelihood {language.likelihood:.2f}"
        if not cleaning.unknown:
            return "language.unknown", "too short, or like many languages"
    if cleaning.quality is not None and isinstance(example, Text):
        refusal = cleaning.quality.refuse(whole, language.code)
        if refusal is not None:
            return f"quality.{refusal.rule}", str(refusal)
    if cleaning.contamination is not None:
        for text in after:
            overlap = cleaning.contamination.find(text)
            if overlap is not None:
                return f"contamination.{overlap.name}", str(overlap)
    return "", ""
