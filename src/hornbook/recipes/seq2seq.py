"""The Transformer of 2017 (arXiv 1706.03762) from a file of pairs: a translator, or anything that maps a text to a text.

    pairs --held out--> the rest --byte pairs--> vocabulary --ids, batches by tokens--> train --> save --> load --beams--> exact

    python -m hornbook.recipes.seq2seq pairs.tsv -o translator layers=2 width=128 steps=2000

The folder is a Marian model of Hugging Face's: hornbook.load and transformers open it. Beside it lie recipe.json (the
settings), metrics.jsonl (a line a step) and held_out.jsonl (each text that was held out, and what the model said).

Sections of the paper: model 3, shared byte pairs and batches by tokens 5.1, Adam and eq. 3 5.3, smoothing 5.4, the mean of
the last snapshots 6.1. Departures: the vocabulary is over bytes; sequences are worth log P / length^penalty (engine.beam).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from hornbook.errors import DataError, StoreError, TrainingError, UsageError
from hornbook.recipes.command import Report, main
from hornbook.recipes.lines import Lines

if TYPE_CHECKING:
    from hornbook.model.config import ModelConfig
    from hornbook.model.transformer import Transformer
    from hornbook.text.tokenizer import Tokenizer
    from hornbook.train.batch import Batch
    from hornbook.train.loop import Run, Step
    from hornbook.train.pairs import Pair


class Settings(BaseModel):
    """Train a Transformer on pairs of texts. The defaults are the base model of arXiv 1706.03762, table 3."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    vocabulary: int = Field(32_000, ge=259, le=10_000_000, description="tokens at most, bytes and marks among them")
    layers: int = Field(6, ge=1, description="of the encoder, and of the decoder")
    width: int = Field(512, ge=2, description="of the stream")
    heads: int = Field(8, ge=1, description="of attention")
    feedforward: int = Field(2048, ge=1, description="width inside")
    context: int = Field(512, ge=2, description="longest text, in tokens")
    dropout: float = Field(0.1, ge=0, lt=1, description="of the tokens and of what each part adds")
    smoothing: float = Field(0.1, ge=0, lt=1, description="of labels")
    steps: int = Field(100_000, ge=1, description="updates of the weights")
    tokens: int = Field(25_000, ge=1, description="of a batch's longer side, padding counted")
    accumulate: int = Field(1, ge=1, description="batches in a step")
    warmup: int = Field(4000, ge=1, description="steps until the rate is highest")
    rate: float | None = Field(None, gt=0, description="the highest; None: 1 / sqrt(width * warmup), as in eq. 3")
    clip: float | None = Field(None, gt=0, description="longest gradient; None: any")
    average: int = Field(5, ge=1, description="snapshots whose mean is kept, a hundredth of the steps apart")
    held_out: int = Field(200, ge=1, description="pairs that are not learnt but asked")
    beams: int = Field(4, ge=1, description="of the search for an answer")
    length_penalty: float = Field(0.6, description="above 0 longer answers gain")
    seed: int = Field(0, ge=0, lt=2**63, description="of weights, order, dropout and what is held out")
    device: str = Field("auto", description="cpu, cuda, mps; auto: the best at hand")


class Result(NamedTuple):
    """``exact``: the share of the ``asked`` sources that were held out whose best beam is the target, to the letter."""

    exact: float
    asked: int
    run: Run
    folder: Path


def run(pairs: Path, folder: Path, settings: Settings, report: Report) -> Result:
    """Train on a file of pairs (see `hornbook.train.pairs`), save into ``folder``, load that and ask it.

    A training that is interrupted, diverges or can no longer write its log saves what it has learnt before it ends so.
    Raises DataError for pairs that cannot be used, UsageError where the folder holds a model already, TrainingError as
    ``train`` does, StoreError where the folder cannot be written.
    """
    from hornbook.train.pairs import hold_out, read_pairs
    from hornbook.train.vocabulary import byte_pairs

    if (folder / "config.json").exists():
        raise UsageError(f"{folder} holds a model already", "Name another folder, or remove this one.")
    learnt, asked = hold_out(read_pairs(pairs), settings.held_out, random.Random(settings.seed))
    tokenizer = byte_pairs((text for pair in learnt for text in (pair.source, pair.target)), settings.vocabulary)
    coded = _encode(learnt, tokenizer, settings.context, pairs)
    _encode(asked, tokenizer, settings.context, pairs)
    _begin(folder, settings)
    model = _made(settings, tokenizer.vocab_size)
    made: list[Step] = []
    try:
        done = _train(model, coded, tokenizer, settings, folder, report, made)
    except (KeyboardInterrupt, TrainingError, StoreError):
        if made:
            _save(model, tokenizer, settings, folder)
        raise
    _save(model, tokenizer, settings, folder)
    return Result(_ask(folder, asked, settings), len(asked), done, folder)


