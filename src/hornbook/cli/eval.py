"""``hornbook eval``: what a model scores, how sure that is, and whether another one is better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hornbook.cli import console
from hornbook.errors import UsageError
from hornbook.settings import Settings


def _ends(incomplete: str) -> list[str]:
    """For the shell: how a word of --tasks could end."""
    from hornbook.evals.registry import kinds

    before, comma, word = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in kinds() if name.startswith(word)]


def eval(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL", help="As run takes it, or a server's address; two are compared."),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", "-t", help="Names or files, as in arc_*,gsm8k,mine.jsonl.", autocompletion=_ends),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option("--shots", "-n", min=0, help="Solved examples before each question. Default: the task's own."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the examples.")] = 1234,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="With the model's chat template, or not. Default: the task's own."),
    ] = None,
    system: Annotated[str, typer.Option(help="What comes first of all.")] = "",
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, help="Of a written answer, as for models that think. Default: the task's."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-l", min=1, help="Only so many items of each task, from all its groups.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="A folder with questions, or hf:datasets/ORG/NAME, before those of HORNBOOK_DATA."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run's folder. Default: evals/NAME in Hornbook's home.")
    ] = None,
    log_samples: Annotated[
        bool, typer.Option("--log-samples", help="Write each item with its prompt, its answers and its grade.")
    ] = False,
    groups: Annotated[
        bool, typer.Option("--groups", help="Show a task's parts, too, such as MMLU's subjects.")
    ] = False,
    fit_shots: Annotated[
        bool, typer.Option("--fit-shots", help="Drop solved examples that the model's context has no room for.")
    ] = False,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Compare with this model, or with the folder of an earlier run.")
    ] = None,
    fail_if_worse: Annotated[
        bool, typer.Option("--fail-if-worse", help="End with 1 where a score is below the baseline's beyond chance.")
    ] = False,
    allow_unsafe_code: Annotated[
        bool, typer.Option("--allow-unsafe-code", help="Run a model's code even where nothing keeps it apart.")
    ] = False,
    judge: Annotated[
        str | None, typer.Option("--judge", help="The model that judges answers, where a task wants one.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="On MODEL: an adapter's folder, or the run that trained one.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, int4.")] = "auto",
    batch: Annotated[int, typer.Option("--batch", min=1, help="So many questions are asked at a time.")] = 64,
    offline: Annotated[bool, typer.Option("--offline", help="Never open a socket.")] = False,
    list_tasks: Annotated[bool, typer.Option("--list", help="List the tasks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON on standard output.")] = False,
) -> int:
    """Ask a model the questions of some tasks, and tell its scores with their uncertainty.

    The same command goes on with a run that was stopped or killed: nothing is asked twice. Files of your own questions
    (.jsonl, .yaml, .py) are tasks like the named ones; of two models, the second is compared with the first.
    """
    if list_tasks:
        _list(as_json)
        return 0
    sources = list(models or [])
    if not 1 <= len(sources) <= 2:
        raise UsageError(
            f"{len(sources)} models were named: {', '.join(sources)}" if sources else "no model was named",
            "Name one, or two to compare: hornbook eval smollm2:135m --tasks arc_easy.",
        )
    if baseline is not None and len(sources) > 1:
        raise UsageError("two models are compared, and a baseline was named, too", "Name one model and its baseline.")
    if fail_if_worse and baseline is None:
        raise UsageError("--fail-if-worse has nothing to compare with", "Name a model or a run with --baseline.")
    from hornbook.cli.evaluating import Evaluating, Opening
    from hornbook.evals.data import Data
    from hornbook.evals.registry import tasks as named
    from hornbook.evals.task import Setting

    settings = Settings.load(offline=offline or None)
    with console.progress("bytes") as progress:
        places = Data.load(settings, *(data or []), progress=progress)
    made = named(words(tasks or []), places)
    if not made:
        raise UsageError("no tasks were named", "Name some with --tasks; hornbook eval --list shows all.")
    evaluating = Evaluating(
        settings,
        made,
        Setting(shots, seed, chat, system, max_tokens),
        Opening(device, dtype, adapter),
        out=out,
        limit=limit,
        fit_shots=fit_shots,
        log_samples=log_samples,
        batch=batch,
        judge=judge,
        unsafe_code=allow_unsafe_code,
        groups=groups,
        as_json=as_json,
    )
    return evaluating.carry_out(sources, baseline, fail_if_worse)


def words(given: list[str]) -> list[str]:
    """What --tasks names, said once with commas or several times; a file's name may hold commas."""
    found: list[str] = []
    for text in given:
        parts = [text] if Path(text).exists() else [part.strip() for part in text.split(",")]
        found += [part for part in parts if part and part not in found]
    return found


def _list(as_json: bool) -> None:
    from hornbook.evals.registry import kinds

    known = kinds()
    if as_json:
        console.print_json([{"task": name, "what": kind.what} for name, kind in known.items()])
        return
    print(console.table([(name, kind.what) for name, kind in known.items()]))
