"""A gate: a model that was made of another is asked the same questions, and does not pass where it lost what the other had.

    before  a model, an earlier run's results, or nothing ─┐
    after   the model that is to pass                     ─┴ the same tasks ──> Verdict

Answers are kept where ``hornbook eval`` keeps them: a baseline is asked once, whatever is held against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hornbook.errors import GateFailed, UsageError
from hornbook.evals import baseline as baselines
from hornbook.evals import folder as folders
from hornbook.evals.compare import Difference, compare, worse
from hornbook.evals.judge import Judged
from hornbook.evals.outcome import Outcome
from hornbook.evals.run import run
from hornbook.evals.shown import chance, error, number
from hornbook.evals.task import Means, Setting, Task
from hornbook.evals.trained_on import remarks
from hornbook.settings import Settings
from hornbook.types import Progress


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model as ``hornbook.load`` opens it. ``name``: what results call it, where its own does not tell."""

    source: str
    adapter: str | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it. ``lost``: where ``after`` is worse beyond chance, each with its corrected p."""

    after: Outcome
    before: Outcome | None = None
    differences: tuple[Difference, ...] = ()
    lost: tuple[tuple[Difference, float], ...] = ()

    def lines(self) -> list[str]:
        """For a person: a line for each task, by the metric that it is known by; and what has to be known of the answers."""
        told = []
        for result in self.after.results:
            figure = result.figure()
            now = f"{number(figure.value, figure.percent)} {error(figure.stderr, figure.percent)}".strip()
            pair = next((one for one in self.differences if (one.task, one.metric) == (result.task, figure.name)), None)
            was = f"{number(pair.before, pair.percent)} -> " if pair is not None else ""
            p = next((p for one, p in self.lost if one is pair), None)
            verdict = f", worse: p {chance(p)}" if p is not None else ""
            told.append(f"{result.task} {figure.name} {was}{now} ({result.items:,} items){verdict}")
        return [*told, *(f"note: {note}" for note in self.after.notes)]

    def scores(self) -> dict[str, float]:
        """The value of each task by its first metric."""
        found = ((f"{one.task} {one.figure().name}", one.figure().value) for one in self.after.results)
        return {name: value for name, value in found if value is not None}

    def check(self, what: str) -> None:
        """Raises GateFailed where something was lost; ``what`` happens to the model then."""
        if self.lost and self.before is not None:
            named = "; ".join(
                f"{one.task} {one.metric} {number(one.before, one.percent)} -> {number(one.after, one.percent)} "
                f"(p {chance(p)})"
                for one, p in self.lost
            )
            raise GateFailed(f"{self.after.model.name} is worse than {self.before.model.name}: {named}", what)


@dataclass(frozen=True)
class Gate:
    """What is asked of every model that is to pass."""

    tasks: Sequence[Task]
    limit: int | None = None
    setting: Setting = field(default_factory=Setting)
    judge: str | None = None
    device: str = "auto"

    def check(self) -> None:
        """Whether all that it takes is there, before the work that it is to judge. Raises DataError for questions that are not,
        UsageError for a judge that nobody has named and a sandbox that would not hold."""
        for task in self.tasks:
            task.items()
            if not isinstance(task, Judged):
                task.equip(Means())
            elif not (self.judge or task.named):
                raise UsageError(f"{task.name} needs a judge", "Name a model, in the task's file or beside its name.")

    def weigh(
        self, after: Candidate, before: Candidate | Path | None, settings: Settings, report: Progress | None = None
    ) -> Verdict:
        """Ask both and compare. ``before``: a path of results, an earlier run's. Raises what opening models, reading
        questions and asking raise, and UsageError where earlier results lack a task or an item."""
        with ExitStack() as stack:
            judge = stack.enter_context(closing(self._open(Candidate(self.judge), settings))) if self.judge else None
            means = Means(judge, settings=settings)
            earlier: Outcome | None = None
            if isinstance(before, Path):
                earlier = baselines.earlier(before, self.tasks)
            elif before is not None:
                earlier = self._asked(before, means, settings, report)
            now = self._asked(after, means, settings, report)
        if earlier is None:
            return Verdict(now)
        baselines.check_asked(earlier, now)
        found = compare(earlier, now, common=True)
        return Verdict(now, earlier, found, tuple(worse(found)))

    def _asked(self, one: Candidate, means: Means, settings: Settings, report: Progress | None) -> Outcome:
        with closing(self._open(one, settings)) as model:
            identity = folders.identify(model, one.source, settings, one.adapter)
            identity = replace(identity, name=one.name or identity.name)
            folder = folders.folder_for(settings, identity, self.tasks, self.setting)
            outcome = run(
                model,
                self.tasks,
                setting=self.setting,
                limit=self.limit,
                folder=folder,
                identity=identity,
                means=means,
                report=report,
            )
            seen = remarks(one.source, one.adapter, outcome, self.tasks, settings, report)
            outcome = replace(outcome, notes=(*seen, *outcome.notes))
        folders.write(outcome, folder)
        return outcome

    def _open(self, one: Candidate, settings: Settings) -> Any:
        from hornbook.llm import load

        return load(one.source, adapter=one.adapter, device=self.device, settings=settings)
