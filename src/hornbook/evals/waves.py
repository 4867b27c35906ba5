"""In which order questions are asked, and how many at once.

Texts that begin alike stand beside each other, so that the engine reads what they share once; texts of like length go
together, the longest first, so that a wave's rows end together and the time that is left is not guessed too short.

    few-shot of A + question 1 (900)  |  few-shot of A + question 2 (870)  |  few-shot of B + question 7 (640)  | ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

SHARED = (
    64  # characters in common that are worth keeping neighbours for, if they are half of what is left of the shorter
)
DEEPEST = 8  # beginnings within beginnings that are told apart
CHARACTERS = 512  # to read anew, for each place in a wave: about a hundred tokens


def order(texts: Sequence[str]) -> list[int]:
    """The places of the texts in the order in which they are asked."""
    return _ordered(sorted(range(len(texts)), key=texts.__getitem__), texts, 0, DEEPEST)


def _ordered(sorted_places: list[int], texts: Sequence[str], start: int, depth: int) -> list[int]:
    """``start``: so many characters are common to all."""
    runs = _runs(sorted_places, texts, start)
    runs.sort(key=lambda run: (-max(len(texts[place]) for place, _ in run), run[0][0]))
    found: list[int] = []
    for run in runs:
        places = [place for place, _ in run]
        shared = min((common for _, common in run[1:]), default=0)
        deeper = depth > 0 and len(run) > 2
        found += _ordered(places, texts, shared, depth - 1) if deeper else sorted(places, key=lambda i: -len(texts[i]))
    return found


def _runs(sorted_places: Sequence[int], texts: Sequence[str], start: int) -> list[list[tuple[int, int]]]:
    """Cut where neighbours have little in common beyond ``start``: runs of (place, characters in common with the one before)."""
    runs: list[list[tuple[int, int]]] = []
    for number, place in enumerate(sorted_places):
        before = texts[sorted_places[number - 1]] if number else ""
        common = in_common(before, texts[place]) if number else 0
        rest = min(len(before), len(texts[place])) - start
        if runs and common - start >= SHARED and 2 * (common - start) >= rest:
            runs[-1].append((place, common))
        else:
            runs.append([(place, common)])
    return runs


def waves(texts: Sequence[str], batch: int) -> Iterator[range]:
    """Cut texts in their order: at most ``batch`` at a time, and no more to read anew than CHARACTERS for each of those.
    What a text shares with the one before it is not read anew."""
    first, fresh = 0, 0
    for place, text in enumerate(texts):
        new = len(text) - (in_common(texts[place - 1], text) if place > first else 0)
        if place > first and (place - first >= batch or fresh + new > batch * CHARACTERS):
            yield range(first, place)
            first, fresh, new = place, 0, len(text)
        fresh += new
    if texts:
        yield range(first, len(texts))


def in_common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    if other.startswith(one):
        return len(one)
    low, high = 0, min(len(one), len(other))  # alike up to low
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
