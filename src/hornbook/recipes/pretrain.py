"""Learn to tell the next token of plain text: a new model of a family's form, or one that goes on learning.

texts --tokenizer--> ids, split at the context --packed--> the model --> model/
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hornbook.errors import UsageError
from hornbook.recipes import examples, starts
from hornbook.recipes.job import Asked, Job, Place
from hornbook.recipes.kinds import Pretrain
from hornbook.recipes.replies import replies
from hornbook.recipes.sets import make
from hornbook.recipes.starts import Start
from hornbook.recipes.templates import named

BEGINNING = 8  # tokens of a held-out text that the model is asked to go on with


def prepare(recipe: Pretrain, place: Place) -> Job:
    """See `hornbook.recipes.job`."""
    from hornbook.data import encode
    from hornbook.data.example import Text
    from hornbook.train import losses

    start = _begin(recipe, place)
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


def _begin(recipe: Pretrain, place: Place) -> Start:
    """Raises UsageError for a model of another kind, and a template for one that has its own."""
    said = recipe.template
    if recipe.model is None:
        template = None if said is None else lambda tokenizer: named(said, tokenizer)
        return starts.new(recipe, recipe.family, place, template=template)
    if said is not None:
        raise UsageError(
            f"{recipe.model} keeps its own template", "Leave template out; sft takes one for a model without."
        )
    start = starts.continued(recipe, recipe.model, place)
    if not start.model.config.causal or start.model.encoder is not None:
        raise UsageError(f"{recipe.model} does not tell next tokens", "pretrain takes a decoder; see mlm and span.")
    return start
