"""Train an encoder-decoder as T5 was: stretches are cut out of a text, and written one after the other.

texts --> documents on disk --spans, anew in every epoch--> source and target --> the model --> model/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hornbook.errors import UsageError
from hornbook.recipes import starts
from hornbook.recipes.job import Job, Place
from hornbook.recipes.kinds import Span
from hornbook.recipes.preview import Piece
from hornbook.recipes.sets import Sets, make
from hornbook.recipes.starts import Start

if TYPE_CHECKING:
    from hornbook.data.feed import Feed
    from hornbook.data.table import Table
    from hornbook.text.tokenizer import Tokenizer


def prepare(recipe: Span, place: Place) -> Job:
    """See `hornbook.recipes.job`. Raises UsageError for a model of another kind, or a tokenizer without sentinels."""
    from hornbook.data import encode, spans
    from hornbook.retrieve import sentences
    from hornbook.train import losses

    training, begun = recipe.training, _begin(recipe, place)
    model, tokenizer = begun.model, begun.tokenizer
    start = tokenizer.pad_id
    if start is None:
        raise UsageError("the tokenizer has no padding token, with which a T5 begins to write", "Take T5's.")
    length = min(recipe.data.context, training.tokens)

    def batches(table: Table, seed: int) -> Feed:
        return spans.spans(table, tokenizer, length=length, tokens=training.tokens, start=start, seed=seed)

    sets = make(recipe, place, lambda: encode.documents(tokenizer, sentences.split), batches, tokenizer)
    return Job(
        called=begun.called,
        method=f"all weights, {training.optimizer}",
        model=model,
        anatomy=begun.anatomy,
        memory=begun.memory,
        named=dict(model.named_parameters()),
        loss=losses.seq2seq(smoothing=training.smoothing, z_loss=training.z_loss),
        sets=sets,
        example=_shown(sets, tokenizer),
        kind="model",
        write=begun.write,
        next=lambda run: [f'hornbook run {run} "A text with <extra_id_0> in it"', f"hornbook show {run}"],
        notes=["of the tokens 15% are cut out, in stretches of 3, other ones in every epoch"],
    )


def _begin(recipe: Span, place: Place) -> Start:
    """Raises UsageError for a model of another kind."""
    if recipe.model is None:
        return starts.new(recipe, "t5", place, generation=_ids)
    begun = starts.continued(recipe, recipe.model, place)
    if begun.model.encoder is None:
        raise UsageError(f"{recipe.model} does not write from what an encoder reads", "Take a T5.")
    return begun


def _ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """With what a T5 begins and ends."""
    start = tokenizer.pad_id
    return {"decoder_start_token_id": start, "eos_token_id": tokenizer.eos_id, "pad_token_id": start}


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
