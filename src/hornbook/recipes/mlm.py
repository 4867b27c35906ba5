"""Train an encoder as BERT was: hidden tokens, and whether the second of two stretches of text follows the first.

texts --sentences--> documents on disk --pairs, masks, anew in every epoch--> the encoder --> model/
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hornbook.errors import UsageError
from hornbook.recipes import examples, starts
from hornbook.recipes.job import Job, Place
from hornbook.recipes.kinds import Mlm
from hornbook.recipes.preview import Piece
from hornbook.recipes.sets import Sets, make
from hornbook.recipes.starts import Start

if TYPE_CHECKING:
    from hornbook.data.feed import Feed
    from hornbook.data.table import Table
    from hornbook.text.tokenizer import Tokenizer


def prepare(recipe: Mlm, place: Place) -> Job:
    """See `hornbook.recipes.job`. Raises UsageError for a model without a masked language head."""
    from hornbook.data import encode, masked
    from hornbook.retrieve import sentences
    from hornbook.train import losses

    start = _begin(recipe, place)
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


def _begin(recipe: Mlm, place: Place) -> Start:
    """Raises UsageError for a model without the heads that are trained."""
    pairs = recipe.next_sentence
    if recipe.model is None:
        return starts.new(
            recipe, "bert", place, change=lambda config: replace(config, pooler=pairs, next_sentence=pairs)
        )
    start = starts.continued(recipe, recipe.model, place)
    config = start.model.config
    if config.causal or not config.language_head:
        raise UsageError(
            f"{recipe.model} has no head that tells hidden tokens", "Take a masked language model, such as BERT."
        )
    if pairs and not config.next_sentence:
        raise UsageError(f"{recipe.model} has no head for the next sentence", "Say next_sentence: false.")
    return start


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
