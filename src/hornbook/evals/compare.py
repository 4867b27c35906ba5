"""Two models on the same items: how far apart they are, how sure that is, and which items they differ on.

    Outcome a ─┐ paired by item id,
    Outcome b ─┴ refused where that would compare two things ──> Difference per task and metric, always b - a

Most of what makes a score uncertain is which questions happened to be asked. That is the same for both models, so the
difference of pairs is far more certain than the two scores let one think.

    interval   BCa bootstrap over the pairs (hornbook.evals.bootstrap)
    p          exact McNemar test where grades are 0 and 1 (Psychometrika 12, 1947); else a randomisation test that swaps the
               two models' answers item by item (Noreen, Computer-Intensive Methods for Testing Hypotheses, 1989)
    clusters   where items hang together (hornbook.evals.clusters), whole clusters are drawn again, and p is by a randomisation
               test that swaps whole clusters, for grades of 0 and 1 too: what McNemar's test knows nothing of
    several    Holm's correction (Scandinavian Journal of Statistics 6, 1979), so that a gate over many tasks raises a false
               alarm no more often than over one
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hornbook.errors import DataError
from hornbook.evals.bootstrap import CELLS, Spread, Statistic, spread
from hornbook.evals.clusters import Clusters
from hornbook.evals.metric import Column, Columns, Metric, ratio
from hornbook.evals.outcome import Outcome, Result
from hornbook.evals.statistics import LEVEL, wilson

SWAPS = 5000  # random swaps of a randomisation test
_NAMED = 3  # items that a refusal names


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one metric of one task, ``after`` - ``before``: the second model's value less the first one's.

    low, high     the 95% interval of ``value``; None where too few items have a number
    p             how often a difference as large would come by chance from two models that are equally good
    worse_p       the same, of as large a difference to the worse
    items         pairs that both have a grade for;  left_out: those that one has none for
    better, worse ids of the items whose grade the second model raises, or lowers (for 0/1: the flipped ones); empty for a
                  metric that has no grade of single items
    """

    task: str
    metric: str
    before: float
    after: float
    value: float
    stderr: float | None
    low: float | None
    high: float | None
    p: float
    worse_p: float
    items: int
    left_out: int = 0
    better: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()
    higher_is_better: bool = True
    percent: bool = True

    def to_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def compare(a: Outcome, b: Outcome, *, common: bool = False, seed: int = 0) -> tuple[Difference, ...]:
    """Every metric of every task, in the order of ``b``'s tasks; a task's first is the metric that it is known by.

    ``common``: where one has tasks or items that the other has not, the rest is compared. Raises DataError that names what
    is unlike: tasks, a task's version, the setting, the items, or the question under an item's id.
    """
    first, second = ({one.task: one for one in outcome.results} for outcome in (a, b))
    alone = [name for name in [*first, *second] if (name in first) != (name in second)]
    if alone and not common:
        raise DataError(
            f"only one of {a.model.name} and {b.model.name} was asked {_some(alone)}", "Ask both the same tasks."
        )
    found: list[Difference] = []
    for name, result in second.items():
        if name in first:
            _same_setting(a, b, first[name], result)
            found += differences(first[name], result, common=common, seed=seed)
    if not found:
        raise DataError(f"{a.model.name} and {b.model.name} have no task in common", "Ask both the same tasks.")
    return tuple(found)


def differences(a: Result, b: Result, *, common: bool = False, seed: int = 0) -> list[Difference]:
    """Of two results of one task. ``b``'s metrics are computed, or ``a``'s where it has none. Raises DataError."""
    metrics = b.metrics or a.metrics
    if not metrics:
        raise DataError(
            f"the results of {b.task} came from a file, which does not hold how its scores are computed",
            "Give them the task's metrics: Outcome.with_metrics.",
        )
    places = _pairs(a, b, common)
    ids = [a.ids[place] for place in places[0]]
    before, after = (
        {name: np.asarray(column, dtype=np.float64)[place] for name, column in one.columns.items()}
        for one, place in zip((a, b), places, strict=True)
    )
    # An old file does not say what hangs together; the other one then does, of the same items.
    which, names = (1, b.clusters) if any(b.clusters) else (0, a.clusters)
    clusters = [names[place] for place in places[which]] if names else None
    made = [
        _of_total(b.task, metric, ids, before, after, clusters, seed)
        if metric.total is not None
        else _of_items(b.task, metric, ids, before[metric.name], after[metric.name], clusters, seed)
        for metric in metrics
    ]
    return [one for one in made if one is not None]


def worse(found: Sequence[Difference], *, level: float = 1 - LEVEL) -> list[tuple[Difference, float]]:
    """The tasks that the second model is worse at beyond chance, each with its corrected p: a gate's verdict.

    One metric of each task, the first, is judged. However many tasks there are, equally good models are called worse at any of
    them at most once in ``1 / level`` times.
    """
    known_by = {one.task: one for one in reversed(found)}
    judged = [one for one in found if known_by[one.task] is one]
    corrected = holm([one.worse_p for one in judged])
    return [(one, p) for one, p in zip(judged, corrected, strict=True) if p <= level]


