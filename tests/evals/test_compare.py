"""Two models are compared on the same items, or not at all; a real difference is found, and none is not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hornbook.errors import DataError
from hornbook.evals.bootstrap import spread
from hornbook.evals.compare import Difference, compare, differences, holm, mcnemar, worse
from hornbook.evals.metric import Metric, ratio
from hornbook.evals.outcome import Asked, Identity, Outcome, Result, Sample
from hornbook.evals.task import Setting

ACC = Metric("acc")
LOSS = Metric("loss", higher_is_better=False, percent=False)
RATE = Metric("rate", total=ratio("hits", "words"))
CERTAIN = 0.05


def result(columns: Mapping[str, Any], metrics: Sequence[Metric] = (ACC,), task: str = "quiz", **more: Any) -> Result:
    arrays = {name: np.asarray(column, dtype=float) for name, column in columns.items()}
    items = len(next(iter(arrays.values())))
    known: dict[str, Any] = {"version": "1", "shots": 0, "chat": False}
    known |= {"ids": tuple(f"q{number}" for number in range(items)), "item_groups": ("",) * items} | more
    return Result(task, columns=arrays, figures=(), metrics=tuple(metrics), **known)


def outcome(name: str, *results: Result, **setting: Any) -> Outcome:
    return Outcome(Identity(name, name), Setting(**setting), results)


def one(before: Any, after: Any) -> Difference:
    return differences(result({"acc": before}), result({"acc": after}))[0]


# ---------------------------------------------------------------------------------------------------------- power


def flips(items: int, lowered: float, raised: float, trials: int) -> np.ndarray[Any, Any]:
    """[trials, 3]: how many items one model alone has right, the other alone, and both or none."""
    return np.random.default_rng(7).multinomial(items, [lowered, raised, 1 - lowered - raised], trials)


def test_a_planted_difference_of_3_points_is_found_in_1000_pairs() -> None:
    """A model that loses 5 % of the items and wins 2 %: the scores' own intervals (± 3 points) would tell nothing."""
    drawn = flips(1000, 0.05, 0.02, 2000)
    found = [mcnemar(int(raised), int(lowered))[1] <= CERTAIN for lowered, raised, _ in drawn]
    assert np.mean(found) > 0.95
    random = np.random.default_rng(1)
    before = random.random(1000) < 0.5
    after = before.copy()
    after[np.flatnonzero(before)[:50]], after[np.flatnonzero(~before)[:20]] = False, True
    seen = one(before, after)
    assert seen.value == pytest.approx(-0.03) and seen.high < 0 and seen.p < 0.001  # type: ignore[operator]
    assert (len(seen.worse), len(seen.better)) == (50, 20)
    assert worse([seen]) == [(seen, seen.worse_p)]
    back = one(after, before)
    assert back.value == pytest.approx(0.03) and worse([back]) == [] and back.better == seen.worse


def test_without_a_difference_the_gate_is_quiet_but_for_5_in_100() -> None:
    drawn = flips(1000, 0.04, 0.04, 5000)
    alarms = [mcnemar(int(raised), int(lowered)) for lowered, raised, _ in drawn]
    for which in (0, 1):
        assert 0.03 <= np.mean([chances[which] <= CERTAIN for chances in alarms]) <= 0.055


def test_the_interval_of_a_difference_leaves_out_nothing_5_times_in_100() -> None:
    kept = 0
    drawn = flips(1000, 0.04, 0.04, 200)
    for lowered, raised, same in drawn:
        apart = np.repeat([-1.0, 1.0, 0.0], [lowered, raised, same])
        ends = spread(lambda columns: columns["apart"].mean(-1), {"apart": apart}, count=1000)
        kept += ends.low <= 0 <= ends.high  # type: ignore[operator]
    assert 0.93 <= kept / len(drawn) <= 0.97


def test_swaps_call_equal_models_different_5_times_in_100() -> None:
    """Grades between 0 and 1, few and skewed."""
    random = np.random.default_rng(5)
    chances = []
    for _ in range(300):
        hard = random.beta(0.5, 1, 40)
        before, after = (np.clip(hard + random.normal(0, 0.1, 40), 0, 1) for _ in "ab")
        chances.append(one(before, after).p)
    assert 0.025 <= np.mean(np.array(chances) <= CERTAIN) <= 0.08


