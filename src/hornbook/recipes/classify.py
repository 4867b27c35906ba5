"""Learn which label a text has: a linear layer over what an encoder or a decoder makes of the text.

texts, labels --tokenizer--> ids and a number --padded--> the model with a classifier --> model/, accuracy, macro-F1
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.errors import DataError, UsageError
from hornbook.recipes.job import Job, Place
from hornbook.recipes.kinds import Classify
from hornbook.recipes.opening import Base, open_base
from hornbook.recipes.preview import Piece
from hornbook.recipes.sets import Reader, Sets, make

if TYPE_CHECKING:
    from hornbook.checkpoint.loading import Checkpoint
    from hornbook.data.feed import Feed
    from hornbook.data.table import Table
    from hornbook.model.config import ModelConfig

MOST = 1000  # labels
SHOWN = 600  # characters of an example


def prepare(recipe: Classify, place: Place) -> Job:
    """See `hornbook.recipes.job`. Raises DataError for fewer than two labels."""
    from hornbook.checkpoint.saving import save
    from hornbook.data import encode, feed
    from hornbook.train import losses

    labels = labels_of(recipe)
    base = open_base(
        recipe,
        place,
        change=lambda checkpoint: classifying(checkpoint, labels, recipe.training.seed),
        also=() if recipe.adapter is None else ("classifier", *_poolers(recipe, place)),
    )
    checkpoint = base.checkpoint
    model, tokenizer, training = checkpoint.model, checkpoint.tokenizer, recipe.training
    context = min(recipe.data.context, model.config.context_length, training.tokens)
    padding = tokenizer.pad_id if tokenizer.pad_id is not None else 0

    def batches(table: Table, seed: int) -> Feed:
        return feed.classified(table, tokens=training.tokens, padding=padding, seed=seed)

    sets = make(
        recipe,
        place,
        lambda: encode.classify(tokenizer, labels, context, recipe.data.too_long or "truncate"),
        batches,
        tokenizer,
    )

    def write(folder: Path) -> None:
        if base.attached is not None and not base.attached.merged:
            base.attached.save(folder.parent / "adapter", base=recipe.model)
            base.attached.merge(forever=True)
        save(replace(checkpoint, model=model.eval()), folder)

    return Job(
        called=recipe.model,
        method=base.method,
        model=model,
        anatomy=base.anatomy,
        memory=base.memory,
        named=base.named,
        loss=losses.sequence_classification(),
        sets=sets,
        example=_shown(sets, base, labels),
        kind="model",
        write=write,
        next=lambda run: [f'python -c \'from hornbook.recipes.classify import label; print(label("{run}", ["..."]))\''],
        attached=base.attached,
        scores=(lambda: scored(base, sets, len(labels))) if sets.held_out else None,
        notes=[f"{len(labels)} labels: {', '.join(labels[:12])}{', ...' if len(labels) > 12 else ''}"],
    )


def labels_of(recipe: Classify) -> list[str]:
    """All labels that are learnt, in order; those that are numbers by their size."""
    from hornbook.data.example import Labelled

    found = {example.label for example in Reader(recipe).learnt() if isinstance(example, Labelled)}
    if not 2 <= len(found) <= MOST:
        raise DataError(
            f"the data has {len(found)} labels" + (f": {', '.join(found)}" if len(found) == 1 else ""),
            f"Give labelled texts (text, label) with 2 to {MOST:,} labels; data.train.0.fields maps other names.",
        )
    return sorted(found, key=lambda label: (int(label), "") if label.isdecimal() else (MOST, label))


def classifying(checkpoint: Checkpoint, labels: Sequence[str], seed: int) -> Checkpoint:
    """The model with a new classifier in place of its language head, and a new pooler where an encoder has none.

    Raises UsageError for a model that reads with an encoder and writes.
    """
    import torch

    from hornbook.model.transformer import Transformer
    from hornbook.train.initialise import initialise

    config = classifier_config(checkpoint.config, labels)
    model = Transformer(config).to(checkpoint.model.device)
    initialise(model, generator=torch.Generator().manual_seed(seed))
    own = checkpoint.model.state_dict()
    kept = {name: own[name] for name in model.state_dict() if name in own and not name.startswith("classifier.")}
    model.load_state_dict(kept, strict=False, assign=True)
    model.origin = checkpoint.model.origin
    return replace(checkpoint, model=model, config=config)


def classifier_config(config: ModelConfig, labels: Sequence[str]) -> ModelConfig:
    """A decoder is judged by its last token's state, an encoder by its first one's through a pooler, as BERT was."""
    from hornbook.model.config import Classifier

    if config.encoder is not None:
        raise UsageError(
            "a model that reads with an encoder and writes is no classifier", "Take an encoder or a decoder."
        )
    bare: dict[str, Any] = {"language_head": False, "head_transform": False, "head_bias": False, "next_sentence": False}
    head = Classifier("sequence", tuple(labels), bias=False, summary="last")
    if not config.causal:
        head = Classifier("sequence", tuple(labels))
        bare |= {"pooler": True}
    return replace(config, classifier=head, pooling=None, **bare)


def _poolers(recipe: Classify, place: Place) -> tuple[str, ...]:
    """What is trained along with an adapter besides the classifier: an encoder's pooler."""
    from hornbook.checkpoint.header import read_header
    from hornbook.checkpoint.store import Store

    _, config = read_header(Store(place.settings).ensure(recipe.model).path)
    return () if config.causal else ("pooler",)


