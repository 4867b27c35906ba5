"""Train an encoder as BERT was: hidden tokens, and whether the second of two stretches of text follows the first.

texts --sentences--> documents on disk --pairs, masks, anew in every epoch--> the encoder --> model/
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hornbook.errors import UsageError
from hornbook.recipes import examples, fresh
from hornbook.recipes.job import Job, Place
from hornbook.recipes.kinds import Mlm
from hornbook.recipes.opening import checked_memory
from hornbook.recipes.preview import Piece
from hornbook.recipes.sets import Sets, make

if TYPE_CHECKING:
    from collections.abc import Callable

    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.data.feed import Feed
    from hornbook.data.table import Table
    from hornbook.model.transformer import Transformer
    from hornbook.recipes.forecast import Memory
    from hornbook.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class _Start:
    called: str
    model: Transformer
    tokenizer: Tokenizer
    anatomy: Anatomy
    memory: Memory
    write: Callable[[Path], object]


def prepare(recipe: Mlm, place: Place) -> Job:
    """See `hornbook.recipes.job`. Raises UsageError for a model without a masked language head."""
    from hornbook.data import encode, masked
    from hornbook.retrieve import sentences
    from hornbook.train import losses

    start = _new(recipe, place) if recipe.model is None else _continued(recipe, recipe.model, place)
    model, tokenizer, training = start.model, start.tokenizer, recipe.training
    length = min(recipe.data.context, model.config.context_length, training.tokens)

    def batches(table: Table, seed: int) -> Feed:
        return masked.masked(
            table,
            tokenizer,
            length=length,
            tokens=training.tokens,
            seed=seed,
            next_sentence=recipe.next_sentence,
            whole_words=recipe.whole_words,
        )

    sets = make(recipe, place, lambda: encode.documents(tokenizer, sentences.split), batches, tokenizer)
    return Job(
        called=start.called,
        method=f"all weights, {training.optimizer}",
        model=model,
        anatomy=start.anatomy,
        memory=start.memory,
        named=dict(model.named_parameters()),
        loss=losses.masked_lm_and_next_sentence() if recipe.next_sentence else losses.masked_lm(),
        sets=sets,
        example=_shown(sets, tokenizer),
        kind="model",
        write=start.write,
        next=lambda run: [
            f"hornbook train classify model={run} data.train.0.path=labelled.jsonl",
            f"hornbook show {run}",
        ],
        notes=["of the tokens 15% are hidden, other ones in every epoch"],
    )


def _new(recipe: Mlm, place: Place) -> _Start:
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.saving import save_model

    tokenizer = fresh.tokenizer_for(recipe, "bert", place)
    config = fresh.config_of("bert", recipe.architecture, recipe.data.context, tokenizer.vocab_size)
    config = replace(config, pooler=recipe.next_sentence, next_sentence=recipe.next_sentence)
    family = fresh.family_of("bert")
    anatomy = Anatomy.of(config, family)
    memory = checked_memory(anatomy, recipe, place)
    model = fresh.build(config, recipe.training.seed, recipe.training.device)
    called = f"a new bert, {config.layers} layers of {config.width}"

    def write(folder: Path) -> None:
        save_model(model.eval(), folder, family=family, tokenizer=tokenizer)

    return _Start(called, model, tokenizer, anatomy, memory, write)


def _continued(recipe: Mlm, name: str, place: Place) -> _Start:
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.loading import load
    from hornbook.checkpoint.saving import save
    from hornbook.checkpoint.store import Store

    path = Store(place.settings).ensure(name).path
    anatomy = Anatomy.read(path)
    memory = checked_memory(anatomy, recipe, place)
    checkpoint = load(path, dtype="float32", device=recipe.training.device)
    config = checkpoint.config
    if config.causal or not config.language_head:
        raise UsageError(f"{name} has no head that tells hidden tokens", "Take a masked language model, such as BERT.")
    if recipe.next_sentence and not config.next_sentence:
        raise UsageError(f"{name} has no head for the next sentence", "Say next_sentence: false.")

    def write(folder: Path) -> None:
        save(replace(checkpoint, model=checkpoint.model.eval()), folder)

    return _Start(name, checkpoint.model, checkpoint.tokenizer, anatomy, memory, write)


def _shown(sets: Sets, tokenizer: Tokenizer) -> tuple[Piece, ...]:
    """The first row of the first batch: what is hidden is learnt."""
    from hornbook.train.batch import IGNORED

    batch = next(iter(sets.feed()))
    real = batch.ids.shape[1] if batch.mask is None else int(batch.mask[0].sum())
    read = batch.ids[0, : min(real, examples.MOST)].tolist()
    labels = batch.labels[0, : len(read)].tolist()
    pieces: list[Piece] = []
    for id, label in zip(read, labels, strict=True):
        text = tokenizer.token(id) if label == IGNORED else f"{tokenizer.token(id)}={tokenizer.token(label)}"
        pieces += [(text, label != IGNORED), (" ", False)]
    return tuple(pieces)
