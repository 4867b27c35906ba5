"""What a model needs and whether this machine has it: ``hornbook plan``'s figures, for a page. Only headers are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.errors import HornbookError
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.checkpoint import memory
    from hornbook.engine.forecast import Asked

CONTEXT = 4096  # tokens that are planned for, or the model's own where it has fewer


def needs(path: Path, settings: Settings) -> dict[str, Any]:
    """Bytes that answering with the model takes, by part, what runs it, what is free, and the longest text that fits.

    A model that cannot run here gives only ``problem`` and ``remedy``.
    """
    from hornbook.checkpoint import machine, memory
    from hornbook.checkpoint.header import read_header
    from hornbook.engine.forecast import foresee

    try:
        _, config = read_header(path)
        running = foresee(path, config, settings.device, "auto", settings)
        device, request = _asked(path, settings, native=running.native)

        def planned(context: int) -> memory.Plan:
            return running.plan(request(context))

        limit = config.context_length
        context = min(limit, CONTEXT)
        plan = planned(context)
        room = machine.room(device)
    except HornbookError as error:
        return {"problem": error.what, "remedy": error.remedy}
    peak = plan.peak + running.program
    free = None if room is None else room.free
    worst = {name: size for name, size in asdict(plan.worst).items() if name != "name" and size}
    return {
        "context": context,
        "context_length": limit,
        "peak": peak,
        "parts": {**worst, "program": running.program},
        "executor": running.executor,
        "executor_reason": running.reason,
        "free": free,
        "device": None if room is None else room.name,
        "fits": None if free is None else peak <= free,
        "longest": None
        if free is None or not config.causal
        else memory.largest(lambda tokens: planned(tokens).peak + running.program <= free, limit),
    }


def _asked(path: Path, settings: Settings, *, native: bool) -> tuple[str, Callable[[int], Asked | memory.Request]]:
    """The device, and what to ask a plan for so many tokens. torch is imported only where it would run the model."""
    from hornbook.engine.forecast import Asked

    if native:
        return "cpu", lambda tokens: Asked(tokens, 1)
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.loading import pick_device, pick_dtype
    from hornbook.checkpoint.memory import Request

    anatomy, device = Anatomy.read(path), pick_device(settings.device)
    dtype = str(pick_dtype("auto", device)).removeprefix("torch.")
    return str(device), lambda tokens: Request(anatomy, tokens, 1, dtype)
