"""A stop string is found across any borders, nothing of it is emitted, and nothing else is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.engine.stops import StopMatcher


def run(stops: list[str], pieces: list[str]) -> tuple[list[str], bool]:
    matcher = StopMatcher(stops)
    out = [matcher.push(piece) for piece in pieces]
    return [*out, matcher.flush()], matcher.stopped


@pytest.mark.parametrize(
    ("stops", "pieces", "expected", "stopped"),
    [
        ([], ["a", "b"], ["a", "b", ""], False),
        (["END"], ["a", "E", "N", "x"], ["a", "", "", "ENx", ""], False),
        (["END"], ["a", "EN", "D!", "more"], ["a", "", "", "", ""], True),
        (["END"], ["aENDb"], ["a", ""], True),
        (["END"], ["a E", "EEN"], ["a ", "EE", "EN"], False),  # flushed at the end
        (["\n\n"], ["one\n", "two\n", "\nthree"], ["one", "\ntwo", "", ""], True),
        (["aab"], ["a", "a", "a", "b"], ["", "", "a", "", ""], True),  # the overlap inside one stop string
        (["ab", "abc"], ["xabc"], ["x", ""], True),
        (["bcd", "abcde"], ["abcde"], ["a", ""], True),  # the one that is complete first
        (["cd", "bcd"], ["abcd"], ["a", ""], True),  # ending together: the longer
        (["。"], ["你好", "。再见"], ["你好", "", ""], True),
        (["User:"], ["Us", "Use", "User", ":"], ["", "Us", "Use", "", ""], True),
    ],
)
def test_examples(stops: list[str], pieces: list[str], expected: list[str], stopped: bool) -> None:
    assert run(stops, pieces) == (expected, stopped)


def reference(stops: list[str], text: str) -> tuple[str, bool]:
    """The obvious way: look at every beginning of the text, shortest first."""
    for end in range(1, len(text) + 1):
        hits = [stop for stop in stops if text[:end].endswith(stop)]
        if hits:
            return text[: end - max(map(len, hits))], True
    return text, False


alphabet = st.text(alphabet="ab。", max_size=12)


@given(st.lists(st.text(alphabet="ab。", min_size=1, max_size=4), max_size=4), st.lists(alphabet, max_size=8))
def test_any_cut_gives_the_answer_of_the_uncut_text(stops: list[str], pieces: list[str]) -> None:
    out, stopped = run(stops, pieces)
    assert ("".join(out), stopped) == reference(stops, "".join(pieces))


@given(st.lists(st.text(alphabet="ab", min_size=1, max_size=4), min_size=1, max_size=3), st.lists(alphabet, max_size=6))
def test_text_is_held_no_longer_than_it_must(stops: list[str], pieces: list[str]) -> None:
    matcher, seen, emitted = StopMatcher(stops), "", ""
    for piece in pieces:
        seen, emitted = seen + piece, emitted + matcher.push(piece)
        if matcher.stopped:
            return
        held = seen[len(emitted) :]
        assert seen.startswith(emitted)
        assert not held or any(stop.startswith(held) for stop in stops)
