"""A run: every question of some tasks is asked once, every answer kept, graded and summed up.

    tasks --items--> requests --not in the ledger--> waves --the model--> answers --ledger--> grades --statistics--> Outcome

What is in the folder's ledger is not asked again, so a run that was killed goes on where it stopped, one that has ended is told
without asking anything, and more items (``limit``) or tasks cost only themselves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hornbook.errors import DataError, UsageError
from hornbook.evals.asking import Pending, ask, check_tells, fit, shown, without_thought
from hornbook.evals.clusters import Clusters
from hornbook.evals.ledger import Ledger, grade_key, kept, key_of, restored, trial_key
from hornbook.evals.metric import Columns, Metric
from hornbook.evals.outcome import Asked, Figure, Group, Identity, Outcome, Result, Sample, finite
from hornbook.evals.prompting import in_chat
from hornbook.evals.statistics import Estimate, by_group, estimate
from hornbook.evals.task import Answer, Grade, Item, Likelihood, Means, Request, Rolling, Setting, Task, Trial, Writing
from hornbook.types import Progress

BATCH = 64  # requests at a time, as many answers as the engine writes at once
AS_KNOWN, NOTHING = Setting(), Means()


def run(
    model: Any,
    tasks: Sequence[Task],
    *,
    setting: Setting = AS_KNOWN,
    limit: int | None = None,
    folder: Path | None = None,
    identity: Identity | None = None,
    means: Means = NOTHING,
    batch: int = BATCH,
    fit_shots: bool = False,
    report: Progress | None = None,
    done: Callable[[Result], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Ask ``model`` (an LLM; for some tasks an Embedder) and judge it.

    limit      so many items of each task: the first, and of a task with groups as many of each as there are
    folder     keeps the answers; None: they are kept nowhere
    identity   whose answers they are; None: what the model says of itself
    fit_shots  solved examples are dropped from prompts that the model's context does not hold
    done       is told each result as it is there

    Raises, before anything is asked: DataError, UsageError (a model that cannot do what a task asks for, a task named twice),
    ContextTooLong. Raises what the model raises; all answers until then are in the folder.
    """
    started, began = clock(), datetime.now(UTC).isoformat(timespec="seconds")
    if batch < 1 or (limit is not None and limit < 1):
        raise UsageError(f"batch is {batch} and limit {limit}", "Both are at least 1.")
    if twice := [one.name for one in tasks if sum(one.name == other.name for other in tasks) > 1]:
        raise UsageError(f"the task {twice[0]} is named {twice.count(twice[0])} times", "Name it once.")
    for task in tasks:
        task.equip(means)
    tell = report or (lambda what, done, total: None)
    whose = identity or describe(model)
    with Ledger(folder, whose) as ledger:
        plans = [_plan(model, task, setting, limit, fit_shots, tell) for task in tasks]
        distinct = {
            one.key: one for plan in plans for one in plan.pending()
        }  # what is asked twice in the same words: once
        pending = [one for one in distinct.values() if one.key not in ledger]
        check_tells(model, pending)
        asked = len(pending) + sum(len(plan.untried(ledger)) for plan in plans)
        known = len(distinct) + sum(len(plan.tries) for plan in plans) - asked
        _ask(model, pending, batch, ledger, f"asking {whose.name}", tell)
        results = []
        for plan in plans:
            plan.try_out(model, ledger, tell)
            results.append(plan.result(ledger, tell))
            if done is not None:
                done(results[-1])
        notes = list(_notes(plans, ledger))
        for plan, result in zip(plans, results, strict=True):
            notes += (f"{plan.task.name}: {note}" for note in plan.task.remarks(result.ids, result.columns))
    return Outcome(whose, setting, tuple(results), limit, began, clock() - started, asked, known, tuple(notes))


def describe(model: Any) -> Identity:
    """What a model says of itself."""
    name = str(getattr(model, "name", "") or type(model).__name__)
    return Identity(name, name, "", str(getattr(model, "runs_on", "")), int(getattr(model, "context_length", 0)))


