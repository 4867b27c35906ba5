"""``hornbook plan``: how much memory a model will need, what would run it, and whether this machine has it; only the header
is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hornbook.cli import console
from hornbook.cli.models import AsJson, Name
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.checkpoint.machine import Room
    from hornbook.checkpoint.memory import Moment, Plan, Request
    from hornbook.engine.forecast import Running

DEFAULT_CONTEXT = 4096  # tokens, or the model's own where it has fewer
_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimiser": "optimiser",
    "activations": "activations",
    "cache": "key-value cache",
    "tokenizer": "tokenizer",
    "scores": "logits",
    "working": "working space",
    "allocator": "allocator",
}


def plan(
    model: Name,
    context: Annotated[
        int | None, typer.Option("--context", help=f"Tokens in a row; the model's, at most {DEFAULT_CONTEXT:,}.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", help="Rows side by side.")] = 1,
    train: Annotated[
        str | None, typer.Option("--train", help="Plan training: full, lora or qlora.", metavar="WAY")
    ] = None,
    rank: Annotated[int, typer.Option("--rank", help="Rank of the adapters of lora and qlora.")] = 16,
    dtype: Annotated[
        str,
        typer.Option("--dtype", help="float32, bfloat16, float16 (with torch); auto: the best that runs it here."),
    ] = "auto",
    optimizer: Annotated[str, typer.Option("--optimizer", help="adamw, adamw8bit or adafactor.")] = "adamw",
    as_json: AsJson = False,
) -> None:
    """Tell how much memory running or training a model will take, and whether this machine has it."""
    from typing import cast

    from hornbook.checkpoint import machine, memory
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.loading import pick_device, pick_dtype
    from hornbook.checkpoint.store import Store
    from hornbook.engine.forecast import foresee
    from hornbook.kernels.library import library

    settings = Settings.load()
    path = Store(settings).get(model).path
    anatomy = Anatomy.read(path)
    device = pick_device(settings.device)
    request = memory.Request(
        anatomy,
        min(anatomy.config.context_length, DEFAULT_CONTEXT) if context is None else context,
        batch,
        str(pick_dtype(dtype, device)).removeprefix("torch."),
        cast("memory.Method | None", train),
        optimizer,
        rank,
        fused=device.type == "cpu" and library(settings) is not None,
    )
    running = foresee(path, anatomy.config, settings.device, dtype, settings) if train is None else None
    make = memory.plan if running is None else running.plan
    program = running.program if running is not None else memory.PROGRAM if device.type == "cpu" else 0
    planned = make(request)
    room = machine.room(str(device))
    needs = planned.peak + program
    fits = None if room is None else needs <= room.free
    remedies = []
    if room is not None and not fits:
        remedies = _remedies(request, make, room.free - program, dtypes=running is None or not running.native)
    if as_json:
        console.print_json(_data(model, request, planned, program, running, room, fits, remedies))
        return
    if running is not None:
        way = f"run · {running.executor}"
    else:
        way = f"train {train} · {optimizer}" + (f" · rank {rank}" * (train != "full")) + f" · {request.dtype}"
    print(model)
    print(f"  {way} · {batch:,} x {request.context:,} tokens")
    if running is not None and running.reason is not None:
        print(f"  with torch: {running.reason}")
    print()
    print("\n".join(_breakdown(planned.worst, program)))
    if running is not None and running.at_once(request) < batch:
        print(f"  {running.at_once(request):,} of {batch:,} run side by side, and the others wait for their turn")
    print()
    when = "" if len(planned.moments) == 1 else f", when {planned.worst.name}"
    print(f"  peak {console.bytes_text(needs)}{when}")
    if room is not None and fits:
        print(f"  fits: {console.bytes_text(room.free)} are free on {room.name}")
    elif room is not None:
        print(f"  does not fit: {console.bytes_text(room.free)} are free on {room.name}")
        for remedy in remedies:
            print(f"    {remedy['text']}")


def _breakdown(moment: Moment, program: int) -> list[str]:
    rows = [(label, getattr(moment, name)) for name, label in _PARTS.items()]
    rows.append(("the program", program))
    return [f"  {label:<16}{console.bytes_text(size):>10}" for label, size in rows if size]


def _remedies(request: Request, make: Callable[[Request], Plan], free: int, *, dtypes: bool) -> list[dict[str, Any]]:
    """What would fit: fewer tokens, fewer rows, a smaller dtype (``dtypes``: where there is a choice), a lighter way to train;
    the last word if nothing does."""
    from hornbook.checkpoint import memory

    def fits(**changes: Any) -> bool:
        return make(replace(request, **changes)).peak <= free

    found: list[dict[str, Any]] = []
    if context := memory.largest(lambda n: fits(context=n), request.context):
        found.append({"context": context, "text": f"--context {context} fits, the longest with batch {request.batch}"})
    if request.batch > 1 and (batch := memory.largest(lambda n: fits(batch=n), request.batch)):
        found.append({"batch": batch, "text": f"--batch {batch} fits, the most with {request.context:,} tokens"})
    if dtypes and request.dtype == "float32" and fits(dtype="bfloat16"):
        found.append({"dtype": "bfloat16", "text": "--dtype bfloat16 fits"})
    for lighter in ("lora", "qlora") if request.method == "full" else ("qlora",) if request.method == "lora" else ():
        if fits(method=lighter):
            found.append({"train": lighter, "text": f"--train {lighter} fits"})
            break
    return found or [{"text": "no shorter context, smaller batch or lighter way fits: take a smaller model"}]


def _data(
    model: str,
    request: Request,
    planned: Plan,
    program: int,
    running: Running | None,
    room: Room | None,
    fits: bool | None,
    remedies: list[dict[str, Any]],
) -> dict[str, Any]:
    return {
        "model": model,
        "context": request.context,
        "batch": request.batch,
        "dtype": request.dtype,
        "train": request.method,
        "optimizer": request.optimizer if request.method else None,
        "rank": request.rank if request.method in ("lora", "qlora") else None,
        "parameters": request.anatomy.parameters.total,
        "trained": planned.trained,
        "peak": planned.peak + program,
        "program": program,
        "executor": None if running is None else running.executor,
        "executor_reason": None if running is None else running.reason,
        "at_once": None if running is None else running.at_once(request),
        "cache_room": None if running is None else running.room,
        "moments": [{**asdict(moment), "total": moment.total} for moment in planned.moments],
        "free": None if room is None else room.free,
        "device": None if room is None else room.name,
        "fits": fits,
        "remedies": remedies,
    }
