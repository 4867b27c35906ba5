"""The builder: whatever is added, spans hold, and pictures without a description leave no word behind."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.retrieve.parse.builder import ROWS_A_PIECE, Builder, clean, described

_TEXTS = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["", " ", "\n", "a\r\nb", "e\u0301", "\x00", "\u200b", "\ud800", "  - item", "你好。", "\u202eevil", "a\u2028b"]
)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), _TEXTS, st.sampled_from(["text", "list", "code", "table"])),
        st.tuples(st.just("heading"), _TEXTS, st.integers(1, 6)),
        st.tuples(st.just("table"), st.lists(st.lists(_TEXTS, max_size=3), max_size=4)),
    ),
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(_STEPS)
def test_whatever_is_added_every_span_holds(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    builder = Builder()
    for name, *arguments in steps:
        getattr(builder, name)(*arguments)
    document = builder.document(id="1", path="p", name="p", media_type="text/plain")
    end = 0
    for piece in document.pieces:
        assert end <= piece.start < piece.end <= len(document.text)
        assert not document.text[end : piece.start].strip()
        span = document.text[piece.start : piece.end]
        assert span == span.strip() == clean(span)
        end = piece.end
    assert end == len(document.text)
    document.text.encode("utf-8")  # no unpaired surrogate is left


@given(_TEXTS)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    assert clean(clean(text)) == clean(text)


def test_sections_follow_the_headings() -> None:
    builder = Builder()
    for text, level in [("Guide", 1), ("Install", 2), ("Linux", 3), ("Use", 2)]:
        builder.heading(text, level)
        builder.add(f"about {text}")
    sections = [p.section for p in builder.document(id="", path="", name="", media_type="").pieces if p.kind == "text"]
    assert sections == ["Guide", "Guide > Install", "Guide > Install > Linux", "Guide > Use"]


def test_a_long_table_becomes_several_pieces() -> None:
    builder = Builder()
    builder.table([[str(n), "x"] for n in range(2 * ROWS_A_PIECE + 1)])
    pieces = builder.document(id="", path="", name="", media_type="").pieces
    assert len(pieces) == 3 and {piece.kind for piece in pieces} == {"table"}


@pytest.mark.parametrize(
    ("alternative", "kept"),
    [
        ("A chart of sales", "A chart of sales"),
        ("系统架构", "系统架构"),
        ("图片", ""),
        ("图片 3", ""),
        ("Image 1", ""),
        ("my photo.jpg", ""),
        ("badge", ""),
        ("", ""),
    ],
)
def test_only_a_description_that_somebody_wrote_is_kept(alternative: str, kept: str) -> None:
    assert described(alternative) == kept
