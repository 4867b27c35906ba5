"""``hornbook bench``: how fast a model runs here, and how fast other programs run it beside."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hornbook.cli import console
from hornbook.cli.models import fetch
from hornbook.errors import StoreError, UsageError
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.cli.benching.rows import Row
    from hornbook.cli.benching.workers import Worker


def bench(
    model: Annotated[str | None, typer.Argument(help="Default: the setting HORNBOOK_MODEL.")] = None,
    against: Annotated[
        str, typer.Option(help="Measure these too, in turns: llamacpp, transformers, or programs by their path.")
    ] = "",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Of each measure; its median counts.")] = 3,
    threads: Annotated[int, typer.Option("--threads", min=0, help="Of every program; 0: one a processor.")] = 0,
    only: Annotated[str, typer.Option("--only", help="Some measures, as in decode_1,prefill_512.")] = "",
    draft: Annotated[
        str, typer.Option("--draft", help="What guesses ahead: auto, lookup, none, or a small model.")
    ] = "auto",
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the medians into this SVG file.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the JSON into this file too.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Never open a socket.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Measure prefill, decode, time to first token, memory and what a shared prefix saves, beside other programs if wanted.

    Each program loads the model once, in a process of its own, and they take turns; leave the machine alone meanwhile.
    """
    from hornbook.checkpoint.store import Store
    from hornbook.cli.benching.rows import ALL, run
    from hornbook.cli.benching.workers import Worker, command_of

    settings = Settings.load(offline=offline or None)
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := sorted(set(wanted) - {measure.key for measure in ALL}):
        raise UsageError(f"there is no measure {', '.join(unknown)}", f"The measures: {', '.join(m.key for m in ALL)}.")
    commands = [
        [sys.executable, "-m", "hornbook.cli.benching.ours", *([] if draft == "auto" else [f"--draft={draft}"])]
    ]
    commands += [command_of(name.strip()) for name in against.split(",") if name.strip()]
    source = model or settings.model
    fetch(settings, source)
    path = Store(settings).ensure(source).path
    size = path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    threads = threads or settings.threads or os.cpu_count() or 1
    with ExitStack() as stack:
        programs: list[Worker] = []
        for command in commands:
            console.say(f"  loading with {command[-1]}")
            program = Worker(command, path, threads)
            stack.callback(program.close)
            programs.append(program)
        rows = []
        for measure in ALL:
            if not wanted or measure.key in wanted:
                rows.append(run(measure, programs, rounds, size))
                for name, why in rows[-1].failed.items():
                    console.say(f"  {measure.title}: {name} has no figure: {why}")
                if not as_json:
                    console.say("  " + _line(rows[-1]))
    result = {
        "model": source,
        "file_bytes": size,
        "threads": threads,
        "draft": draft,
        "rounds": rounds,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": processor(), "processors": os.cpu_count(), "system": platform.platform()},
        "python": platform.python_version(),
        "programs": [program.about for program in programs],
        "rows": [row.to_json() for row in rows],
    }
    if output is not None:
        _write(output, json.dumps(result, ensure_ascii=False, indent=2) + "\n")
    if plot is not None:
        from hornbook.cli.benching.plot import svg

        _write(plot, svg(rows, f"{source} · {processor()} · {threads} threads"))
    if as_json:
        console.print_json(result)
        return
    print(table(rows, [program.name for program in programs]))


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The medians, a program a column, and how many times better the first is than each other."""
    from hornbook.cli.benching.plot import figure

    first, *others = names
    cells: list[list[str]] = []
    for row in rows:
        medians = [row.median(name) for name in names]
        ratios = [row.ratio(first, other) for other in others]
        cells.append(
            [f"{row.measure.title}, {row.measure.unit}"]
            + ["-" if value is None else figure(value) for value in medians]
            + ["-" if value is None else f"{value:.2f}x" for value in ratios]
        )
    return console.table(cells, ["", *names, *(f"/ {other}" for other in others)])


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _line(row: Row) -> str:
    said: list[Any] = [f"{name} {value:,.1f}" for name in row.figures if (value := row.median(name)) is not None]
    return f"{row.measure.title}: {', '.join(said) or 'no figure'} {row.measure.unit}"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}", "Give another file.") from error
