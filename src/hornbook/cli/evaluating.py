"""What ``hornbook eval`` does, model by model, and how it tells what came of it."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hornbook.cli import console
from hornbook.cli.models import fetch
from hornbook.cli.score_table import compared, scores
from hornbook.errors import RemoteError
from hornbook.evals import baseline as baselines
from hornbook.evals import folder as folders
from hornbook.evals.compare import Difference, compare, worse
from hornbook.evals.ledger import FILE as ANSWERS
from hornbook.evals.outcome import Outcome
from hornbook.evals.run import run
from hornbook.evals.shown import chance, number
from hornbook.evals.task import Means, Setting, Task
from hornbook.evals.trained_on import remarks
from hornbook.settings import Settings


@dataclass(frozen=True)
class Opening:
    """How models are opened; the adapter goes on the first alone."""

    device: str = "auto"
    dtype: str = "auto"
    adapter: str | None = None


@dataclass
class Evaluating:
    """One call of the verb: the options that hold for all its models."""

    settings: Settings
    tasks: Sequence[Task]
    setting: Setting
    opening: Opening
    out: Path | None
    limit: int | None
    fit_shots: bool
    log_samples: bool
    batch: int
    judge: str | None
    unsafe_code: bool
    groups: bool
    as_json: bool

    def carry_out(self, sources: Sequence[str], baseline: str | None, fail_if_worse: bool) -> int:
        """-> the exit code. Raises what opening models, reading questions and asking raise."""
        earlier = (
            None
            if baseline is None or not baselines.is_run(baseline)
            else baselines.earlier(Path(baseline).expanduser(), self.tasks)
        )
        others = [] if baseline is None or earlier is not None else [baseline]
        fetch(self.settings, *sources, *others, *([] if self.judge is None else [self.judge]))
        apart = len(sources) + len(others) > 1
        ran: list[tuple[Outcome, Path]] = []
        with ExitStack() as stack:
            judge = None
            if self.judge is not None:
                judge = stack.enter_context(closing(self._open(self.judge, None)))
            means = Means(judge, self.unsafe_code, self.settings)
            for place, source in enumerate([*others, *sources]):
                adapter = self.opening.adapter if place == len(others) else None
                ran.append(self._one(source, adapter, means, [folder for _, folder in ran] if apart else None))
        outcomes = [outcome for outcome, _ in ran]
        pair = None if earlier is None and len(outcomes) < 2 else (earlier or outcomes[0], outcomes[-1])
        found: tuple[Difference, ...] = ()
        if pair is not None:
            baselines.check_asked(*pair)
            found = compare(*pair, common=True)
        lost = worse(found) if baseline is not None else []
        page = self._page(ran, pair, found)
        self._tell(ran, pair, found, lost, page, gated=baseline is not None)
        return 1 if lost and fail_if_worse else 0

    # --- one model

    def _one(
        self, source: str, adapter: str | None, means: Means, others: Sequence[Path] | None
    ) -> tuple[Outcome, Path]:
        """Ask one model. ``others``: folders of those asked before, where there are several: each has its own below --out."""
        with closing(self._open(source, adapter)) as model:
            identity = folders.identify(model, source, self.settings, adapter)
            folder = folders.folder_for(self.settings, identity, self.tasks, self.setting)
            if self.out is not None:
                folder = self.out.expanduser().absolute()
                if others is not None:
                    folder = folder / folders.plain(identity.name)
                    if folder in others:
                        folder = folder.with_name(f"{folder.name}-{identity.fingerprint[:8] or 'second'}")
            try:
                with console.progress() as progress:
                    outcome = run(
                        model,
                        self.tasks,
                        setting=self.setting,
                        limit=self.limit,
                        folder=folder,
                        identity=identity,
                        means=means,
                        batch=self.batch,
                        fit_shots=self.fit_shots,
                        report=progress,
                    )
                    outcome = replace(
                        outcome,
                        notes=(*remarks(source, adapter, outcome, self.tasks, self.settings, progress), *outcome.notes),
                    )
            except (KeyboardInterrupt, RemoteError):
                if _has_answers(folder / ANSWERS):
                    console.say(f"  what was answered is kept in {folder}; the same command goes on from there")
                raise
        folders.write(outcome, folder, samples=self.log_samples)
        return outcome, folder

    def _open(self, source: str, adapter: str | None) -> Any:
        from hornbook.llm import load

        opening = self.opening
        return load(source, device=opening.device, dtype=opening.dtype, adapter=adapter, settings=self.settings)

    # --- two models

    def _page(
        self, ran: Sequence[tuple[Outcome, Path]], pair: tuple[Outcome, Outcome] | None, found: Sequence[Difference]
    ) -> Path:
        """The report for a person: of one model in its folder, of two beside theirs."""
        from hornbook.evals.report import write

        if pair is None:
            outcome, folder = ran[0]
            write(folder / folders.REPORT, outcome)
            return folder / folders.REPORT
        folder = ran[-1][1]
        if len(ran) > 1 and self.out is not None:
            folder = self.out.expanduser().absolute()
        elif len(ran) > 1:
            digest = hashlib.sha256("\n".join(str(own) for _, own in ran).encode()).hexdigest()[:10]
            named = "-vs-".join(folders.plain(outcome.model.name) for outcome, _ in ran)
            folder = self.settings.home / "evals" / f"{named}-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / folders.REPORT, *pair, differences=found)
        return folder / folders.REPORT

    # --- telling

    def _tell(
        self,
        ran: Sequence[tuple[Outcome, Path]],
        pair: tuple[Outcome, Outcome] | None,
        found: Sequence[Difference],
        lost: Sequence[tuple[Difference, float]],
        page: Path,
        *,
        gated: bool,
    ) -> None:
        for outcome, folder in ran:
            console.say(f"  {_summary(outcome)} · {folder}")
            for note in outcome.notes:
                console.say(f"  note: {note}")
        console.say(f"  report: {page}")
        if self.as_json:
            told = [{**outcome.to_json(items=False), "folder": str(folder)} for outcome, folder in ran]
            lost_json = [{**one.to_json(), "corrected_p": p} for one, p in lost]
            differences = [one.to_json() for one in found]
            console.print_json({"outcomes": told, "differences": differences, "worse": lost_json, "report": str(page)})
        else:
            drawn: dict[str, Any] = {"width": None, "colour": False}
            if sys.stdout.isatty():
                drawn = {"width": console.out.width, "colour": console.accent("x") != "x"}
            table = scores(ran[0][0], groups=self.groups, **drawn) if pair is None else compared(*pair, found, **drawn)
            print(table)
        if gated and pair is not None:
            for one, p in lost:
                console.say(f"  worse than {pair[0].model.name}: {_drop(one)}, p {chance(p)}")
            if not lost:
                console.say(f"  nowhere worse than {pair[0].model.name} beyond chance")


def _has_answers(path: Path) -> bool:
    """Beyond the first line, which says whose they are."""
    try:
        with path.open("rb") as file:
            return sum(1 for _, _ in zip(range(2), file, strict=False)) == 2
    except OSError:
        return False


def _summary(outcome: Outcome) -> str:
    """smollm2:135m · native avx2 · 40 questions asked, 12 known from before · 3.1 s"""
    asked = f"{outcome.asked:,} questions asked" + (f", {outcome.kept:,} known from before" if outcome.kept else "")
    runs = [outcome.model.runs_on] if outcome.model.runs_on else []
    return " · ".join([outcome.model.name, *runs, asked, f"{outcome.seconds:,.1f} s"])


def _drop(one: Difference) -> str:
    """boolq acc 71.00 -> 60.20"""
    return f"{one.task} {one.metric} {number(one.before, one.percent)} -> {number(one.after, one.percent)}"
