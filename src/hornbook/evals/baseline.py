"""What an earlier run has left, taken as what a model is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hornbook.errors import UsageError
from hornbook.evals.outcome import FILE, Outcome
from hornbook.evals.task import Task


def is_run(baseline: str) -> bool:
    """Whether that is what an earlier run has left, and not a model."""
    path = Path(baseline).expanduser()
    return (path / FILE).is_file() or (path.suffix == ".json" and path.is_file())


def earlier(path: Path, tasks: Sequence[Task]) -> Outcome:
    """The results of an earlier run, of these tasks. Raises UsageError where it has not all of them, DataError."""
    outcome = Outcome.read(path).with_metrics({task.name: task.metrics for task in tasks})
    names = [task.name for task in tasks]
    there = {result.task: result for result in outcome.results}
    if missing := [name for name in names if name not in there]:
        raise UsageError(
            f"{path} has no results of {', '.join(missing)}: there are {', '.join(there)}",
            "Name tasks that it has, or the model itself as the baseline.",
        )
    return replace(outcome, results=tuple(there[name] for name in names))


def check_asked(before: Outcome, after: Outcome) -> None:
    """Raises UsageError where the baseline lacks items that were asked now: a gate must not pass for what it did not see.
    Items that only the baseline has are left out of a comparison."""
    known = {result.task: set(result.ids) for result in before.results}
    for result in after.results:
        if lacking := [id for id in result.ids if id not in known.get(result.task, set())]:
            raise UsageError(
                f"{before.model.name} was not asked {len(lacking):,} of {result.items:,} items of {result.task}, "
                f"such as {lacking[0]}",
                "Ask as few with --limit, or name the model itself as the baseline.",
            )
