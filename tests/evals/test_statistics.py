"""A score's interval says what it promises: in 95 of 100 repetitions the truth lies in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hornbook.evals import bootstrap
from hornbook.evals.metric import Columns, Metric, ratio
from hornbook.evals.statistics import Estimate, by_group, estimate, wilson

ACC = Metric("acc")
RATE = Metric("rate", percent=False, total=ratio("hits", "words"))
TRIALS = 20_000


def of(values: object, **more: object) -> Estimate:
    return estimate(ACC, {"acc": np.asarray(values, dtype=float)}, **more)  # type: ignore[arg-type]


def covered(truth: float, low: object, high: object) -> float:
    return float(np.mean((np.asarray(low) <= truth) & (truth <= np.asarray(high))))


# ------------------------------------------------------------------------------------------------------- coverage


@pytest.mark.parametrize(
    ("truth", "items"),
    [(0.5, 20), (0.25, 30), (0.05, 50), (0.95, 50), (0.7, 40), (0.05, 100), (0.3, 100), (0.9, 200), (0.5, 1000), (0.97, 2000)],
)  # fmt: skip
def test_a_share_s_interval_covers_the_truth_95_times_in_100(truth: float, items: int) -> None:
    ends = [of(np.arange(items) < right) for right in range(items + 1)]
    low, high = np.array([one.low for one in ends]), np.array([one.high for one in ends])
    right = np.random.default_rng(items).binomial(items, truth, TRIALS)
    assert 0.93 <= covered(truth, low[right], high[right]) <= 0.97


@pytest.mark.parametrize("items", [10, 25, 100, 400])
def test_over_all_true_shares_it_covers_95_and_never_far_below(items: int) -> None:
    """Exactly, not by simulation: counts are whole, so that the coverage of a single share swings around its mean."""
    ends = np.array([wilson(right / items, items) for right in range(items + 1)])
    truths = np.linspace(0.02, 0.98, 193)
    hit = (ends[:, 0] <= truths[:, None]) & (truths[:, None] <= ends[:, 1])
    coverage = (stats.binom.pmf(np.arange(items + 1), items, truths[:, None]) * hit).sum(1)
    assert 0.94 <= coverage.mean() <= 0.965 and coverage.min() > 0.88


def mostly_nothing(random: np.random.Generator, shape: tuple[int, int]) -> Any:
    """F1 of a weak model: 8 of 10 answers share no word with the right one."""
    return np.where(random.random(shape) < 0.8, 0, np.where(random.random(shape) < 0.4, 1, random.beta(2, 2, shape)))


LAWS: dict[str, tuple[float, Callable[[np.random.Generator, tuple[int, int]], Any]]] = {
    "even": (0.5, lambda random, shape: random.random(shape)),
    "a strong model's F1": (1.2 / 2.1, lambda random, shape: random.beta(1.2, 0.9, shape).round(2)),
    "a weak model's F1": (0.14, mostly_nothing),
}


@pytest.mark.parametrize("items", [20, 50, 300])
@pytest.mark.parametrize("law", LAWS)
def test_a_mean_s_interval_covers_the_truth_95_times_in_100(law: str, items: int) -> None:
    truth, draw = LAWS[law]
    found = [of(row) for row in draw(np.random.default_rng(items), (3000, items))]
    assert 0.93 <= covered(truth, [one.low for one in found], [one.high for one in found]) <= 0.97


@pytest.mark.parametrize("items", [8, 100])
def test_a_mean_of_numbers_without_bounds_covers_the_truth_95_times_in_100(items: int) -> None:
    seconds = Metric("acc", percent=False)
    draws = np.random.default_rng(items).normal(3, 2, (3000, items))
    found = [estimate(seconds, {"acc": row}) for row in draws]
    assert 0.93 <= covered(3, [one.low for one in found], [one.high for one in found]) <= 0.97


@pytest.mark.parametrize("items", [25, 100])
def test_a_ratio_s_interval_covers_the_truth_95_times_in_100(items: int) -> None:
    """Tokens weigh alike and texts are long and short: no formula is right, the bootstrap is."""
    random = np.random.default_rng(items)
    words = random.poisson(40, (1000, items)) + 5.0
    hits = random.binomial(words.astype(int), random.beta(3, 7, (1000, items))).astype(float)
    found = [estimate(RATE, {"hits": a, "words": b}) for a, b in zip(hits, words, strict=True)]
    assert 0.93 <= covered(0.3, [one.low for one in found], [one.high for one in found]) <= 0.97


def test_groups_of_unlike_difficulty_narrow_the_interval_and_it_still_covers() -> None:
    """MMLU-like: what differs between subjects is no uncertainty when each keeps the number of its questions."""
    random = np.random.default_rng(0)
    truths, size = np.linspace(0.1, 0.9, 12), 25
    groups = [f"subject {number}" for number in range(12) for _ in range(size)]
    draws = random.random((3000, 12, size)) < truths[:, None]
    found = [of(one.ravel(), groups=groups) for one in draws]
    assert 0.93 <= covered(0.5, [one.low for one in found], [one.high for one in found]) <= 0.97
    assert np.mean([one.stderr for one in found]) < 0.9 * 0.5 / math.sqrt(12 * size)


# --------------------------------------------------------------------------------------------------------- values


def test_the_standard_error_is_lm_eval_s() -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics")
    values = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    assert of(values).stderr == pytest.approx(metrics.mean_stderr(values))
    groups = ["a"] * 3 + ["b"] * 4
    parts = [metrics.mean_stderr(values[:3]), metrics.mean_stderr(values[3:])]
    assert of(values, groups=groups).stderr == pytest.approx(metrics.pooled_sample_stderr(parts, [3, 4]))


def test_intervals_are_those_of_the_textbooks() -> None:
    for right, items in ((0, 10), (7, 10), (1, 50), (50, 50), (500, 1319)):
        known = stats.binomtest(right, items).proportion_ci(method="wilson")
        found = of(np.arange(items) < right)
        assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-12)
        assert 0 <= found.low <= found.value <= found.high <= 1  # type: ignore[operator]
    values = np.array([0.1, 0.7, 0.4, 0.95])
    known = stats.ttest_1samp(values, 0).confidence_interval()
    rate = Metric("acc", percent=False)
    found = estimate(rate, {"acc": values})
    assert (found.low, found.high) == pytest.approx((known.low, known.high))
    assert of(values).high <= 1.0, "a share is at most 100 %"  # type: ignore[operator]
    for freedom in (1, 2, 3, 7, 30, 1000, 14_999):
        assert bootstrap.student(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-9)


def test_the_bootstrap_agrees_with_scipy_s() -> None:
    random = np.random.default_rng(3)
    words = random.poisson(30, 80) + 1.0
    hits = random.binomial(words.astype(int), random.beta(1, 9, 80)).astype(float)
    known = stats.bootstrap(
        (hits, words), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, n_resamples=20_000, rng=1
    )
    found = estimate(RATE, {"hits": hits, "words": words})
    width = known.confidence_interval.high - known.confidence_interval.low
    assert found.value == hits.sum() / words.sum()
    assert found.stderr == pytest.approx(known.standard_error, rel=0.06)
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval), abs=0.1 * width)
    assert found == estimate(RATE, {"hits": hits, "words": words}), "the same from run to run"


@pytest.mark.parametrize("items", [150, 399, 1000])
def test_leaving_out_parts_of_the_items_tells_the_skewness_of_one(items: int) -> None:
    values = np.random.default_rng(items).gamma(0.5, 1, items)
    found = bootstrap._acceleration(lambda columns: columns["x"].mean(-1), {"x": values}, items)
    assert found == pytest.approx(stats.skew(values) / (6 * math.sqrt(items)), rel=0.35)


# ------------------------------------------------------------------------------------------------------ the odd


def test_what_cannot_be_known_is_none() -> None:
    assert of([]) == Estimate(None, None, None, None, 0)
    one = of([1.0])
    assert (one.value, one.stderr, one.items) == (1.0, None, 1) and one.low == pytest.approx(0.2065, abs=1e-4)
    assert of([0.4]) == Estimate(0.4, None, None, None, 1)
    single = estimate(RATE, {"hits": np.ones(1), "words": np.full(1, 4.0)})
    assert single == Estimate(0.25, None, None, None, 1)
    assert estimate(RATE, {"hits": np.zeros(0), "words": np.zeros(0)}) == Estimate(None, None, None, None, 0)
    endless = of([0.5, math.inf])
    assert endless.value == math.inf and (endless.stderr, endless.low) == (None, None)


def test_an_item_without_a_grade_has_no_part_in_a_mean() -> None:
    assert of([1, math.nan, 0, 1, math.nan]) == of([1, 0, 1])
    assert of([1, math.nan, 0, 1], groups=["a", "a", "b", "b"]) == of([1, 0, 1], groups=["a", "b", "b"])
    assert of([math.nan, math.nan]) == Estimate(None, None, None, None, 0)


def test_a_total_that_most_resamples_cannot_give_has_no_interval() -> None:
    """Of the answerable questions there is one: a resample without it has no score."""
    with np.errstate(invalid="ignore"):
        found = estimate(RATE, {"hits": np.array([1.0, 0, 0, 0]), "words": np.array([1.0, 0, 0, 0])})
        none = estimate(RATE, {"hits": np.zeros(3), "words": np.zeros(3)})
    assert found == Estimate(1.0, None, None, None, 4)
    assert none == Estimate(None, None, None, None, 3)


def test_groups_of_one_item_or_of_one_answer_do_not_make_a_score_certain() -> None:
    alone = of([1, 0, 1, 0], groups=["a", "b", "c", "d"])
    plain = of([1, 0, 1, 0])
    assert (alone.stderr, alone.low) == pytest.approx((plain.stderr, plain.low)), (
        "how they vary within a group is unknown"
    )
    apart = of([1, 1, 1, 0, 0, 0], groups=["a"] * 3 + ["b"] * 3)
    assert apart.stderr == 0 and apart.low == of([1, 1, 1, 0, 0, 0]).low


def test_each_group_is_estimated_by_itself_in_the_order_of_the_data() -> None:
    columns = {"acc": np.array([1.0, 0, 1, 1]), "hits": np.array([1.0, 2, 3, 4]), "words": np.array([9.0, 9, 9, 9])}
    found = by_group(ACC, columns, ["law", "art", "law", "art"])
    assert list(found) == ["law", "art"] and found["law"] == of([1, 1]) and found["art"] == of([0, 1])
    assert by_group(RATE, columns, ["law", "art", "law", "art"])["art"].value == 6 / 18


def test_resamples_keep_each_group_s_size_and_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CELLS", 70)
    columns = {"x": np.arange(10.0), "y": np.arange(10.0) * 2}
    groups = ["b", "a", "b", "b", "a", "b", "b", "b", "c", "b"]
    blocks = list(bootstrap.resamples(columns, groups, 25, 0))
    assert max(block["x"].size * 2 for block in blocks) <= 70 and sum(len(block["x"]) for block in blocks) == 25
    for block in blocks:
        assert np.array_equal(block["y"], 2 * block["x"]), "an item's columns stay together"
        assert (np.isin(block["x"], [1, 4]).sum(1) == 2).all() and ((block["x"] == 8).sum(1) == 1).all()


def test_fifteen_thousand_items_are_held_in_bounded_memory() -> None:
    import tracemalloc

    random = np.random.default_rng(0)
    columns: Columns = {"hits": random.random(15_000), "words": random.random(15_000) + 1}
    tracemalloc.start()
    found = estimate(RATE, columns)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.stderr == pytest.approx(0.0019, rel=0.2)
    assert most < 100e6