def holm(chances: Sequence[float]) -> list[float]:
    """p values of several tests, corrected so that their smallest may be judged like that of a single one."""
    corrected = [0.0] * len(chances)
    least = 0.0
    for done, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        least = max(least, min(1.0, (len(chances) - done) * chances[place]))
        corrected[place] = least
    return corrected


def mcnemar(raised: int, lowered: int) -> tuple[float, float]:
    """Of the items that differ each goes either way with a chance of one half: -> p, and p of so many being lowered."""
    total = raised + lowered
    return min(1.0, 2 * _tail(max(raised, lowered), total)), _tail(lowered, total)


def _tail(least: int, total: int) -> float:
    """The chance of ``least`` heads or more in ``total`` throws, exactly."""
    ways = term = math.comb(total, least)
    for heads in range(least, total):
        term = term * (total - heads) // (heads + 1)
        ways += term
    return ways / (1 << total)  # whole numbers of any size: rounded once


# ---------------------------------------------------------------------------------------------------------- pairs


def _same_setting(a: Outcome, b: Outcome, first: Result, second: Result) -> None:
    """Raises DataError where the same questions were put in two ways."""
    pairs = [
        ("version", first.version, second.version),
        ("number of solved examples", first.shots, second.shots),
        ("use of the chat template", first.chat, second.chat),
        ("system text", a.setting.system, b.setting.system),
        ("room for answers", a.setting.max_tokens, b.setting.max_tokens),
    ]
    if first.shots or second.shots:
        pairs.append(("seed of the examples", a.setting.seed, b.setting.seed))
    for what, one, other in pairs:
        if one != other:
            raise DataError(
                f"{second.task} was not put alike: {what} {one!r:.60} with {a.model.name}, {other!r:.60} with {b.model.name}",
                "Ask both in the same setting, with the same Hornbook.",
            )


def _pairs(a: Result, b: Result, common: bool) -> tuple[list[int], list[int]]:
    """Where the items of both lie in each, in the order of ``b``. Raises DataError."""
    where_a, where_b = ({id: place for place, id in enumerate(one.ids)} for one in (a, b))
    for one, where in ((a, where_a), (b, where_b)):
        if len(where) < len(one.ids):
            raise DataError(
                f"{one.task} has {len(one.ids) - len(where):,} items under ids that others have",
                "Give each its own id.",
            )
    alone = [id for id in (*a.ids, *b.ids) if (id in where_a) != (id in where_b)]
    unlike = [id for id in b.ids if id in where_a and a.fewer.get(id) != b.fewer.get(id)]
    if alone and not common:
        raise DataError(
            f"{b.task} has other items: {len(a.ids):,} against {len(b.ids):,}, and only one has {_some(alone)}",
            "Ask both the same items (--limit), or compare the common ones.",
        )
    if unlike and not common:
        raise DataError(
            f"{b.task} had fewer solved examples before some items with one of the models: {_some(unlike)}",
            "Ask both with as few, or compare the other items.",
        )
    both = [id for id in b.ids if id in where_a and id not in set(unlike)]
    if not both:
        raise DataError(f"{b.task} has no item in common", "Ask both the same items.")
    at = [where_a[id] for id in both], [where_b[id] for id in both]
    if a.samples and b.samples:
        other = [
            id
            for id, one, two in zip(both, *at, strict=True)
            if (a.samples[one].data, a.samples[one].target) != (b.samples[two].data, b.samples[two].target)
        ]
        if other:
            raise DataError(
                f"{b.task} has other questions under the same ids: {_some(other)}", "Ask both from the same data."
            )
    return at


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")


# ---------------------------------------------------------------------------------------------------------- tests


def _of_total(
    task: str,
    metric: Metric,
    ids: Sequence[str],
    before: Columns,
    after: Columns,
    names: Sequence[str] | None,
    seed: int,
) -> Difference | None:
    """Of a metric that is made of all items [N] together; None where neither model has a number."""
    old, new = float(metric.value(before)), float(metric.value(after))
    if math.isnan(old) and math.isnan(new):
        return None
    _numbers(task, metric, old, new)
    clusters = Clusters.of(names)
    ends = spread(*_joined(metric, before, after), clusters=clusters, level=LEVEL, seed=seed)
    chances = _swapped(metric, before, after, clusters, seed)
    return Difference(
        task, metric.name, old, new, new - old, *ends, *chances, len(ids),
        higher_is_better=metric.higher_is_better, percent=metric.percent,
    )  # fmt: skip


