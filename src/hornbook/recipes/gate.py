"""What a recipe's result is asked when it is made, beside the model that it was made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hornbook.recipes.config import Evaluation, Recipe
from hornbook.recipes.outcome import Outcome
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.evals.gate import Candidate, Gate, Verdict

Report = Callable[[int, int, str], None]
Say = Callable[[str], object]
BASE = "base"
PAGE = "evaluation.html"


def of_recipe(recipe: Recipe, settings: Settings) -> Gate | None:
    """What a recipe wants asked. Raises UsageError and DataError for tasks that there are not."""
    wanted = getattr(recipe, "evaluate", None)
    return None if wanted is None else made(wanted, settings, recipe.training.device)


def made(wanted: Evaluation, settings: Settings, device: str = "auto") -> Gate:
    """All that it takes is there when this returns. Raises UsageError, DataError."""
    from hornbook.evals.data import Data
    from hornbook.evals.gate import Gate
    from hornbook.evals.registry import tasks
    from hornbook.evals.task import Setting

    found = tasks(wanted.tasks, Data.load(settings, *wanted.data))
    gate = Gate(found, wanted.limit, Setting(wanted.shots, chat=wanted.chat), wanted.judge, device)
    gate.check()
    return gate


def passed(gate: Gate, recipe: Recipe, outcome: Outcome, settings: Settings, report: Report, say: Say) -> Outcome:
    """Ask a run's result; -> its outcome with the scores. Raises GateFailed, and what opening and asking models raise."""
    from hornbook.evals.gate import Candidate

    wanted: Evaluation = getattr(recipe, "evaluate")  # noqa: B009 - only some recipes have one
    base: str | None = getattr(recipe, "model", None)
    if outcome.result.name == "adapter" and base is not None:
        after = Candidate(base, str(outcome.result), outcome.name)
    else:
        after = Candidate(str(outcome.result), name=outcome.name)
    verdict = weighed(gate, wanted, after, base, settings, report, say)
    page(verdict, outcome.folder / PAGE)
    if wanted.fail_if_worse:
        verdict.check(f"The run is kept in {outcome.folder}; {PAGE} there shows what it lost.")
    return replace(outcome, scores={**outcome.scores, **verdict.scores()})


def weighed(
    gate: Gate, wanted: Evaluation, after: Candidate, base: str | None, settings: Settings, report: Report, say: Say
) -> Verdict:
    """``base``: the model that the other one was made of, if it was."""
    from hornbook.evals.baseline import is_run
    from hornbook.evals.gate import Candidate

    named = base if wanted.baseline == BASE else wanted.baseline
    before: Candidate | Path | None = None
    if named is not None:
        before = Path(named).expanduser() if is_run(named) else Candidate(named)

    def tell(what: str, done: int, total: int) -> None:
        if total:
            report(done, total, what)

    verdict = gate.weigh(after, before, settings, tell)
    for line in verdict.lines():
        say(f"  {line}")
    return verdict


def page(verdict: Verdict, path: Path) -> None:
    """The report for a person. Raises StoreError."""
    from hornbook.evals.report import write

    if verdict.before is None:
        write(path, verdict.after)
    else:
        write(path, verdict.before, verdict.after, differences=verdict.differences)
