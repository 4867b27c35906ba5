"""How far a number would vary over other items of the same kind, where no formula says so: drawn again from the items.

    items [N]  --drawn with replacement, R times-->  [R, N]  --statistic-->  [R]  -->  standard error, interval

The interval is bias-corrected and accelerated (BCa: Efron, Better Bootstrap Confidence Intervals, JASA 82, 1987, eq. 6.8).
Its normal quantile is widened for few items as Hesterberg has it (arXiv 1411.5279, section 4.3): a sample's spread is too small
by sqrt((N - 1) / N), and Student's t replaces the normal distribution.

Where items hang together, whole clusters are drawn: N above is then their number, and a resample has as many items as they have
(the pairs cluster bootstrap of Cameron, Gelbach & Miller, Review of Economics and Statistics 90, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from hornbook.evals.clusters import Clusters, Places
from hornbook.evals.metric import Column, Columns

RESAMPLES = 2000
CELLS = 1 << 21  # of all columns together that are held at once: 16 MiB
_JACKKNIFE = 200  # parts of the items that are left out in turn, at most
_TOLD = 0.9  # of the resamples must give a number
_NORMAL = NormalDist()

Statistic = Callable[[Columns], Column]  # along the last axis, as Metric.value


class Spread(NamedTuple):
    """The standard error, and the ends of the interval. All None where too few resamples gave a number."""

    stderr: float | None
    low: float | None
    high: float | None


def spread(
    statistic: Statistic, columns: Columns, *, groups: Sequence[str] | None = None, clusters: Clusters | None = None,
    level: float = 0.95, count: int = RESAMPLES, seed: int = 0,
) -> Spread:  # fmt: skip
    """How a statistic of the columns [N] varies. ``groups`` [N]: each keeps the number of its items, or of the clusters whose
    first item it has, in every resample."""
    items = clusters.count if clusters else len(next(iter(columns.values())))
    value = float(statistic(columns))
    some = whole(columns, groups, clusters, count, seed) if clusters else resamples(columns, groups, count, seed)
    drawn = np.concatenate([np.ravel(statistic(one)) for one in some])
    drawn = drawn[np.isfinite(drawn)]
    if items < 2 or len(drawn) < _TOLD * count or not math.isfinite(value):
        return Spread(None, None, None)
    below = (np.count_nonzero(drawn < value) + np.count_nonzero(drawn == value) / 2) / len(drawn)
    bias = _NORMAL.inv_cdf(min(max(below, 0.5 / len(drawn)), 1 - 0.5 / len(drawn)))
    bend = _acceleration(statistic, columns, items, clusters)
    width = student(0.5 + level / 2, items - 1) * math.sqrt(items / (items - 1))
    ends = []
    for z in (bias - width, bias + width):
        # Where the correction leaves its range (1 - az <= 0), the farthest resample is the end.
        room = 1 - bend * z
        ends.append(_NORMAL.cdf(bias + z / room) if room > 0 else float(z > 0))
    low, high = np.quantile(drawn, ends)
    return Spread(float(drawn.std(ddof=1)), float(low), float(high))


def resamples(columns: Columns, groups: Sequence[str] | None, count: int, seed: int) -> Iterator[dict[str, Column]]:
    """Columns [N] drawn again ``count`` times, in blocks [B, N] of bounded size."""
    items = len(next(iter(columns.values())))
    random = np.random.default_rng(seed)
    order, sizes = _by_group(groups, items)
    ordered = {name: np.asarray(column)[order] for name, column in columns.items()}
    rows = max(1, CELLS // max(1, items * len(columns)))
    for first in range(0, count, rows):
        block = min(rows, count - first)
        starts = np.cumsum([0, *sizes[:-1]])
        parts = [
            random.integers(start, start + size, (block, size), dtype=np.int32)
            for start, size in zip(starts, sizes, strict=True)
        ]
        at = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        yield {name: column[at] for name, column in ordered.items()}


def whole(
    columns: Columns, groups: Sequence[str] | None, clusters: Clusters, count: int, seed: int
) -> Iterator[dict[str, Column]]:
    """Columns [N] with whole clusters drawn again ``count`` times: each time as many items as these have."""
    random = np.random.default_rng(seed)
    order, sizes = _by_group(None if groups is None else np.asarray(groups)[clusters.firsts], clusters.count)
    starts = np.cumsum([0, *sizes[:-1]])
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    for _ in range(count):
        parts = [random.integers(start, start + size, size) for start, size in zip(starts, sizes, strict=True)]
        at = clusters.members(order[np.concatenate(parts)])
        yield {name: column[at] for name, column in arrays.items()}


def _by_group(groups: Sequence[str] | np.ndarray[Any, Any] | None, items: int) -> tuple[Places, list[int]]:
    """The places of the items, group after group, and how many each has."""
    if groups is None:
        return np.arange(items), [items]
    _, number, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    return np.argsort(number, kind="stable"), [int(size) for size in sizes]


def _acceleration(statistic: Statistic, columns: Columns, items: int, clusters: Clusters | None = None) -> float:
    """A sixth of the skewness of what the items contribute (Efron 1987, eq. 7.1), by leaving out parts of them in turn.

    Parts of several items give the same number as single ones: the sum of m has a skewness smaller by sqrt(m), and there
    are fewer by m. ``clusters``: they are what is left out, whole.
    """
    left = _without_clusters(statistic, columns, clusters) if clusters else _without_items(statistic, columns, items)
    apart = left.mean() - left
    squares = float(np.square(apart).sum())
    if not math.isfinite(squares) or squares <= 0:
        return 0.0
    return float((apart**3).sum()) / (6 * math.pow(squares, 1.5))


def _without_items(statistic: Statistic, columns: Columns, items: int) -> Column:
    """The statistic without each of some parts of the items, which are of one size."""
    size = -(-items // _JACKKNIFE)
    parts = items // size  # fewer than ``size`` items at the end are always left out
    others = (np.arange(parts)[:, None] + np.arange(1, parts)) % parts  # [parts, parts - 1]
    rows = max(1, CELLS // (items * len(columns)))
    left = np.empty(parts)
    for first in range(0, parts, rows):
        at = (np.arange(size)[:, None] * parts + others[first : first + rows, None, :]).reshape(-1, size * (parts - 1))
        left[first : first + rows] = statistic({name: np.asarray(column)[at] for name, column in columns.items()})
    return left


def _without_clusters(statistic: Statistic, columns: Columns, clusters: Clusters) -> Column:
    """The statistic without each of some parts of the clusters."""
    parts = min(clusters.count, _JACKKNIFE)
    left = np.empty(parts)
    for out in range(parts):
        stays = clusters.number % parts != out
        left[out] = statistic({name: np.asarray(column)[stays] for name, column in columns.items()})
    return left


@lru_cache
def student(share: float, freedom: int) -> float:
    """The value below which Student's t with ``freedom`` degrees of freedom lies with probability ``share`` > 0.5."""
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2

    def density(at: Column) -> Column:
        return np.exp(log_scale - (freedom + 1) / 2 * np.log1p(at**2 / freedom))

    nodes, weights = np.polynomial.legendre.leggauss(96)
    value: float = _NORMAL.inv_cdf(share)
    for _ in range(100):  # Newton's steps on a concave function from below: each comes nearer, and none goes too far
        reached = 0.5 + value / 2 * float(weights @ density(value / 2 * (nodes + 1)))
        step = (share - reached) / float(density(np.asarray(value)))
        value += step
        if step <= 1e-12 * value:
            break
    return value
