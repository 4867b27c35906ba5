"""Learn to tell the next token of plain text: a new model of a family's form, or one that goes on learning.

texts --tokenizer--> ids, split at the context --packed--> the model --> model/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hornbook.errors import UsageError
from hornbook.recipes import examples, fresh
from hornbook.recipes.job import Asked, Job, Place
from hornbook.recipes.kinds import Pretrain
from hornbook.recipes.opening import checked_memory
from hornbook.recipes.replies import replies
from hornbook.recipes.sets import make
from hornbook.recipes.templates import named

if TYPE_CHECKING:
    from collections.abc import Callable

    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.model.transformer import Transformer
    from hornbook.recipes.forecast import Memory
    from hornbook.text.tokenizer import Tokenizer

BEGINNING = 8  # tokens of a held-out text that the model is asked to go on with


@dataclass(frozen=True, slots=True)
class _Start:
    """What training begins with. ``write``: the model as it then is into a folder."""

    called: str
    model: Transformer
    tokenizer: Tokenizer
    anatomy: Anatomy
    memory: Memory
    write: Callable[[Path], object]


def prepare(recipe: Pretrain, place: Place) -> Job:
    """See `hornbook.recipes.job`."""
    from hornbook.data import encode
    from hornbook.data.example import Text
    from hornbook.train import losses

    start = _new(recipe, place) if recipe.model is None else _continued(recipe, recipe.model, place)
    model, tokenizer, training = start.model, start.tokenizer, recipe.training
    context = min(recipe.data.context, model.config.context_length, training.tokens)
    sets = make(
        recipe,
        place,
        lambda: encode.causal(tokenizer, context, recipe.data.too_long or "split"),
        examples.language_feed(recipe, tokenizer),
        tokenizer,
        few=recipe.samples.prompts,
    )
    texts = [example.text for example in sets.few if isinstance(example, Text)] + recipe.samples.ask
    ask = []
    for text in texts:
        ids = tokenizer.encode(text)
        ids = ids[:-1] if ids[-1:] == [tokenizer.eos_id] else ids
        ids = ids if text in recipe.samples.ask else ids[:BEGINNING]
        ask.append(Asked(tokenizer.decode(ids), ids))

    def answer(asked: Sequence[Asked]) -> list[str]:
        return replies(model, tokenizer, [one.ids for one in asked], recipe.samples.tokens)

    return Job(
        called=start.called,
        method=f"all weights, {training.optimizer}",
        model=model,
        anatomy=start.anatomy,
        memory=start.memory,
        named=dict(model.named_parameters()),
        loss=losses.causal_lm(smoothing=training.smoothing, z_loss=training.z_loss),
        sets=sets,
        example=examples.shown(sets.train, tokenizer),
        kind="model",
        write=start.write,
        next=lambda run: [
            f'hornbook run {run} --raw "{" ".join((ask[0].text if ask else "Once").split())[:40]}"',
            f"hornbook train sft model={run} template=chatml data.train.0.path=conversations.jsonl",
            f"hornbook export {run} --to gguf -q Q8_0 -o {Path(run).name}.gguf",
        ],
        ask=ask,
        answer=answer,
    )


def _new(recipe: Pretrain, place: Place) -> _Start:
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.saving import save_model

    tokenizer = fresh.tokenizer_for(recipe, recipe.family, place)
    config = fresh.config_of(recipe.family, recipe.architecture, recipe.data.context, tokenizer.vocab_size)
    family = fresh.family_of(recipe.family)
    anatomy = Anatomy.of(config, family)
    memory = checked_memory(anatomy, recipe, place)
    model = fresh.build(config, recipe.training.seed, recipe.training.device)
    template = None if recipe.template is None else named(recipe.template, tokenizer)

    def write(folder: Path) -> None:
        save_model(model.eval(), folder, family=family, tokenizer=tokenizer, chat_template=template)

    called = f"a new {recipe.family}, {config.layers} layers of {config.width}"
    return _Start(called, model, tokenizer, anatomy, memory, write)


def _continued(recipe: Pretrain, name: str, place: Place) -> _Start:
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.loading import load
    from hornbook.checkpoint.saving import save
    from hornbook.checkpoint.store import Store

    if recipe.template is not None:
        raise UsageError(f"{name} keeps its own template", "Leave template out; sft takes one for a model without.")
    path = Store(place.settings).ensure(name).path
    anatomy = Anatomy.read(path)
    memory = checked_memory(anatomy, recipe, place)
    checkpoint = load(path, dtype="float32", device=recipe.training.device)
    if not checkpoint.config.causal or checkpoint.config.encoder is not None:
        raise UsageError(f"{name} does not tell next tokens", "pretrain takes a decoder; see mlm and span for others.")

    def write(folder: Path) -> None:
        save(replace(checkpoint, model=checkpoint.model.eval()), folder)

    return _Start(name, checkpoint.model, checkpoint.tokenizer, anatomy, memory, write)
