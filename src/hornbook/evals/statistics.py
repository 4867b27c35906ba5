"""A score with its uncertainty: what the same model would get on other questions of the same kind.

    the metric is                  standard error                    95% interval
    the mean of 0 and 1            sample deviation / sqrt(N)        Wilson's score interval (JASA 22, 1927)
    the mean of shares in [0, 1]   sample deviation / sqrt(N)        Wilson's, of as many items as would be as uncertain
    the mean of other numbers      sample deviation / sqrt(N)        Student's t
    anything else                  of 2,000 bootstrap resamples      BCa bootstrap (hornbook.evals.bootstrap)

The standard errors of means are those of lm-evaluation-harness, also for a total over groups (pooled within the groups).

Where items hang together (hornbook.evals.clusters), what varies is clusters, of which there are G. With e an item's grade less the
mean, or less its group's mean of K groups:

    standard error of a mean         sqrt(G / (G - 1) * sum over clusters of (sum of e)^2) / N; in groups G / (G - K)
    its interval                     as above, with Student's t of G - 1 (G - K) degrees of freedom for all
    anything else                    whole clusters are drawn again

which is CR1 of Cameron & Miller (A Practitioner's Guide to Cluster-Robust Inference, J. Human Resources 50, 2015), and Miller's
clustered standard error (arXiv 2411.00640) but for G / (G - 1), without which few clusters seem too certain. Where every
item stands alone, all of it is what stands above.

Nothing here is random from run to run: the resamples are drawn with a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from hornbook.evals.bootstrap import spread, student
from hornbook.evals.clusters import Clusters
from hornbook.evals.metric import Column, Columns, Metric

LEVEL = 0.95
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


@dataclass(frozen=True, slots=True)
class Estimate:
    """``low``, ``high``: the ends of the 95% interval. ``items``: how many had a number.

    None stands for what cannot be known: a value without items, the error of a single one.
    """

    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    items: int


def estimate(
    metric: Metric, columns: Columns, *, groups: Sequence[str] | None = None, clusters: Sequence[str] | None = None,
    seed: int = 0,
) -> Estimate:  # fmt: skip
    """Of a metric over the columns [N] that the items' grades fill.

    An item whose grade is NaN has no part in a mean, such as an unanswerable question in the score of the answerable ones.
    ``groups`` [N]: the items were chosen group by group, so many of each (as MMLU's subjects), and only how they vary within
    a group is uncertain. ``clusters`` [N]: what each item hangs on together with others; '' stands alone.
    """
    if metric.total is None:
        column = np.asarray(columns[metric.name], dtype=np.float64)
        has = ~np.isnan(column)
        here = np.asarray(groups)[has] if groups is not None else None
        return _mean(column[has], here, Clusters.of(clusters, has), metric.percent)
    items = len(next(iter(columns.values()), ()))
    if not items:
        return Estimate(None, None, None, None, 0)
    value = float(metric.value(columns))
    if math.isnan(value):
        return Estimate(None, None, None, None, items)
    whole = Clusters.of(clusters)
    return Estimate(value, *spread(metric.value, columns, groups=groups, clusters=whole, level=LEVEL, seed=seed), items)


def by_group(
    metric: Metric, columns: Columns, groups: Sequence[str], *, clusters: Sequence[str] | None = None, seed: int = 0
) -> Mapping[str, Estimate]:
    """An estimate of each group by itself, in the order of the data."""
    which = np.asarray(groups)
    found = {}
    for name in dict.fromkeys(groups):
        here = np.flatnonzero(which == name).tolist()
        parts = {key: np.asarray(column)[here] for key, column in columns.items()}
        hang = [clusters[place] for place in here] if clusters else None
        found[name] = estimate(metric, parts, clusters=hang, seed=seed)
    return found


def wilson(share: float, items: float, width: float = _Z) -> tuple[float, float]:
    """The shares of a population that would give this one in so many items without surprise.

    Unlike share ± 2 errors it stays inside [0, 1] and holds for few items and near its ends (Brown, Cai & DasGupta,
    Interval Estimation for a Binomial Proportion, 2001). ``width``: in standard errors.
    """
    middle = (share + width**2 / (2 * items)) / (1 + width**2 / items)
    half = width / (1 + width**2 / items) * math.sqrt(share * (1 - share) / items + width**2 / (4 * items**2))
    # At either end the formula gives the end itself, but for the rounding.
    return 0.0 if share == 0 else middle - half, 1.0 if share == 1 else middle + half


def _mean(column: Column, groups: Column | None, clusters: Clusters | None, percent: bool) -> Estimate:
    items = len(column)
    if not items:
        return Estimate(None, None, None, None, 0)
    value = float(column.mean())
    if not math.isfinite(value):
        return Estimate(value, None, None, None, items)
    stderr, freedom = _error_of_clusters(column, groups, clusters) if clusters else _error(column, groups)
    right_or_wrong = bool(np.isin(column, (0.0, 1.0)).all())
    if stderr is None:
        low, high = wilson(value, 1) if right_or_wrong else (None, None)
        return Estimate(value, None, low, high, items)
    width = _Z if right_or_wrong and not clusters else student(0.5 + LEVEL / 2, freedom)
    if right_or_wrong or (percent and column.min() >= 0 and column.max() <= 1):
        # Grades between 0 and 1 vary less than right and wrong, and what groups explain is no uncertainty: either is told
        # as more items than there are, as surveys do (Franco et al., J. Survey Statistics and Methodology 7, 2019); and that
        # items hang together as fewer. Where nothing varies nobody knows how much they do: no fewer than the clusters.
        plain = value * (1 - value) / (items - 1)  # the squared error of as many right and wrong answers without groups
        alike = items * plain / stderr**2 if stderr else clusters.count if clusters else items
        return Estimate(value, stderr, *wilson(value, alike, width), items)
    return Estimate(value, stderr, value - width * stderr, value + width * stderr, items)


def _error(column: Column, groups: Column | None) -> tuple[float | None, int]:
    """The standard error of a mean, and its degrees of freedom. Of one item it is unknown.

    In groups: the variance within them, pooled (each group's weighs as it has items, less one). Where no group has two
    items that is unknown, and they are taken for one.
    """
    items = len(column)
    if groups is not None:
        _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        freedom = items - len(sizes)
        if freedom > 0:
            means = np.bincount(number, column) / sizes
            within = float(((column - means[number]) ** 2).sum()) / freedom
            return math.sqrt(within / items), freedom
    if items < 2:
        return None, 0
    return float(column.std(ddof=1)) / math.sqrt(items), items - 1


def _error_of_clusters(column: Column, groups: Column | None, clusters: Clusters) -> tuple[float | None, int]:
    """The same of items that hang together (CR1): of a single cluster it is unknown. Where there are no more clusters than
    groups, those are taken for one."""
    items, count = len(column), clusters.count
    centre, freedom = np.asarray(column.mean()), count - 1
    if groups is not None:
        _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
        if count > len(sizes):
            centre, freedom = (np.bincount(number, column) / sizes)[number], count - len(sizes)
    if freedom < 1:
        return None, 0
    squares = float(np.square(clusters.sums(column - centre)).sum())
    return math.sqrt(count / freedom * squares) / items, freedom
