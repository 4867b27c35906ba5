"""Train an encoder-decoder as T5 was: stretches are cut out of a text, and written one after the other.

texts --> documents on disk --spans, anew in every epoch--> source and target --> the model --> model/
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hornbook.errors import UsageError
from hornbook.recipes import fresh
from hornbook.recipes.job import Job, Place
from hornbook.recipes.kinds import Span
from hornbook.recipes.opening import checked_memory
from hornbook.recipes.preview import Piece
from hornbook.recipes.sets import Sets, make

if TYPE_CHECKING:
    from hornbook.data.feed import Feed
    from hornbook.data.table import Table
    from hornbook.text.tokenizer import Tokenizer


def prepare(recipe: Span, place: Place) -> Job:
    """See `hornbook.recipes.job`. Raises UsageError for a model of another kind, or a tokenizer without sentinels."""
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.loading import load
    from hornbook.checkpoint.saving import save, save_model
    from hornbook.checkpoint.store import Store
    from hornbook.data import encode, spans
    from hornbook.retrieve import sentences
    from hornbook.train import losses

    training = recipe.training
    if recipe.model is None:
        tokenizer = fresh.tokenizer_for(recipe, "t5", place)
        config = fresh.config_of("t5", recipe.architecture, recipe.data.context, tokenizer.vocab_size)
        anatomy = Anatomy.of(config, fresh.family_of("t5"))
        memory = checked_memory(anatomy, recipe, place)
        model = fresh.build(config, training.seed, training.device)
        called = f"a new t5, {config.layers} layers of {config.width}"
    else:
        path = Store(place.settings).ensure(recipe.model).path
        anatomy = Anatomy.read(path)
        memory = checked_memory(anatomy, recipe, place)
        checkpoint = load(path, dtype="float32", device=training.device)
        model, tokenizer, called = checkpoint.model, checkpoint.tokenizer, recipe.model
        if model.encoder is None:
            raise UsageError(f"{recipe.model} does not write from what an encoder reads", "Take a T5.")
    start = tokenizer.pad_id
    if start is None:
        raise UsageError("the tokenizer has no padding token, with which a T5 begins to write", "Take T5's.")
    length = min(recipe.data.context, training.tokens)

    def batches(table: Table, seed: int) -> Feed:
        return spans.spans(table, tokenizer, length=length, tokens=training.tokens, start=start, seed=seed)

    def write(folder: Path) -> None:
        if recipe.model is None:
            ids = {"decoder_start_token_id": start, "eos_token_id": tokenizer.eos_id, "pad_token_id": start}
            save_model(
                model.eval(), folder, family=fresh.family_of("t5"), tokenizer=tokenizer, generation=ids, said=ids
            )
        else:
            save(replace(checkpoint, model=model.eval()), folder)

    sets = make(recipe, place, lambda: encode.documents(tokenizer, sentences.split), batches, tokenizer)
    return Job(
        called=called,
        method=f"all weights, {training.optimizer}",
        model=model,
        anatomy=anatomy,
        memory=memory,
        named=dict(model.named_parameters()),
        loss=losses.seq2seq(smoothing=training.smoothing, z_loss=training.z_loss),
        sets=sets,
        example=_shown(sets, tokenizer),
        kind="model",
        write=write,
        next=lambda run: [f'hornbook run {run} "A text with <extra_id_0> in it"', f"hornbook show {run}"],
        notes=["of the tokens 15% are cut out, in stretches of 3, other ones in every epoch"],
    )


def _shown(sets: Sets, tokenizer: Tokenizer) -> tuple[Piece, ...]:
    """The first row of the first batch: the target is learnt."""
    from hornbook.train.batch import IGNORED

    batch = next(iter(sets.feed()))
    assert batch.source is not None and batch.source_mask is not None
    source = batch.source[0][batch.source_mask[0]].tolist()
    target = batch.labels[0][batch.labels[0] != IGNORED].tolist()
    return (
        (tokenizer.decode(source, skip_special=False), False),
        (" -> ", False),
        (tokenizer.decode(target, skip_special=False), True),
    )
