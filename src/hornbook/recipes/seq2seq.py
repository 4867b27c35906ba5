"""The Transformer of 2017 (arXiv 1706.03762) from pairs: a translator, or anything that maps a text to a text.

    pairs --held out--> the rest --byte pairs--> vocabulary --ids, batches by tokens--> train --> save --> load --beams--> exact

The result is a Marian model of Hugging Face's: hornbook.load and transformers open it. held_out.jsonl has each text that
was held out, and what the model said.

Sections of the paper: model 3, shared byte pairs and batches by tokens 5.1, Adam and eq. 3 5.3, smoothing 5.4, the mean of
the last snapshots 6.1. Departures: the vocabulary is over bytes; sequences are worth log P / length^penalty (engine.beam).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.errors import UsageError
from hornbook.recipes import fresh
from hornbook.recipes.job import Job, Place
from hornbook.recipes.kinds import Seq2seq
from hornbook.recipes.lines import Lines
from hornbook.recipes.opening import checked_memory
from hornbook.recipes.preview import Piece
from hornbook.recipes.sets import Reader, Sets, make

if TYPE_CHECKING:
    from hornbook.data.feed import Feed
    from hornbook.data.table import Table
    from hornbook.model.config import ModelConfig
    from hornbook.text.tokenizer import Tokenizer
    from hornbook.train.average import WeightMean

AT_ONCE = 64  # held-out texts that are answered together


def prepare(recipe: Seq2seq, place: Place) -> Job:
    """See `hornbook.recipes.job`."""
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.families.transformer import HUGGING_FACE
    from hornbook.checkpoint.saving import save_model
    from hornbook.data import encode, feed
    from hornbook.train import losses
    from hornbook.train.average import Average
    from hornbook.train.vocabulary import byte_pairs

    training, context = recipe.training, recipe.data.context
    reader = Reader(recipe)
    tokenizer = fresh.kept(
        recipe, place, ["byte pairs", str(recipe.vocabulary)], lambda: byte_pairs(_texts(reader), recipe.vocabulary)
    )
    config = model_config(recipe, tokenizer.vocab_size)
    anatomy = Anatomy.of(config, HUGGING_FACE)
    memory = checked_memory(anatomy, recipe, place)
    model = fresh.build(config, training.seed, training.device)
    padding = tokenizer.pad_id
    assert padding is not None, "a vocabulary that is made here has padding"

    def batches(table: Table, seed: int) -> Feed:
        return feed.translated(table, tokens=training.tokens, start=padding, padding=padding, seed=seed)

    too_long = recipe.data.too_long or "refuse"
    sets = make(recipe, place, lambda: encode.translate(tokenizer, tokenizer, context, too_long), batches, tokenizer)

    def average(steps: int) -> WeightMean:
        return Average(model, last=steps, snapshots=min(recipe.average, steps), apart=max(1, steps // 100))

    def write(folder: Path) -> None:
        ids = {"decoder_start_token_id": padding, "eos_token_id": tokenizer.eos_id, "pad_token_id": padding}
        search = {
            "num_beams": recipe.beams,
            "length_penalty": recipe.length_penalty,
            "max_length": context + 1,  # the start token is counted
            "bad_words_ids": [[padding]],
        }
        save_model(model.eval(), folder, family=HUGGING_FACE, tokenizer=tokenizer, generation=ids | search, said=ids)

    return Job(
        called=f"a new Transformer, {recipe.layers} + {recipe.layers} layers of {recipe.width}",
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
        next=lambda run: [f'hornbook run {run} "..."'],
        average=average,
        scores=(lambda: _ask(place.folder, reader, training.device)) if sets.held_out else None,
    )


def model_config(recipe: Seq2seq, vocab_size: int) -> ModelConfig:
    """The paper's model: post-norm, sinusoids, ReLU, one table of tokens for both sides and the head.

    Raises UsageError for a width that the heads do not divide.
    """
    from hornbook.model.config import ModelConfig

    if recipe.width % recipe.heads:
        raise UsageError(
            f"a width of {recipe.width} cannot be divided among {recipe.heads} heads", "Make it a multiple."
        )
    shape: dict[str, Any] = {
        **{"layers": recipe.layers, "width": recipe.width, "feedforward_width": recipe.feedforward},
        **{"heads": recipe.heads, "kv_heads": recipe.heads, "head_width": recipe.width // recipe.heads},
        **{"vocab_size": vocab_size, "context_length": recipe.data.context, "dropout": recipe.dropout},
        **{"positions": "sinusoidal", "embedding_scale": recipe.width**0.5},
        **{"norm": "layer", "norm_placement": "post", "activation": "relu", "gated": False},
        **dict.fromkeys(["qkv_bias", "attention_output_bias", "feedforward_bias"], True),
    }
    encoder = ModelConfig(**shape, causal=False, language_head=False)
    return ModelConfig(**shape, encoder=encoder, shared_tokens=True, tied_head=True, head_bias=True)


def _texts(reader: Reader) -> Iterator[str]:
    from hornbook.data.example import Pair

    for example in reader.learnt():
        if isinstance(example, Pair):
            yield example.source
            yield example.target


def _shown(sets: Sets, tokenizer: Tokenizer) -> tuple[Piece, ...]:
    row = sets.train[0]
    assert row.target is not None
    source, target = (tokenizer.decode(ids.tolist(), skip_special=False) for ids in (row.ids, row.target))
    return (source, False), (" -> ", False), (target, True)


def _ask(folder: Path, reader: Reader, device: str) -> dict[str, float]:
    """What was saved is what is asked: the share of held-out pairs whose best beam is the target, to the letter."""
    from hornbook.checkpoint.loading import load
    from hornbook.data.example import Pair
    from hornbook.engine.seq2seq import Seq2Seq

    asked = [example for example in reader.held_out() if isinstance(example, Pair)]
    with Seq2Seq(load(folder / "model", dtype="float32", device=device), max_batch=AT_ONCE) as writer:
        answers = [best[0][0] for best in writer.generate([pair.source for pair in asked])]
    with Lines(folder / "held_out.jsonl") as file:
        for pair, answer in zip(asked, answers, strict=True):
            file.write({"source": pair.source, "target": pair.target, "answer": answer})
    right = sum(answer == pair.target for pair, answer in zip(asked, answers, strict=True))
    return {"exact answers": right / max(1, len(asked))}