def scored(base: Base, sets: Sets, count: int) -> dict[str, float]:
    """Accuracy, and the mean over labels of F1, on what was held out."""
    import torch

    model = base.checkpoint.model.eval()
    pairs: list[tuple[int, int]] = []
    with torch.inference_mode():
        for batch in sets.held_out_batches():
            moved = batch.to(model.device)
            hidden = model(moved.ids, mask=moved.mask, token_types=moved.token_types, logits="none").hidden
            found = model.classify(hidden, moved.mask).argmax(-1)
            pairs += zip(moved.labels.tolist(), found.tolist(), strict=True)
    return {"accuracy": sum(a == b for a, b in pairs) / len(pairs), "macro-F1": macro_f1(pairs, count)}


def macro_f1(pairs: Iterable[tuple[int, int]], count: int) -> float:
    """The mean of 2 TP / (2 TP + FP + FN) over the labels that occur, in what is right or in what is said."""
    right, wrong = [0] * count, [0] * count
    for wanted, found in pairs:
        if wanted == found:
            right[wanted] += 1
        else:
            wrong[wanted] += 1
            wrong[found] += 1
    scores = [2 * good / (2 * good + bad) for good, bad in zip(right, wrong, strict=True) if good or bad]
    return sum(scores) / max(1, len(scores))


def label(folder: str | Path, texts: Sequence[str]) -> list[tuple[str, float]]:
    """The likeliest label of each text, and its probability, by the run or the model in ``folder``."""
    import torch

    from hornbook.checkpoint.loading import load
    from hornbook.checkpoint.store import Store
    from hornbook.settings import Settings

    checkpoint = load(Store(Settings.load()).get(str(folder)).path)
    model, tokenizer, head = checkpoint.model, checkpoint.tokenizer, checkpoint.config.classifier
    if head is None:
        raise UsageError(f"{folder} is no classifier", "Name a run of the recipe classify, or its model.")
    said = []
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text)[: checkpoint.config.context_length]], device=model.device)
        with torch.inference_mode():
            scores = model.classify(model(ids, logits="none").hidden)[0].float().softmax(-1)
        best = int(scores.argmax())
        said.append((head.labels[best], float(scores[best])))
    return said


def _shown(sets: Sets, base: Base, labels: Sequence[str]) -> tuple[Piece, ...]:
    row = sets.train[0]
    text = base.checkpoint.tokenizer.decode(row.ids.tolist(), skip_special=False)
    return (text[:SHOWN], False), (" -> ", False), (labels[row.label or 0], True)
