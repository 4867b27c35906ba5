"""What a recipe makes ready, and what every recipe then has in common needs to carry it out.

    Recipe --prepare--> Job --preview, run--> a folder with the result

A recipe's module has one function, ``prepare(recipe, place) -> Job``; all else is in `hornbook.recipes.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hornbook.recipes.forecast import Memory
from hornbook.recipes.preview import Piece
from hornbook.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from hornbook.adapt.attached import Attached
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.model.transformer import Transformer
    from hornbook.recipes.sets import Sets
    from hornbook.train.average import WeightMean
    from hornbook.train.losses import Loss


@dataclass(frozen=True, slots=True)
class Place:
    """Where a recipe works: the run's folder, the settings, and what was said about memory and to whom."""

    folder: Path
    settings: Settings
    force: bool = False  # go on where memory looks too small
    say: Callable[[str], object] = print


class Asked(NamedTuple):
    """A question for the model: as a person reads it, its ids, and the answer that the data has, if it has one."""

    text: str
    ids: list[int]
    wanted: str = ""


@dataclass(slots=True)
class Job:
    """A training that is ready to begin.

    method     "lora, rank 16", "all weights", ...              named    the parameters that are trained, by name
    write      puts the result into a folder                     kind     and what that is called: adapter or model
    next       the commands that use the result, of its name     ask      questions, asked before and after
    answer     gives the model's answers to them                 scores   what is measured of the result besides the loss
    average    a mean of the weights, of so many steps, which the result is
    """

    called: str
    method: str
    model: Transformer
    anatomy: Anatomy
    memory: Memory
    named: Mapping[str, nn.Parameter]
    loss: Loss
    sets: Sets
    example: tuple[Piece, ...]
    kind: str
    write: Callable[[Path], object]
    next: Callable[[str], Sequence[str]]
    attached: Attached | None = None
    ask: Sequence[Asked] = ()
    answer: Callable[[Sequence[Asked]], list[str]] | None = None
    scores: Callable[[], dict[str, float]] | None = None
    average: Callable[[int], WeightMean] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def trained(self) -> int:
        return sum(parameter.numel() for parameter in self.named.values())

    @property
    def parameters(self) -> int:
        """Of the model and of what stands beside it; weights in four bits count as what they stand for."""
        own = {weight.name for weight in self.anatomy.weights}
        beside = sum(parameter.numel() for name, parameter in self.named.items() if name not in own)
        return sum(weight.size for weight in self.anatomy.weights) + beside
