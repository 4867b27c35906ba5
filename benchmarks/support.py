"""Calibrate the support score: how often it accepts what a source says, and what it says no longer.

    python benchmarks/support.py [calibration|report]

From the passages of the planted set, a sentence of at least six content terms is compared with its own passage's three
sentences around it, after one change. Kept true: nothing changed; a report's opening ("The document states that");
a parenthesis taken out; cut after its first clause. Made false: a number, a name, or a word exchanged for one of another
passage; a negation put in or taken out; a word turned into its opposite; the sentence of another passage of the set.
The false ones are false by construction, but for a chance synonym; the true ones are read as they stand.
"""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import planted
from ask import wilson

from hornbook.rag import support as score
from hornbook.rag.language import content_terms
from hornbook.retrieve.sentences import split

Change = Callable[[str, str, random.Random], str | None]  # (sentence, another sentence, random) -> changed, or None


def unchanged(text: str, other: str, chance: random.Random) -> str | None:
    return text


def reported(text: str, other: str, chance: random.Random) -> str | None:
    return f"The document states that {text[0].lower()}{text[1:]}" if text.isascii() else None


def without_parenthesis(text: str, other: str, chance: random.Random) -> str | None:
    cut = re.sub(r"\s*[(（][^()（）]*[)）]", "", text)
    return cut if cut != text else None


def first_clause(text: str, other: str, chance: random.Random) -> str | None:
    parts = re.split(r"(?<=[^\d])[,，;；]", text)
    return parts[0] + ("." if text.isascii() else "。") if len(parts) > 1 else None


def other_number(text: str, other: str, chance: random.Random) -> str | None:
    numbers = list(re.finditer(r"\d+", text))
    if not numbers:
        return None
    at = chance.choice(numbers)
    return text[: at.start()] + str(int(at.group()) + chance.randint(1, 9)) + text[at.end() :]


def other_name(text: str, other: str, chance: random.Random) -> str | None:
    mine = re.findall(r"(?<=[a-z,] )[A-Z][a-z]{3,}", text)
    theirs = [name for name in re.findall(r"(?<=[a-z,] )[A-Z][a-z]{3,}", other) if name not in text]
    return text.replace(chance.choice(mine), chance.choice(theirs)) if mine and theirs else None


def other_word(text: str, other: str, chance: random.Random) -> str | None:
    mine = re.findall(r"\b[a-z]{6,}\b", text)
    theirs = [word for word in re.findall(r"\b[a-z]{6,}\b", other) if word not in text]
    return text.replace(chance.choice(mine), chance.choice(theirs), 1) if mine and theirs else None


def negated(text: str, other: str, chance: random.Random) -> str | None:
    if re.search(r"\b(is|are|was|were|can|has|have|did|does) not\b", text):
        return re.sub(r"\b(is|are|was|were|can|has|have|did|does) not\b", r"\1", text, count=1)
    if re.search(r"\b(is|are|was|were|can)\b", text):
        return re.sub(r"\b(is|are|was|were|can)\b", r"\1 not", text, count=1)
    return re.sub("(是|能|会|有)", r"不\1", text, count=1) if re.search("(?<!不)(是|能|会|有)", text) else None


def opposite(text: str, other: str, chance: random.Random) -> str | None:
    for pair in score._OPPOSITES.replace("\n", "|").strip("|").split("|"):
        one, two = pair.split()
        for here, there in ((one, two), (two, one)):
            found = re.search(rf"\b{here}\b", text) if here.isascii() else re.search(here, text)
            if found and there not in text:
                return text[: found.start()] + there + text[found.end() :]
    return None


def other_sentence(text: str, other: str, chance: random.Random) -> str | None:
    return other


TRUE: tuple[Change, ...] = (unchanged, reported, without_parenthesis, first_clause)
FALSE: tuple[Change, ...] = (other_number, other_name, other_word, negated, opposite, other_sentence)


def sources(split_name: str, language: str) -> list[tuple[str, list[str]]]:
    """(sentence, the up to three sentences of its passage that it stands among)."""
    chosen = []
    for dataset in (planted.boolq, planted.pubmedqa) if language == "en" else (planted.cmrc,):
        for number, passage in enumerate(dataset(planted.SHARED)):
            if (number % 5 < 2) == (split_name == "calibration"):
                texts = [passage.text[a:b] for a, b in split(passage.text)]
                for place, text in enumerate(texts):
                    if len(content_terms(text)) >= 6:
                        chosen.append((text, texts[max(0, place - 1) : place + 2]))
    return chosen


def accepted(split_name: str, language: str, change: Change, threshold: float, limit: int = 300) -> tuple[int, int]:
    """(accepted, tried) of at most ``limit`` sentences of one half, after the change."""
    chance = random.Random(0)
    rows = sources(split_name, language)
    chance.shuffle(rows)
    rows = rows[:limit]
    scores = []
    for number, (text, source) in enumerate(rows):
        changed = change(text, rows[(number + 1) % len(rows)][0], chance)
        if changed is not None and (changed != text or change is unchanged):
            scores.append(score.support(changed, source))
    return sum(value >= threshold for value in scores), len(scores)


if __name__ == "__main__":
    half = sys.argv[1] if len(sys.argv) > 1 else "report"
    for threshold in (0.6, 0.75, 0.85, 0.95) if half == "calibration" else (score.THRESHOLD,):
        print(f"{half}, threshold {threshold}")
        for language in ("en", "zh"):
            for change in TRUE + FALSE:
                share = wilson(*accepted(half, language, change, threshold))
                print(f"  {language} {change.__name__.replace('_', ' ')}: accepted {share}")
