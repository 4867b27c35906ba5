"""Questions are asked in an order in which what they share is read once, and no wave is too large."""

from __future__ import annotations

import random

import pytest

from hornbook.evals.waves import CHARACTERS, in_common, order, waves


def test_texts_that_begin_alike_are_neighbours_and_the_longest_come_first() -> None:
    shots = {name: f"{name} solved example. " * 30 for name in ("anatomy", "law", "physics")}
    texts = [shots[name] + f"question {n} " + "x" * (7 * n % 50) for n in range(20) for name in shots]
    random.Random(1).shuffle(texts)
    asked = [texts[place] for place in order(texts)]
    assert sorted(asked) == sorted(texts)
    begins = [text.split()[0] for text in asked]
    assert sum(one != other for one, other in zip(begins, begins[1:], strict=False)) == 2
    for name in shots:
        lengths = [len(text) for text in asked if text.startswith(name)]
        assert lengths == sorted(lengths, reverse=True)


def test_unlike_texts_go_by_their_length() -> None:
    texts = [chr(0x4E00 + n) * (n * 37 % 101 + 1) for n in range(60)]
    lengths = [len(texts[place]) for place in order(texts)]
    assert lengths == sorted(lengths, reverse=True)


def test_beginnings_within_beginnings_stay_together() -> None:
    shot = "one example that all begin with. " * 20
    passages = [f"passage {n}: " + f"{n} words of it " * (20 + n) for n in range(5)]
    texts = [shot + passage + f"question {n}?" for n in range(4) for passage in passages]
    asked = [texts[place][len(shot) :][:9] for place in order(texts)]
    assert asked == [f"passage {n}" for n in (4, 3, 2, 1, 0) for _ in range(4)]


def test_a_long_line_of_texts_that_grow_is_no_matter() -> None:
    texts = ["a turn of a conversation that goes on, and on, and further on; " * n for n in range(1, 400)]
    assert sorted(order(texts)) == list(range(399))
    assert order([]) == [] and order(["x"]) == [0] and order(["", ""]) == [0, 1]


def test_waves_hold_a_batch_and_no_more_than_is_read_in_one_go() -> None:
    assert [list(wave) for wave in waves(["a"] * 7, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    alike = ["x" * 9 * CHARACTERS + str(n) for n in range(10)]
    assert [len(wave) for wave in waves(alike, 10)] == [10], "what is shared is read once"
    unlike = [chr(97 + n) * CHARACTERS for n in range(10)]
    assert [len(wave) for wave in waves(unlike, 4)] == [4, 4, 2]
    huge = [chr(97 + n) * 100 * CHARACTERS for n in range(3)]
    assert [len(wave) for wave in waves(huge, 4)] == [1, 1, 1], "one is asked, however long it is"
    assert list(waves([], 4)) == []


@pytest.mark.parametrize(
    ("one", "other", "count"), [("", "", 0), ("abc", "", 0), ("abc", "abd", 2), ("abc", "abcd", 3), ("xbc", "abc", 0)]
)
def test_what_two_texts_begin_with_alike_is_counted(one: str, other: str, count: int) -> None:
    assert in_common(one, other) == in_common(other, one) == count
