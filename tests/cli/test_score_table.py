"""Scores fit a terminal, whatever the names in them."""

from __future__ import annotations

import re

import numpy as np
import pytest
from rich.cells import cell_len

from hornbook.cli.score_table import compared, scores
from hornbook.evals.compare import compare
from hornbook.evals.metric import Metric
from hornbook.evals.outcome import Figure, Group, Identity, Outcome, Result
from hornbook.evals.statistics import estimate
from hornbook.evals.task import Setting

ACC = Metric("acc")


def outcome(name: str, seed: int, task: str = "quiz") -> Outcome:
    acc = (np.random.default_rng(seed).random(1200) < 0.3 + 0.2 * (seed > 1)).astype(float)
    found = estimate(ACC, {"acc": acc})
    figures = (
        Figure("acc", found.value, found.stderr, found.low, found.high),
        Figure("perplexity", 1234.5678, None, None, None, higher_is_better=False, percent=False),
    )
    ids = tuple(f"q{number}" for number in range(1200))
    result = Result(
        task, "1", 5, False, ids, ("",) * 1200, {"acc": acc}, figures,
        (Group("中国历史", 7, (Figure("acc", 1.0, 0.0, 0.6457, 1.0),)),), {"q7": 3}, (ACC,),
    )  # fmt: skip
    return Outcome(Identity(name, name), Setting(), (result,))


def test_a_table_of_one_model_says_value_error_and_interval() -> None:
    shown = scores(outcome("m", 1), groups=True).splitlines()
    assert shown[0].split() == ["task", "items", "shots", "metric", "value", "95", "%", "interval"]
    assert shown[1].split()[:4] == ["quiz", "1,200", "3–5", "acc"] and " ± 1.3" in shown[1] and " … " in shown[1]
    assert shown[2].split() == ["perplexity", "↓", "1235", "–"]
    assert shown[3].split() == ["中国历史", "7", "acc", "100.00", "±", "0.00", "64.57", "…", "100.00"]
    wide = [cell_len(line[: line.index("acc")]) for line in (shown[1], shown[3])]
    assert wide[0] == wide[1], "columns stand below each other, wide characters too"


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_it_fits_and_leaves_out_what_is_least_needed(width: int) -> None:
    a, b = outcome("smollm2:135m", 1), outcome("gemma3:270m", 2)
    single, both = scores(a, width=width), compared(a, b, compare(a, b), width=width)
    for shown in (single, both):
        assert max(map(cell_len, shown.splitlines())) <= width
    assert ("interval" in single) == (width >= 60) and ("shots" in single) == (width >= 80)
    assert "difference" in both and ("gemma3:270m" in both) == (width >= 60) and ("worse" in both) == (width == 120)


def test_a_difference_that_is_sure_is_coloured_and_no_name_is_markup() -> None:
    a, b = outcome("[red]a\x1b[2J", 1, "[bold]quiz"), outcome("b\u202e", 2, "[bold]quiz")
    plain, coloured = (compared(a, b, compare(a, b), colour=colour) for colour in (False, True))
    assert "\x1b" not in plain and "[bold]quiz" in plain and "[red]a�[2J" in plain and "b�" in plain
    row = plain.splitlines()[1].split()
    assert row[row.index("<") + 1] == "0.001" and row[5].startswith("+")
    assert re.search(r"\x1b\[32m +\+", coloured) and "\x1b[2J" not in coloured
    assert re.search(r"\x1b\[31m +−", compared(b, a, compare(b, a), colour=True))
