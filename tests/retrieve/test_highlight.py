"""The words of a query are marked where they stand, by the terms that the search itself counts."""

from __future__ import annotations

import time

import pytest

from hornbook.retrieve.highlight import spans


@pytest.mark.parametrize(
    ("text", "query", "marked"),
    [
        ("The batches were doubled.", "batch size", ["batches"]),
        ("The cat sat on the mat.", "the of on", []),  # stop words only
        ("max_lift of the wing; maxLift too", "lift", ["max_lift", "maxLift"]),
        ("Naïve café", "naive CAFE", ["Naïve", "café"]),
        ("about 1,000 and 3.14", "1000 3.14", ["1,000", "3.14"]),
        ("成年大熊猫体重约100公斤。", "大熊猫的体重", ["大熊猫体重"]),
        ("熊和猫", "大熊猫", []),  # single characters of pairs are no words
        ("用水洗", "水", ["水"]),
        ("ペンギンは魚を食べる", "ペンギン", ["ペンギン"]),
        ("The wing's twist", "wings", ["wing"]),
        ("Ｆｕｌｌ width", "full", ["Ｆｕｌｌ"]),
        ("слово и дело", "СЛОВО", ["слово"]),
        ("", "x", []),
        ("text", "!!", []),
    ],
)
def test_the_query_is_marked_in_the_text(text: str, query: str, marked: list[str]) -> None:
    found = spans(text, query)
    assert [text[start:end] for start, end in found] == marked
    assert all(a[1] < b[0] for a, b in zip(found, found[1:], strict=False))


def test_a_long_text_is_marked_in_no_time() -> None:
    began = time.perf_counter()
    assert len(spans("kiwi 竹子 " * 5_000, "kiwi 竹子")) == 10_000
    assert time.perf_counter() - began < 2
