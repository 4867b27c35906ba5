"""Carry a recipe out: make ready, show, refuse, train, save, say what came of it.

    Recipe --prepare--> Job --Preview--> fit in the run's folder --> model/ or adapter/ --> Outcome

The same recipe in the same folder goes on where it stopped, and tells again what came of it where it is finished.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hornbook.errors import StoreError, UsageError
from hornbook.recipes import forecast, gate
from hornbook.recipes.config import Recipe, Training
from hornbook.recipes.job import Job, Place
from hornbook.recipes.kinds import RECIPES
from hornbook.recipes.outcome import FREE, Outcome, called, lines_of, stored, told, write
from hornbook.recipes.preview import Preview, check
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.train.average import WeightMean
    from hornbook.train.evaluate import Validation
    from hornbook.train.folder import RunFolder
    from hornbook.train.loop import Step
    from hornbook.train.schedule import Schedule
    from hornbook.train.team import Team

Report = Callable[[int, int, str], None]  # (step, steps, what there is to say of it)


def run(
    recipe: Recipe,
    folder: Path,
    *,
    settings: Settings,
    show: Callable[[Preview], object],
    report: Report,
    say: Callable[[str], object],
    force: bool = False,
    dry: bool = False,
) -> Outcome | None:
    """Carry ``recipe`` out in ``folder``; None where it is ``dry`` and ends with what is shown, and in all processes but
    the first of those that torchrun has started: that one writes, and speaks.

    Raises UsageError for another recipe in the folder, a training that would not fit (unless ``force``) or settings that
    contradict each other; DataError for the data; TrainingError, TrainingStopped and StoreError as `hornbook.train.fit`;
    GateFailed where the result is worse than it may be: the run is kept then.
    """
    from hornbook.train import distributed

    training = recipe.training
    with distributed.joined(device=training.device, tensor=training.tensor_parallel) as (team, _):
        asked = gate.of_recipe(recipe, settings) if team.first else None  # before the work: a task may not be there
        if not team.first:
            show = report = say = _silent
        outcome = _run(recipe, Place(folder, settings, force, say), show, report, dry, team)
    if asked is None or outcome is None:
        return outcome
    return gate.passed(asked, recipe, outcome, settings, report, say)


def _run(
    recipe: Recipe, place: Place, show: Callable[[Preview], object], report: Report, dry: bool, team: Team
) -> Outcome | None:
    from hornbook.train import allocator, distributed, events
    from hornbook.train.folder import RunFolder, differences, read_state

    folder, say = place.folder, place.say
    asked = recipe.model_dump(mode="json")
    before = stored(folder)
    if before is not None and (folder / "checkpoints").exists() and (changed := differences(before, asked, FREE)):
        raise UsageError(
            f"{folder} holds a run of another recipe: {'; '.join(changed)}",
            "Ask for the same to go on with it, or begin another with -o FOLDER.",
        )
    if recipe.training.tensorboard:
        events.require()
    lean = recipe.training.activation_checkpointing or getattr(getattr(recipe, "adapter", None), "kind", "") == "qlora"
    (allocator.give_back_freed_memory if lean else allocator.keep_freed_memory)()
    with ExitStack() as stack:
        if dry:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hornbook-")))
        held = RunFolder(folder)
        if team.first:
            stack.enter_context(held)
        finished = not dry and read_state(folder).get("status") == "finished"
        outcome = told(folder) if finished else None
        if team.any(outcome is not None):
            if outcome is not None:
                say(f"  {outcome.name} is finished: this is what came of it")
            return outcome if team.first else None
        prepare, place = RECIPES[recipe.recipe].prepare, replace(place, folder=folder)
        job = prepare(recipe, place) if team.first else None
        team.any(False)  # the others wait for the encoded data, which is then there
        job = prepare(recipe, place) if job is None else job
        job.sets.rank, job.sets.world = distributed.place(team)
        steps = steps_of(recipe.training, job)
        preview = previewed(recipe, job, steps)
        show(preview)
        check(preview)
        if dry:
            return None
        if team.first:
            if held.has_checkpoint():
                _check_data(folder, job)
                write(folder / "recipe.yaml", asked)  # the same, with what a later Hornbook has added
            held.begin(asked, model=job.called, steps=steps, free=FREE, say=say)
            write(folder / "data.json", {**job.sets.to_json(), "preview": preview.data()})
        return _carry_out(recipe, job, held, steps, place, report, team)


def _check_data(folder: Path, job: Job) -> None:
    """Raises UsageError where a run that is to go on was begun with other data."""
    try:
        before = json.loads((folder / "data.json").read_text("utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError):
        return
    if before != job.sets.train.fingerprint:
        raise UsageError(
            f"the data or its tokenizer has changed since the run in {folder} began",
            "Bring back what it was to go on, or begin another run with -o FOLDER.",
        )


# ------------------------------------------------------------------------------------------------------------- before


def steps_of(training: Training, job: Job) -> int:
    """Updates of the weights."""
    if training.steps is not None:
        return training.steps
    return max(1, math.ceil(training.epochs * job.sets.epoch_batches / training.accumulate))


def previewed(recipe: Recipe, job: Job, steps: int) -> Preview:
    training, account = recipe.training, job.sets.account
    passes = steps * training.accumulate
    epochs = passes / max(1, job.sets.epoch_batches)
    tokens = round(epochs * account.tokens)
    learnt = account.learnt / max(1, account.tokens) if job.anatomy.config.language_head else 0.0
    context = min(recipe.data.context, max(2, account.tokens // max(1, account.rows)))
    foreseen = forecast.seconds(job.anatomy, training, context, tokens, learnt, frozen=job.attached is not None)
    return Preview(
        recipe=recipe.recipe,
        model=job.called,
        method=job.method,
        trained=job.trained,
        parameters=job.parameters,
        examples=account.examples,
        held_out=job.sets.held_out,
        tokens=account.tokens,
        learnt=account.learnt,
        truncated=account.truncated,
        dropped=account.dropped,
        unlearnt=account.unlabelled,
        skipped=job.sets.skipped,
        steps=steps,
        tokens_a_step=round(tokens / steps),
        epochs=epochs,
        memory=job.memory,
        seconds=foreseen,
        example=job.example,
        notes=tuple(job.notes),
    )


def schedule_of(training: Training, steps: int) -> Schedule:
    """How the rate goes; a warm-up that is a share is rounded up to whole steps."""
    from hornbook.train import schedule

    warmup = training.warmup if isinstance(training.warmup, int) else math.ceil(training.warmup * steps)
    return schedule.make(training.schedule, steps, warmup=warmup, end=training.end)


# ------------------------------------------------------------------------------------------------------------- during


def _carry_out(
    recipe: Recipe,
    job: Job,
    folder: RunFolder,
    steps: int,
    place: Place,
    report: Report,
    team: Team,
) -> Outcome | None:
    from hornbook.train import blocks, distributed, optim, precision
    from hornbook.train import report as report_html
    from hornbook.train.average import MovingAverage
    from hornbook.train.events import Events
    from hornbook.train.fit import fit

    training, say = recipe.training, place.say
    accumulate = distributed.share_out(training.accumulate, team)
    early: list[str] | None = None  # asked while the model is whole: of a part nobody can ask anything
    if team.size > 1 and team.first and not folder.has_checkpoint() and job.answer is not None:
        early = job.answer(job.ask)
    chosen = forecast.precision(training.precision, job.model.device.type)
    if training.compile:
        blocks.compiled(job.model, job.model.device, say)
    shards = distributed.shared_out(job.model, team, precision=chosen)
    # Shards keep float32 weights and pass in another type by themselves.
    numbers = precision.make(chosen if shards is None else "float32")
    trained = numbers.take((job.named if shards is None else shards.trained(job.named)).items())
    assert training.rate is not None, "a recipe settles its rate"
    optimizer = optim.make(
        training.optimizer,
        trained,
        rate=training.rate,
        weight_decay=training.weight_decay,
        betas=training.betas,
        epsilon=training.epsilon,
    )
    average: WeightMean | None = None if job.average is None else job.average(steps)
    if training.ema is not None:
        average = MovingAverage(trained, decay=training.ema, changed=numbers.settle)
    speed = _Speed()

    def on_step(step: Step) -> None:
        speed(step)
        report(step.step, steps, f"loss {step.loss:.3f}, {speed.tokens:,.0f} tokens/s")

    board = Events(folder.path) if training.tensorboard and team.first else None

    def on_validation(step: int, found: Validation) -> None:
        if board is not None:
            board.validation(step, found.loss)
        if step == 0:
            say(f"  held-out loss {found.loss:.4f} before the first step")
            if team.first:
                _sample(job, folder, 0, early)

    tenth = max(1, steps // 10)
    recomputed = blocks.recomputed(job.model) if training.activation_checkpointing else nullcontext()
    with recomputed, board or nullcontext():
        fit(
            job.model,
            job.sets.feed(),
            job.loss,
            optimizer,
            folder=folder,
            checkpoints=distributed.checkpoints(folder.checkpoints, trained, optimizer, team),
            steps=steps,
            accumulate=accumulate,
            team=team,
            clip=training.clip,
            schedule=schedule_of(training, steps),
            precision=numbers,
            average=average,
            seed=training.seed,
            save_every=training.save_every or tenth,
            keep=training.keep,
            validate=job.sets.held_out_batches if job.sets.held_out else None,
            validate_every=training.validate_every or tenth,
            on_step=[on_step] if board is None else [on_step, board],
            on_validation=on_validation,
            say=say,
        )
    del optimizer
    if shards is not None and not shards.gather():
        return None
    result = _put(job, folder.path)
    _sample(job, folder, steps, anew=True)
    scores = job.scores() if job.scores is not None else {}
    name = called(folder.path, place.settings)
    write(
        folder.path / "outcome.json", {"name": name, "kind": job.kind, "scores": scores, "commands": [*job.next(name)]}
    )
    folder.finish()
    report_html.write(folder.path)
    outcome = told(folder.path)
    assert outcome is not None and outcome.result == result
    return outcome


def _silent(*said: object) -> None:
    """What all processes but the first have to say."""


class _Speed:
    """Tokens a second of the last few steps."""

    def __init__(self) -> None:
        self.tokens = 0.0

    def __call__(self, step: Step) -> None:
        now = step.tokens / max(step.seconds, 1e-9)
        self.tokens = now if not self.tokens else 0.8 * self.tokens + 0.2 * now


def _sample(job: Job, folder: RunFolder, step: int, replies: list[str] | None = None, *, anew: bool = False) -> None:
    """Ask the model, unless its ``replies`` are there; ``anew``: unless the file has the answers of that step, of a run that was killed as it ended."""
    if (
        not job.ask
        or job.answer is None
        or (anew and any(row["step"] == step for row in lines_of(folder.path / "samples.jsonl")))
    ):
        return
    for asked, reply in zip(job.ask, job.answer(job.ask) if replies is None else replies, strict=True):
        folder.sample(step, asked.text, reply)


def _put(job: Job, folder: Path) -> Path:
    """The result under its name, whole or not at all."""
    final, partial = folder / job.kind, folder / f".{job.kind}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        job.write(partial)
        if final.exists():
            shutil.rmtree(final)
        os.rename(partial, final)
    except OSError as error:
        raise StoreError(
            f"{final} cannot be written: {error.strerror or error}", "Make room, and give the same command again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final
