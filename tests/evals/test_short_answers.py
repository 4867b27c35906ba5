"""Short answers are measured in the way of their language."""

from __future__ import annotations

import pytest

from hornbook.evals.metrics.short import contains, exact, f1


@pytest.mark.parametrize(
    ("text", "golds", "same", "near", "there"),
    [
        ("The Lima.", ["Lima"], 1, 1, 1),
        ("It is Lima, I think", ["Lima"], 0, 2 / 6, 1),
        ("Limassol", ["Lima"], 0, 0, 0),
        ("eight", ["8", "Eight!"], 1, 1, 1),
        ("在北京。", ["北京"], 0, 4 / 5, 1),
        ("北京！", ["北京", "北京市"], 1, 1, 1),
        ("被EMNLP 2019录用", ["EMNLP 2019"], 0, 4 / 7, 1),
        ("共15小时", ["5"], 0, 0, 0),
        ("トヨタです", ["トヨタ"], 0, 0, 1),
        ("", ["Lima"], 0, 0, 0),
        ("anything", ["..."], 0, 0, 0),
        ("anything", [], 0, 0, 0),
    ],
)
def test_short_answers(text: str, golds: list[str], same: float, near: float, there: float) -> None:
    assert (exact(text, golds), contains(text, golds)) == (same, there)
    assert f1(text, golds) == pytest.approx(near)