def model_config(settings: Settings, vocab_size: int) -> ModelConfig:
    """The paper's model: post-norm, sinusoids, ReLU, one table of tokens for both sides and the head.

    Raises UsageError for a width that the heads do not divide.
    """
    from hornbook.model.config import ModelConfig

    if settings.width % settings.heads:
        raise UsageError(
            f"a width of {settings.width} cannot be divided among {settings.heads} heads", "Make it a multiple."
        )
    shape: dict[str, Any] = {
        **{"layers": settings.layers, "width": settings.width, "feedforward_width": settings.feedforward},
        **{"heads": settings.heads, "kv_heads": settings.heads, "head_width": settings.width // settings.heads},
        **{"vocab_size": vocab_size, "context_length": settings.context, "dropout": settings.dropout},
        **{"positions": "sinusoidal", "embedding_scale": settings.width**0.5},
        **{"norm": "layer", "norm_placement": "post", "activation": "relu", "gated": False},
        **dict.fromkeys(["qkv_bias", "attention_output_bias", "feedforward_bias"], True),
    }
    encoder = ModelConfig(**shape, causal=False, language_head=False)
    return ModelConfig(**shape, encoder=encoder, shared_tokens=True, tied_head=True, head_bias=True)


# ----------------------------------------------------------------------------------------------------------- steps

Coded = list[tuple[list[int], list[int]]]


def _encode(pairs: Sequence[Pair], tokenizer: Tokenizer, context: int, path: Path) -> Coded:
    sources = tokenizer.encode_batch([pair.source for pair in pairs])
    targets = tokenizer.encode_batch([pair.target for pair in pairs])
    coded = list(zip(sources, targets, strict=True))
    long = [(pair.line, max(map(len, both))) for pair, both in zip(pairs, coded, strict=True)]
    long = [(line, size) for line, size in long if size > context]
    if long:
        raise DataError(
            f"{path}, line {long[0][0]} has {long[0][1]} tokens, the model reads {context} ({len(long)} such lines)",
            f"Remove them, or set context={max(size for _, size in long)}.",
        )
    return coded


def _begin(folder: Path, settings: Settings) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(settings.model_dump_json(indent=2) + "\n", "utf-8")
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error.strerror}", "Name another folder.") from error


def _made(settings: Settings, vocab_size: int) -> Transformer:
    import torch

    from hornbook.checkpoint.loading import pick_device
    from hornbook.model.transformer import Transformer
    from hornbook.train.initialise import initialise

    model = Transformer(model_config(settings, vocab_size))
    initialise(model, generator=torch.Generator().manual_seed(settings.seed))
    return model.to(pick_device(settings.device))


def _train(
    model: Transformer,
    coded: Coded,
    tokenizer: Tokenizer,
    settings: Settings,
    folder: Path,
    report: Report,
    made: list[Step],
) -> Run:
    """Train; ``made`` gets each step as soon as the weights have changed, whatever comes after."""
    import torch

    from hornbook.train import batch, losses, schedule
    from hornbook.train.average import Average
    from hornbook.train.loop import train

    padding = tokenizer.pad_id
    assert padding is not None
    rate = settings.rate or schedule.peak_rate(settings.width, settings.warmup)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98), eps=1e-9)
    order = torch.Generator().manual_seed(settings.seed)
    apart = max(1, settings.steps // 100)
    average = Average(model, last=settings.steps, snapshots=settings.average, apart=apart)
    sizes = [max(map(len, both)) for both in coded]

    def batches() -> Iterator[Batch]:
        for rows in batch.by_tokens(sizes, settings.tokens, order):
            yield batch.translation([coded[row] for row in rows], start=padding, padding=padding)

    with Lines(folder / "metrics.jsonl") as log, torch.random.fork_rng():
        torch.manual_seed(settings.seed)  # dropout's

        def note(step: Step) -> None:
            log.write({name: getattr(step, name) for name in LOGGED})
            report(step.step, settings.steps, f"loss {step.loss:.3f}, rate {step.rate:.2e}")

        done = train(
            model,
            batches(),
            losses.seq2seq(smoothing=settings.smoothing),
            optimizer,
            steps=settings.steps,
            accumulate=settings.accumulate,
            clip=settings.clip,
            schedule=schedule.inverse_sqrt(warmup=settings.warmup),
            on_step=[made.append, note, average],
        )
    average.settle()
    return done


LOGGED = ("step", "loss", "labels", "rate", "gradient_norm", "seconds")


def _save(model: Transformer, tokenizer: Tokenizer, settings: Settings, folder: Path) -> None:
    from hornbook.checkpoint.families.transformer import HUGGING_FACE
    from hornbook.checkpoint.saving import save_model

    ids = {
        "decoder_start_token_id": tokenizer.pad_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
    search = {
        "num_beams": settings.beams,
        "length_penalty": settings.length_penalty,
        "max_length": settings.context + 1,  # the start token is counted
        "bad_words_ids": [[tokenizer.pad_id]],
    }
    save_model(model.eval(), folder, family=HUGGING_FACE, tokenizer=tokenizer, generation=ids | search, said=ids)


def _ask(folder: Path, asked: Sequence[Pair], settings: Settings) -> float:
    """What was saved is what is asked; -> the share of exact answers."""
    from hornbook.checkpoint.loading import load
    from hornbook.engine.seq2seq import Seq2Seq

    with Seq2Seq(load(folder, dtype="float32", device=settings.device), max_batch=64) as writer:
        answers = [best[0][0] for best in writer.generate([pair.source for pair in asked])]
    with Lines(folder / "held_out.jsonl") as file:
        for pair, answer in zip(asked, answers, strict=True):
            file.write({"source": pair.source, "target": pair.target, "answer": answer})
    return sum(answer == pair.target for pair, answer in zip(asked, answers, strict=True)) / len(asked)


def _command(pairs: Path, folder: Path, settings: Settings, report: Report) -> str:
    done = run(pairs, folder, settings, report)
    return (
        f"{done.folder}: {done.exact:.1%} of {done.asked} held-out texts exact, {len(done.run.steps):,} steps in "
        f"{done.run.seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main("seq2seq", Settings, _command, None))