def test_a_ratio_is_compared_by_its_pairs() -> None:
    random = np.random.default_rng(2)
    words = random.poisson(30, 200) + 1.0
    hits = random.binomial(words.astype(int), 0.4).astype(float)
    less = np.maximum(0, hits - (random.random(200) < 0.5))
    before, after = ({"hits": column, "words": words} for column in (hits, less))
    seen = differences(result(before, [RATE]), result(after, [RATE]))[0]
    assert seen.value == pytest.approx(less.sum() / words.sum() - hits.sum() / words.sum())
    assert seen.low < seen.value < seen.high < 0 and seen.p < 0.001  # type: ignore[operator]
    assert (seen.better, seen.worse) == ((), ()), "a ratio has no grade of a single item"
    same = differences(result(before, [RATE]), result(before, [RATE]))[0]
    assert (same.value, same.p, same.low, same.high) == (0, 1, 0, 0)


# ---------------------------------------------------------------------------------------------------------- tests


def test_mcnemar_is_the_exact_binomial_test() -> None:
    for raised, lowered in ((0, 0), (0, 1), (3, 3), (2, 9), (40, 12), (700, 640)):
        total = raised + lowered
        two = stats.binomtest(raised, total).pvalue if total else 1.0
        below = stats.binomtest(lowered, total, alternative="greater").pvalue if total else 1.0
        assert mcnemar(raised, lowered) == pytest.approx((two, below), rel=1e-9)
    assert 0 < mcnemar(0, 900)[0] < 1e-200, "no overflow, and no 0"


def test_holm_is_statsmodels_step_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_a_gate_over_many_tasks_is_as_quiet_as_over_one() -> None:
    random = np.random.default_rng(11)
    families = random.random((4000, 12))
    alarms = np.mean([min(holm(list(chances))) <= CERTAIN for chances in families])
    assert 0.04 <= alarms <= 0.06 and np.mean(families.min(1) <= CERTAIN) > 0.4, "which it would be uncorrected"
    single = [Difference("t", "acc", 0.5, 0.4, -0.1, 0.1, -0.2, 0.1, 0.08, 0.04, 10) for _ in range(5)]
    tasks = [replace(seen, task=f"t{number}") for number, seen in enumerate(single)]
    assert worse(tasks[:1]) and not worse(tasks), "one p of 0.04 among five is no surprise"
    second = replace(tasks[0], metric="acc_norm", worse_p=1e-9)
    assert worse([replace(tasks[0], worse_p=0.5), second]) == [], "a task is judged by its first metric"


def test_lower_may_be_better() -> None:
    random = np.random.default_rng(0)
    before = random.gamma(3, 1, 60)
    seen = differences(result({"loss": before}, [LOSS]), result({"loss": before + 0.1}, [LOSS]))[0]
    assert seen.value == pytest.approx(0.1) and seen.worse_p < 0.001 and len(seen.worse) == 60 and not seen.better


def test_models_that_never_differ_are_not_thereby_proved_equal() -> None:
    seen = one([1, 0, 1, 1], [1, 0, 1, 1])
    assert (seen.value, seen.p, seen.worse_p) == (0, 1, 1)
    assert seen.high == pytest.approx(-seen.low) and 0.4 < seen.high < 0.6  # type: ignore[operator]
    alone = one([1], [0])
    assert alone.stderr is None and (alone.value, alone.low) == (-1, -1) and alone.p == 1


# ---------------------------------------------------------------------------------------------------------- pairs


def test_items_are_paired_by_id_whatever_their_order() -> None:
    a = outcome("a", result({"acc": [1, 1, 0, 0]}))
    turned = result({"acc": [1, 0, 1, 0]}, ids=("q3", "q2", "q1", "q0"))
    (seen,) = compare(a, outcome("b", turned))
    assert (seen.better, seen.worse, seen.value) == (("q3",), ("q0",), 0)
    assert json.loads(json.dumps(seen.to_json()))["worse"] == ["q0"]


