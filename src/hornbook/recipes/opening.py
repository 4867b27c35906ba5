"""The model that a recipe goes on with: found, held against the machine's memory, loaded, stretched, its adapter attached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hornbook.errors import UsageError
from hornbook.recipes import forecast
from hornbook.recipes.adapters import LowRank
from hornbook.recipes.config import Continued, Recipe
from hornbook.recipes.forecast import Memory
from hornbook.recipes.job import Place
from hornbook.recipes.preview import check_memory

if TYPE_CHECKING:
    from torch import nn

    from hornbook.adapt.attached import Attached
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.loading import Checkpoint


@dataclass(frozen=True, slots=True)
class Base:
    """A model that is to be trained further. ``called``: as a person named it; ``named``: what is trained."""

    called: str
    checkpoint: Checkpoint
    anatomy: Anatomy
    memory: Memory
    attached: Attached | None
    named: dict[str, nn.Parameter]
    method: str


def checked_memory(anatomy: Anatomy, recipe: Recipe, place: Place, adapter: Any = None) -> Memory:
    """What it will take; refused where that is more than there is."""
    found = forecast.memory(anatomy, recipe.training, min(recipe.data.context, recipe.training.tokens), adapter)
    check_memory(found, place.force)
    if not found.fits:
        place.say(f"  it looks too large for {found.device}, and goes on as --force says")
    return found


def open_base(recipe: Continued, place: Place, *, change: Any = None, also: Sequence[str] = ()) -> Base:
    """Load ``recipe``'s model, attach its adapter. ``change``: of the checkpoint, before the adapter comes; ``also``: modules
    that are trained whole beside it.

    Raises UsageError where it does not fit in memory; what loading raises; ADAPT's errors for unknown target modules.
    """
    from hornbook.adapt import qlora
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.loading import load
    from hornbook.checkpoint.store import Store

    adapter = getattr(recipe, "adapter", None)
    entry = Store(place.settings).ensure(recipe.model)
    anatomy = Anatomy.read(entry.path)
    memory = checked_memory(anatomy, recipe, place, adapter)
    stretch = None if recipe.rope is None else f"{recipe.rope.kind}:{recipe.rope.factor:g}"
    dtype, device = _dtype(recipe, adapter), recipe.training.device
    if isinstance(adapter, LowRank) and adapter.kind == "qlora":
        from hornbook.adapt import qlora  # four bits a weight from the first on

        checkpoint = qlora.load(entry.path, dtype=dtype, device=device, stretch=stretch)
    else:
        checkpoint = load(entry.path, dtype=dtype, device=device, stretch=stretch)
    if change is not None:
        checkpoint = change(checkpoint)
        anatomy = Anatomy.of(checkpoint.config, checkpoint.family)
    checkpoint.model.shifted = recipe.shifted
    attached = attach(recipe, checkpoint, adapter, also)
    if attached is None:
        named = dict(checkpoint.model.named_parameters())
    else:
        named = dict(attached.named_parameters())
    return Base(recipe.model, checkpoint, anatomy, memory, attached, named, described(recipe, adapter))


def attach(recipe: Continued, checkpoint: Checkpoint, adapter: Any, also: Sequence[str] = ()) -> Attached | None:
    """The recipe's adapter on the model, its first weights drawn by the recipe's seed."""
    if adapter is None:
        return None
    import torch

    from hornbook.adapt import KINDS

    said = adapter.model_dump(exclude={"kind"})
    kind = adapter.kind
    if isinstance(adapter, LowRank):
        kind = "lora" if kind == "qlora" else kind  # the base is what differs
        said["train_also"] = tuple(recipe.train_also)
    elif recipe.train_also or also:
        wanted = "train_also goes" if recipe.train_also else "a new classifier is trained along"
        raise UsageError(f"{wanted} with lora, dora and qlora, not with {kind}", "Take lora.")
    generator = torch.Generator().manual_seed(recipe.training.seed)
    return KINDS[kind](**said).attach(checkpoint.model, generator=generator)


def described(recipe: Continued, adapter: Any) -> str:
    """How it is trained, for a person."""
    also = f" and {', '.join(recipe.train_also)}" if recipe.train_also else ""
    if adapter is None:
        return f"all weights, {recipe.training.optimizer}"
    if isinstance(adapter, LowRank):
        targets = adapter.targets if isinstance(adapter.targets, str) else ", ".join(adapter.targets)
        return f"{adapter.kind}, rank {adapter.rank} on {targets}{also}"
    return f"{adapter.kind}{also}"


def _dtype(recipe: Recipe, adapter: Any) -> str:
    """As what the weights are loaded: what is trained in float32, for an optimizer adds to that."""
    from hornbook.checkpoint.loading import pick_device

    chosen = forecast.precision(recipe.training.precision, pick_device(recipe.training.device).type)
    return "bfloat16" if adapter is not None and chosen == "bfloat16" else "float32"
