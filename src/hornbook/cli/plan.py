"""``hornbook plan``: how much memory a model will need, and whether this machine has it; only the header is read."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hornbook.cli import console
from hornbook.cli.models import AsJson, Name
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.checkpoint.machine import Room
    from hornbook.checkpoint.memory import Moment, Plan, Request

DEFAULT_CONTEXT = 4096  # tokens, or the model's own where it has fewer
_PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimiser": "optimiser",
    "activations": "activations",
    "cache": "key-value cache",
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
        str, typer.Option("--dtype", help="float32, bfloat16, float16; auto: float32 on a CPU, else bfloat16.")
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

    settings = Settings.load()
    anatomy = Anatomy.read(Store(settings).get(model).path)
    device = pick_device(settings.device)
    request = memory.Request(
        anatomy,
        min(anatomy.config.context_length, DEFAULT_CONTEXT) if context is None else context,
        batch,
        str(pick_dtype(dtype, device)).removeprefix("torch."),
        cast("memory.Method | None", train),
        optimizer,
        rank,
    )
    planned = memory.plan(request)
    room = machine.room(str(device))
    program = memory.PROGRAM if device.type == "cpu" else 0
    needs = planned.peak + program
    fits = None if room is None else needs <= room.free
    remedies = [] if room is None or fits else _remedies(request, room.free - program)
    if as_json:
        console.print_json(_data(model, request, planned, program, room, fits, remedies))
        return
    way = "run" if train is None else f"train {train} · {optimizer}" + (f" · rank {rank}" * (train != "full"))
    print(model)
    print(f"  {way} · {request.dtype} · {batch:,} x {request.context:,} tokens")
    print()
    print("\n".join(_breakdown(planned.worst, program)))
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


def _remedies(request: Request, free: int) -> list[dict[str, Any]]:
    """What would fit: fewer tokens, fewer rows, a smaller dtype, a lighter way to train; the last word if nothing does."""
    from hornbook.checkpoint import memory

    def fits(**changes: Any) -> bool:
        return memory.plan(replace(request, **changes)).peak <= free

    found: list[dict[str, Any]] = []
    if context := memory.largest(lambda n: fits(context=n), request.context):
        found.append({"context": context, "text": f"--context {context} fits, the longest with batch {request.batch}"})
    if request.batch > 1 and (batch := memory.largest(lambda n: fits(batch=n), request.batch)):
        found.append({"batch": batch, "text": f"--batch {batch} fits, the most with {request.context:,} tokens"})
    if request.dtype == "float32" and fits(dtype="bfloat16"):
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
        "moments": [{**asdict(moment), "total": moment.total} for moment in planned.moments],
        "free": None if room is None else room.free,
        "device": None if room is None else room.name,
        "fits": fits,
        "remedies": remedies,
    }