@pytest.mark.parametrize(
    ("other", "setting", "says"),
    [
        ({"version": "2"}, {}, "version '1' with a, '2' with b"),
        ({"shots": 5}, {}, "number of solved examples 0 with a, 5"),
        ({"chat": True}, {}, "chat template False"),
        ({}, {"system": "Be brief."}, "system text '' with a, 'Be brief.'"),
        ({"ids": ("q0", "q1", "q7")}, {}, "3 against 3, and only one has q2, q7"),
        ({"fewer": {"q1": 2}}, {}, "fewer solved examples before some items with one of the models: q1"),
        ({"ids": ("q0", "q0", "q1")}, {}, "1 items under ids that others have"),
    ],
)
def test_what_is_unlike_is_refused_by_name(other: dict[str, Any], setting: dict[str, Any], says: str) -> None:
    a = outcome("a", result({"acc": [1, 0, 1]}))
    b = outcome("b", result({"acc": [1, 0, 1]}, **other), **setting)
    with pytest.raises(DataError, match=says):
        compare(a, b)


def test_the_seed_matters_only_where_examples_are_drawn() -> None:
    a, b = (outcome(name, result({"acc": [1, 0]}), seed=seed) for name, seed in (("a", 1), ("b", 2)))
    assert compare(a, b)[0].value == 0
    a, b = (outcome(name, result({"acc": [1, 0]}, shots=2), seed=seed) for name, seed in (("a", 1), ("b", 2)))
    with pytest.raises(DataError, match="seed of the examples 1 with a, 2 with b"):
        compare(a, b)


def test_the_common_items_are_compared_when_asked() -> None:
    a = outcome("a", result({"acc": [1, 0, 1]}), result({"acc": [1]}, task="alone"))
    b = outcome("b", result({"acc": [0, 0, 1, 1]}, ids=("q2", "q1", "q8", "q9"), fewer={"q1": 1}))
    with pytest.raises(DataError, match="only one of a and b was asked alone"):
        compare(a, b)
    (seen,) = compare(a, b, common=True)
    assert (seen.items, seen.worse) == (1, ("q2",))
    with pytest.raises(DataError, match="no item in common"):
        compare(a, outcome("b", result({"acc": [1]}, ids=("z",))), common=True)
    with pytest.raises(DataError, match="no task in common"):
        compare(a, outcome("b", result({"acc": [1]}, task="other")), common=True)


def test_another_question_under_the_same_id_is_refused() -> None:
    def sampled(question: str) -> Result:
        asked = Asked("writing", question, (), ("no",))
        return result({"acc": [1]}, samples=(Sample("q0", "", {"question": question}, (asked,), "yes", {"acc": 1}),))

    assert compare(outcome("a", sampled("Why?")), outcome("b", sampled("Why?")))[0].value == 0
    with pytest.raises(DataError, match="other questions under the same ids: q0"):
        compare(outcome("a", sampled("Why?")), outcome("b", sampled("When?")))


def test_what_was_read_from_a_file_needs_its_metrics() -> None:
    written = json.loads(json.dumps(outcome("a", result({"acc": [1, 0]})).to_json()))
    a = Outcome.from_json(written)
    with pytest.raises(DataError, match="does not hold how its scores are computed"):
        compare(a, a)
    assert compare(a, a.with_metrics({"quiz": [ACC]}))[0].value == 0


def test_grades_that_are_absent_are_left_out_and_told() -> None:
    seen = one([1, math.nan, 0, 1], [0, math.nan, 0, math.nan])
    assert (seen.items, seen.left_out, seen.worse) == (2, 1, ("q0",))
    with np.errstate(invalid="ignore"):
        none = result({"acc": [1, 0], "hits": [0, 0], "words": [0, 0]}, [ACC, RATE])
        assert [each.metric for each in differences(none, none)] == ["acc"], "neither has a rate"
    with pytest.raises(DataError, match="loss of quiz is 1.0 with the first model and inf"):
        differences(result({"loss": [1, 1]}, [LOSS]), result({"loss": [1, math.inf]}, [LOSS]))