def take(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """The first; of items in groups the first of each, then the second of each, and so on. In the order of the data."""
    if limit is None or limit >= len(items):
        return items
    seen: dict[str, int] = {}
    ranks = []
    for place, item in enumerate(items):
        seen[item.group] = rank = seen.get(item.group, -1) + 1
        ranks.append((rank, place))
    return [items[place] for place in sorted(place for _, place in sorted(ranks)[:limit])]


# ----------------------------------------------------------------------------------------------------------- a task's part


@dataclass
class _Plan:
    """A task's items and what is asked about each, in the order of the data."""

    task: Task
    setting: Setting
    shots: int
    items: Sequence[Item]
    asked: list[tuple[Request, ...]]
    fewer: dict[str, int] = field(default_factory=dict)
    cramped: int = 0  # items whose answer may be cut off by the context

    @cached_property
    def keys(self) -> list[tuple[str, ...]]:
        """Of each item's requests in the ledger; of a Trial's item one."""
        if isinstance(self.task, Trial):
            return [(trial_key(self.task, item, self.setting),) for item in self.items]
        return [
            tuple(key_of(self.task, item, request) for request in requests)
            for item, requests in zip(self.items, self.asked, strict=True)
        ]

    def pending(self) -> Iterator[Pending]:
        """All that is to be asked through the model's verbs."""
        for item, requests, keys in zip(self.items, self.asked, self.keys, strict=True):
            if not isinstance(self.task, Trial):
                for request, key in zip(requests, keys, strict=True):
                    yield Pending(key, self.task, item, request)

    @property
    def tries(self) -> Sequence[int]:
        """The places of the items that a Trial works on."""
        return range(len(self.items) if isinstance(self.task, Trial) else 0)

    def untried(self, ledger: Ledger) -> list[int]:
        return [place for place in self.tries if self.keys[place][0] not in ledger]

    def try_out(self, model: Any, ledger: Ledger, tell: Progress) -> None:
        """Let a Trial work with the model, item by item."""
        task = self.task
        if not isinstance(task, Trial):
            return
        left = self.untried(ledger)
        if left:
            task.prepare(model, lambda what, done, total: tell(f"{task.name}: {what}", done, total))
        for number, place in enumerate(left):
            tell(f"{task.name}: trying", number, len(left))
            answer = dict(task.answer(self.items[place], model, self.setting))
            ledger.put([(self.keys[place][0], task, self.items[place], [answer])])

    @property
    def clusters(self) -> list[str] | None:
        """What each item hangs on together with others; None where every one stands alone."""
        names = [item.cluster for item in self.items]
        return names if Clusters.of(names) else None

    def result(self, ledger: Ledger, tell: Progress) -> Result:
        """Grades, figures and samples. Raises DataError where items of a task are graded by different columns."""
        task, items = self.task, self.items
        answers = [
            ledger.get(keys[0]) if isinstance(task, Trial) else [ledger.get(key) for key in keys] for keys in self.keys
        ]
        grades = self._grades(answers, ledger, tell)
        names = list(dict.fromkeys(name for grade in grades for name in grade))
        columns: Columns = {
            name: np.array([grade.get(name, np.nan) for grade in grades], dtype=np.float64) for name in names
        }
        groups, clusters = [item.group for item in items], self.clusters
        figures = tuple(
            _figure(metric, estimate(metric, columns, groups=groups if any(groups) else None, clusters=clusters))
            for metric in task.metrics
        )
        samples = tuple(
            Sample(item.id, item.group, item.data, self._shown(requests, given), task.target(item), dict(grade))
            for item, requests, given, grade in zip(items, self.asked, answers, grades, strict=True)
        )
        return Result(
            task.name,
            task.version,
            self.shots,
            in_chat(task, self.setting),
            tuple(item.id for item in items),
            tuple(groups),
            columns,
            figures,
            _groups(task.metrics, columns, groups, clusters),
            self.fewer,
            task.metrics,
            samples,
            tuple(clusters or ()),
        )

    def _grades(self, answers: Sequence[list[Any]], ledger: Ledger, tell: Progress) -> list[Grade]:
        task = self.task
        if not task.graded_by:
            return [self._grade(place, given) for place, given in enumerate(answers)]
        keys = [grade_key(task, item, given) for item, given in zip(self.items, answers, strict=True)]
        left = [place for place, key in enumerate(keys) if key not in ledger]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            try:
                for number, (place, grade) in enumerate(
                    zip(left, pool.map(lambda at: self._grade(at, answers[at]), left), strict=True), 1
                ):
                    ledger.put(
                        [
                            (
                                keys[place],
                                task,
                                self.items[place],
                                [{name: finite(value) for name, value in grade.items()}],
                            )
                        ]
                    )
                    tell(f"{task.name}: grading by {task.graded_by}", number, len(left))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        told = [ledger.get(key)[0] for key in keys]
        return [{name: np.nan if value is None else value for name, value in grade.items()} for grade in told]

    def _grade(self, place: int, given: list[Any]) -> Grade:
        task, item = self.task, self.items[place]
        if isinstance(task, Trial):
            return task.judge(item, given[0])
        requests = self.asked[place]
        return task.grade(item, [_graded(request, one) for request, one in zip(requests, given, strict=True)])

    def _shown(self, requests: Sequence[Request], given: Sequence[Any]) -> tuple[Asked, ...]:
        if isinstance(self.task, Trial):
            return (Asked("trial", "", (), tuple(given)),)
        return tuple(_asked(request, one) for request, one in zip(requests, given, strict=True))


def _plan(
    model: Any, task: Task, setting: Setting, limit: int | None, fit_shots: bool, tell: Progress
) -> _Plan:  # fmt: skip
    items = take(task.items(), limit)
    if not items:
        raise DataError(f"{task.name} has no questions", "Look whether its files are whole.")
    ids: set[str] = set()
    for item in items:
        if item.id in ids:
            raise DataError(f"{task.name} has two items with the id {item.id}", "Give each item an id of its own.")
        ids.add(item.id)
    shots = task.shots if setting.shots is None else setting.shots
    plan = _Plan(task, setting, shots, items, [])
    for number, item in enumerate(items):
        tell(f"{task.name}: reading", number, len(items))
        requests, had, cramped = fit(model, task, item, setting, shots, fit_shots)
        plan.asked.append(requests)
        plan.cramped += cramped
        if had < shots:
            plan.fewer[item.id] = had
    return plan


def _ask(model: Any, pending: Sequence[Pending], batch: int, ledger: Ledger, what: str, tell: Progress) -> None:
    if pending:
        tell(what, 0, len(pending))
    for answered, (one, answer) in enumerate(ask(model, pending, batch), 1):
        ledger.put([(one.key, one.task, one.item, kept(answer))])
        tell(what, answered, len(pending))


def _graded(request: Request, given: Sequence[Any]) -> Answer:
    """An answer as it is judged: of an assistant without what it thought before."""
    if isinstance(request, Writing) and not isinstance(request.prompt, str):
        return tuple(without_thought(str(one)) for one in given)
    return restored(request, given)


def _asked(request: Request, given: Sequence[Any]) -> Asked:
    if isinstance(request, Writing):
        return Asked("writing", shown(request.prompt), (), tuple(given))
    scores = tuple({"logprob": logprob, "is_greedy": greedy, "tokens": tokens} for logprob, greedy, tokens in given)
    if isinstance(request, Likelihood):
        return Asked("likelihood", shown(request.context), request.continuations, scores)
    assert isinstance(request, Rolling)
    return Asked("rolling", request.text, (), scores)


# ------------------------------------------------------------------------------------------------------------ summing up


def _groups(
    metrics: Sequence[Metric], columns: Columns, groups: Sequence[str], clusters: Sequence[str] | None
) -> tuple[Group, ...]:
    if not any(groups):
        return ()
    by_metric: list[tuple[Metric, Mapping[str, Estimate]]] = [
        (metric, by_group(metric, columns, groups, clusters=clusters)) for metric in metrics
    ]
    return tuple(
        Group(name, groups.count(name), tuple(_figure(metric, found[name]) for metric, found in by_metric))
        for name in dict.fromkeys(groups)
    )


def _figure(metric: Metric, found: Estimate) -> Figure:
    return Figure(
        metric.name, found.value, found.stderr, found.low, found.high, metric.higher_is_better, metric.percent
    )


def _notes(plans: Sequence[_Plan], ledger: Ledger) -> Iterator[str]:
    """What a reader of the scores has to know."""
    for plan in plans:
        if clusters := Clusters.of(plan.clusters):
            yield f"{plan.task.name}: {len(plan.items)} items in {clusters.count} clusters; errors take them as such"
        if plan.fewer:
            yield (
                f"{plan.task.name}: {len(plan.fewer)} of {len(plan.items)} items were asked with fewer than {plan.shots} "
                f"solved examples, down to {min(plan.fewer.values())}, for the model's context holds no more"
            )
        if plan.cramped:
            yield (
                f"{plan.task.name}: the model's context leaves {plan.cramped} of {len(plan.items)} answers less room than the "
                "task gives them"
            )
        empty = sum(_wrote_nothing(keys, asked, ledger) for keys, asked in zip(plan.keys, plan.asked, strict=True))
        if empty:
            yield f"{plan.task.name}: the model wrote nothing for {empty} of {len(plan.items)} items"
    if ledger.damaged:
        yield f"{ledger.damaged} damaged lines of {ledger.folder} were asked anew"


def _wrote_nothing(keys: Sequence[str], requests: Sequence[Request], ledger: Ledger) -> bool:
    written = [key for key, request in zip(keys, requests, strict=False) if isinstance(request, Writing)]
    return bool(written) and not any(text.strip() for key in written for text in ledger.get(key))