def _of_items(
    task: str, metric: Metric, ids: Sequence[str], before: Column, after: Column, names: Sequence[str] | None, seed: int
) -> Difference | None:
    """Of a metric that is the mean of the items' grades [N]; None where neither model has one, such as of unanswerable
    questions where there are none."""
    has = ~(np.isnan(before) | np.isnan(after))
    left_out = int(np.count_nonzero(np.isnan(before) != np.isnan(after)))
    ids = [id for id, there in zip(ids, has, strict=True) if there]
    before, after, clusters = before[has], after[has], Clusters.of(names, has)
    if not ids and not left_out:
        return None
    old, new = (float(column.mean()) if ids else math.nan for column in (before, after))
    _numbers(task, metric, old, new)
    by = after - before
    ends = spread(*_mean_of(by, clusters), level=LEVEL, seed=seed)
    better = by if metric.higher_is_better else -by
    raised = tuple(id for id, one in zip(ids, better, strict=True) if one > 0)
    lowered = tuple(id for id, one in zip(ids, better, strict=True) if one < 0)
    right_or_wrong = all(np.isin(column, (0.0, 1.0)).all() for column in (before, after))
    if right_or_wrong and not clusters:
        chances = mcnemar(len(raised), len(lowered))
    else:
        # Of a mean the sums of the clusters tell all that swapping them whole changes.
        of_before, of_after = ({metric.name: clusters.sums(one) if clusters else one} for one in (before, after))
        chances = _swapped(metric, of_before, of_after, None, seed)
    if right_or_wrong and (by == by[0]).all():
        # Resamples of what is all alike are alike; yet what was never seen in N may be as frequent as Wilson says.
        room = wilson(0.0, clusters.count if clusters else len(ids))[1]
        ends = Spread(ends.stderr, max(-1.0, new - old - room), min(1.0, new - old + room))
    return Difference(
        task, metric.name, old, new, new - old, *ends, *chances, len(ids), left_out, raised, lowered,
        metric.higher_is_better, metric.percent,
    )  # fmt: skip


def _numbers(task: str, metric: Metric, old: float, new: float) -> None:
    """Raises DataError where one of the values is none: no difference is to be told of it."""
    if not (math.isfinite(old) and math.isfinite(new)):
        raise DataError(
            f"{metric.name} of {task} is {old} with the first model and {new} with the second", "Read their samples."
        )


def _mean_of(by: Column, clusters: Clusters | None) -> tuple[Statistic, dict[str, Column]]:
    """The mean of what the pairs differ by [N] as a statistic of them; of clusters [G], which their sums and sizes tell all of."""
    if clusters is None:
        return lambda columns: columns["by"].mean(-1), {"by": by}
    return ratio("by", "items"), {"by": clusters.sums(by), "items": clusters.sizes.astype(np.float64)}


def _joined(metric: Metric, before: Columns, after: Columns) -> tuple[Statistic, dict[str, Column]]:
    """The difference of a total as a statistic of the pairs: whose columns are both models'."""
    both = {which + name: column for which, one in (("0", before), ("1", after)) for name, column in one.items()}

    def apart(columns: Columns) -> Column:
        old, new = ({name[1:]: column for name, column in columns.items() if name[0] == which} for which in "01")
        return metric.value(new) - metric.value(old)

    return apart, both


def _swapped(
    metric: Metric, before: Columns, after: Columns, clusters: Clusters | None, seed: int
) -> tuple[float, float]:
    """If the models are equally good, then either's answers to an item, or to all of a cluster, could as well be the other's:
    -> p, p of the worse.

    The difference as it is counts as one of the swaps, so that no p is 0 (Phipson & Smyth 2010, arXiv 1603.05766).
    """
    items = len(next(iter(before.values())))
    coins = clusters.count if clusters else items
    sign = 1 if metric.higher_is_better else -1
    seen = sign * float(metric.value(after) - metric.value(before))
    least = 1e-12 * max(1.0, abs(seen))  # a swap that gives the same number but for rounding is as large
    random = np.random.default_rng(seed)
    rows = max(1, CELLS // (2 * items * len(before)))
    large = low = 1
    for first in range(0, SWAPS, rows):
        block = min(rows, SWAPS - first)
        swap = np.unpackbits(random.integers(0, 256, (block, -(-coins // 8)), dtype=np.uint8), axis=1, count=coins) > 0
        swap = swap[:, clusters.number] if clusters else swap
        old = {name: np.where(swap, after[name], column) for name, column in before.items()}
        new = {name: np.where(swap, before[name], column) for name, column in after.items()}
        apart = sign * (metric.value(new) - metric.value(old))
        # Written so that a swap without a number counts as large.
        large += block - int(np.count_nonzero(np.abs(apart) < abs(seen) - least))
        low += block - int(np.count_nonzero(apart > seen + least))
    return large / (SWAPS + 1), low / (SWAPS + 1)
