"""What is shown before the first step, and what is refused.

    sft · smollm2:135m · lora, rank 16 · 4,884,480 of 139,400,064 parameters are trained (3.50%)
      data     475 examples to learn from, 25 held out · 71,204 tokens, 40,112 of them learnt
               masked 43.7% · truncated 1.2% · dropped 0
      ...
      an example, what is learnt marked

Colour marks what is learnt; without colour, brackets do.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hornbook.cli.console import bytes_text, say
from hornbook.errors import DataError, UsageError
from hornbook.recipes.forecast import Memory

SHOWN = 700  # characters of the example
Piece = tuple[str, bool]  # a stretch of the example, and whether it is learnt


@dataclass(frozen=True, slots=True)
class Preview:
    """Counts are of what is learnt from; ``truncated``, ``dropped`` (too long) and ``unlearnt`` (nothing of them is left
    to learn) are examples, ``skipped`` malformed lines."""

    recipe: str
    model: str
    method: str
    trained: int  # parameters
    parameters: int
    examples: int
    held_out: int
    tokens: int
    learnt: int  # tokens that are targets
    truncated: int
    dropped: int
    unlearnt: int
    skipped: int
    steps: int
    tokens_a_step: int
    epochs: float
    memory: Memory
    seconds: float
    example: tuple[Piece, ...]
    notes: tuple[str, ...] = ()

    def data(self) -> dict[str, Any]:
        """For ``--json``."""
        found = asdict(self)
        found["memory"]["fits"] = self.memory.fits
        found["masked"] = round(1 - self.learnt / max(1, self.tokens), 4)
        found["example"] = [{"text": text, "learnt": learnt} for text, learnt in self.example]
        return found


def check(preview: Preview) -> None:
    """Raises DataError where nothing would be learnt."""
    if preview.learnt == 0:
        raise DataError(
            f"no token would be trained: {preview.examples:,} examples, {preview.tokens:,} tokens, all of them masked",
            "Look at the data's shape and at what is learnt (learn), or give a longer data.context.",
        )


def check_memory(memory: Memory, force: bool) -> None:
    """Raises UsageError where the training would not fit in what is free, with what to lower."""
    if memory.fits or force:
        return
    assert memory.free is not None
    fits = "; or ".join(memory.remedies)
    raise UsageError(
        f"this would take about {bytes_text(memory.peak)}, {bytes_text(memory.free)} are free on {memory.device}",
        (f"This fits: {fits}. " if fits else "Take a smaller model, or close other programs. ") + "--force goes on.",
    )


def show(preview: Preview) -> None:
    """For a person, on stderr."""
    for line in lines(preview, coloured=_coloured()):
        say(line)


def lines(preview: Preview, *, coloured: bool) -> list[str]:
    """See the module's drawing."""
    p = preview
    share = p.trained / max(1, p.parameters)
    labelled = p.recipe == "classify"  # what is learnt is no token
    cut = [] if labelled else [f"masked {1 - p.learnt / max(1, p.tokens):.1%}"]
    cut += [f"truncated {p.truncated / max(1, p.examples):.1%}"]
    cut += [f"too long and left out {p.dropped:,}"] if p.dropped else []
    cut += [f"left out with nothing to learn {p.unlearnt:,}"] if p.unlearnt else []
    cut += [f"malformed lines skipped {p.skipped:,}"] if p.skipped else []
    free = "" if p.memory.free is None else f" · {bytes_text(p.memory.free)} are free on {p.memory.device}"
    rows = [
        f"{p.recipe} · {p.model} · {p.method}",
        f"  {'trained':<9}{p.trained:,} of {p.parameters:,} parameters ({share:.2%})",
        f"  {'data':<9}{p.examples:,} examples, {p.held_out:,} held out · {p.tokens:,} tokens, "
        f"{p.learnt:,} {'labels' if labelled else 'of them learnt'}",
        f"  {'':<9}{' · '.join(cut)}",
        f"  {'steps':<9}{p.steps:,} of about {p.tokens_a_step:,} tokens · {p.epochs:.3g} epoch{'s' * (p.epochs != 1)}",
        f"  {'memory':<9}about {bytes_text(p.memory.peak)}{free}",
        f"  {'time':<9}about {duration(p.seconds)}",
        *(f"  {'note':<9}{note}" for note in p.notes),
    ]
    if p.example:
        rows += ["", f"  an example; what is learnt is {'coloured' if coloured else 'in [brackets]'}:"]
        rows += [f"  | {line}" for line in marked(p.example, coloured=coloured).split("\n")]
        rows.append("")
    return rows


def marked(pieces: Sequence[Piece], *, coloured: bool) -> str:
    """The example's text, cut to what a screen takes, its learnt stretches marked."""
    said, left = [], SHOWN
    for text, learnt in pieces:
        shown = "".join(char if char.isprintable() or char == "\n" else "·" for char in text[:left])
        left -= len(shown)
        if learnt and coloured:
            shown = "\n".join(f"\x1b[36m{line}\x1b[0m" if line else "" for line in shown.split("\n"))
        elif learnt:
            shown = f"[{shown}]"
        said.append(shown)
        if left <= 0:
            said.append(f" … ({sum(len(text) for text, _ in pieces) - SHOWN:,} characters more)")
            break
    return "".join(said)


def duration(seconds: float) -> str:
    """90 -> "90 s", 600 -> "10 min"."""
    if seconds < 100:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _coloured() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
