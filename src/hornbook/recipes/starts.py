"""What a training of all weights begins with: a model of random weights, or one that goes on learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.recipes import fresh
from hornbook.recipes.fresh import FamilyName
from hornbook.recipes.job import Place
from hornbook.recipes.kinds import New
from hornbook.recipes.opening import checked_memory

if TYPE_CHECKING:
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.model.config import ModelConfig
    from hornbook.model.transformer import Transformer
    from hornbook.recipes.forecast import Memory
    from hornbook.text.chat import ChatTemplate
    from hornbook.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Start:
    """``called``: what a person reads of it; ``write``: the model as it then is into a folder."""

    called: str
    model: Transformer
    tokenizer: Tokenizer
    anatomy: Anatomy
    memory: Memory
    write: Callable[[Path], object]


def new(
    recipe: New,
    family: FamilyName,
    place: Place,
    *,
    change: Callable[[ModelConfig], ModelConfig] = lambda config: config,
    template: Callable[[Tokenizer], ChatTemplate] | None = None,
    generation: Callable[[Tokenizer], Mapping[str, Any]] | None = None,
) -> Start:
    """Random weights of the recipe's architecture, ``change``d; ``template`` and ``generation`` go with what is saved."""
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.saving import save_model

    tokenizer = fresh.tokenizer_for(recipe, family, place)
    config = change(fresh.config_of(family, recipe.architecture, recipe.data.context, tokenizer.vocab_size))
    form = fresh.family_of(family)
    anatomy = Anatomy.of(config, form)
    memory = checked_memory(anatomy, recipe, place)
    model = fresh.build(config, recipe.training.seed, recipe.training.device)
    spoken = None if template is None else template(tokenizer)
    said = None if generation is None else generation(tokenizer)

    def write(folder: Path) -> None:
        save_model(
            model.eval(), folder, family=form, tokenizer=tokenizer, chat_template=spoken, generation=said, said=said
        )

    called = f"a new {family}, {config.layers} layers of {config.width}"
    return Start(called, model, tokenizer, anatomy, memory, write)


def continued(recipe: New, name: str, place: Place) -> Start:
    """The model ``name`` with all of its weights, in float32."""
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.loading import load
    from hornbook.checkpoint.saving import save
    from hornbook.checkpoint.store import Store

    path = Store(place.settings).ensure(name).path
    anatomy = Anatomy.read(path)
    memory = checked_memory(anatomy, recipe, place)
    checkpoint = load(path, dtype="float32", device=recipe.training.device)

    def write(folder: Path) -> None:
        save(replace(checkpoint, model=checkpoint.model.eval()), folder)

    return Start(name, checkpoint.model, checkpoint.tokenizer, anatomy, memory, write)
