"""Fine-tune a chat model: conversations, by its own template, loss on what the assistant says.

conversations --template--> ids and mask --packed--> the model, whole or with an adapter --> adapter/ or model/
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hornbook.errors import UsageError
from hornbook.recipes import examples
from hornbook.recipes.adapters import LowRank
from hornbook.recipes.job import Asked, Job, Place
from hornbook.recipes.kinds import Sft
from hornbook.recipes.opening import open_base
from hornbook.recipes.replies import replies
from hornbook.recipes.sets import make
from hornbook.recipes.templates import template_of
from hornbook.types import Message

if TYPE_CHECKING:
    from hornbook.data.example import Example

NO_CALLS = (
    "the template leaves calls of tools out: of such turns only the end is learnt; take a model whose template has them"
)


def prepare(recipe: Sft, place: Place) -> Job:
    """See `hornbook.recipes.job`. Raises what opening the model and reading the data do."""
    from hornbook.checkpoint.saving import save
    from hornbook.data import encode
    from hornbook.data.example import Conversation
    from hornbook.train import losses

    base = open_base(recipe, place)
    checkpoint, training, data = base.checkpoint, recipe.training, recipe.data
    model, tokenizer = checkpoint.model, checkpoint.tokenizer
    if not model.config.causal or not model.config.language_head or model.config.encoder is not None:
        raise UsageError(
            f"{recipe.model} writes no text by itself", "sft takes a decoder; for this one see classify or seq2seq."
        )
    template = template_of(recipe.template, checkpoint)
    context = min(data.context, model.config.context_length, training.tokens)
    too_long = data.too_long or "truncate"

    called: list[str] = []  # what the template makes of the first conversation with a call of a tool

    def told(example: Example) -> Example:
        """With the recipe's system message, where the conversation has none."""
        if not isinstance(example, Conversation):
            return example
        if not called and (calls := [call for turn in example.messages for call in turn.tool_calls]):
            text = template.render(example.messages, tools=example.tools).text
            called.append("" if calls[0].name in text else NO_CALLS)
        if not recipe.system or example.messages[0].role == "system":
            return example
        return replace(example, messages=(Message("system", recipe.system), *example.messages))

    sets = make(
        recipe,
        place,
        lambda: encode.chat(template, context, too_long, recipe.learn),
        examples.language_feed(recipe, tokenizer),
        tokenizer,
        change=told,
        said=f"{template.source}\n{recipe.system}",
        few=recipe.samples.prompts,
    )
    ask = []
    for example in sets.few:
        if isinstance(example, Conversation):
            turn = next(at for at, message in enumerate(example.messages) if message.role == "assistant")
            question, answer = example.messages[:turn], example.messages[turn].content
            ask.append(
                Asked(question[-1].content, template.render(question, tools=example.tools, reply=True).ids, answer)
            )
    system = [Message("system", recipe.system)] if recipe.system else []
    for text in recipe.samples.ask:
        ask.append(Asked(text, template.render([*system, Message("user", text)], reply=True).ids))

    def answer_all(asked: Sequence[Asked]) -> list[str]:
        return replies(model, tokenizer, [one.ids for one in asked], recipe.samples.tokens)

    def write(folder: Path) -> None:
        if base.attached is not None:
            base.attached.save(folder, base=recipe.model)
        else:
            save(replace(checkpoint, text=(tokenizer, template)), folder)

    return Job(
        called=recipe.model,
        method=base.method,
        model=model,
        anatomy=base.anatomy,
        memory=base.memory,
        named=base.named,
        loss=losses.causal_lm(smoothing=training.smoothing, z_loss=training.z_loss),
        sets=sets,
        example=examples.shown(sets.train, tokenizer),
        kind="model" if base.attached is None else "adapter",
        write=write,
        next=lambda run: commands(recipe, run, (recipe.samples.ask or [one.text for one in ask] or ["Hello"])[0]),
        attached=base.attached,
        ask=ask,
        answer=answer_all,
        notes=[note for note in called if note],
    )


def commands(recipe: Sft, run: str, question: str) -> list[str]:
    """What to do with the result."""
    if recipe.adapter is None:
        return [
            f"hornbook run {run} {_quoted(question)}",
            f"hornbook export {run} --to gguf -q Q8_0 -o {Path(run).name}.gguf",
        ]
    stretch = "" if recipe.rope is None else f" --stretch {recipe.rope.kind}:{recipe.rope.factor:g}"
    said = [
        f"hornbook run {recipe.model} {_quoted(question)} --adapter {run}{stretch}",
        f"hornbook chat {recipe.model} --adapter {run}{stretch}",
    ]
    if isinstance(recipe.adapter, LowRank) or recipe.adapter.kind == "ia3":  # others are no change of the weights
        said.append(f"hornbook export {recipe.model} --adapter {run} --to gguf -q Q8_0 -o {Path(run).name}.gguf")
    return said


def _quoted(text: str) -> str:
    import shlex

    line = " ".join(text.split())
    return shlex.quote(line if len(line) <= 80 else line[:77] + "...")
