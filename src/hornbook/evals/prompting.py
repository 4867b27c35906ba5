"""From an item to what the model reads: solved examples, a system text, plain text or turns of a chat.

    plain   system + description + (question + answer + between)* + question
    chat    system: system + description; user: question, assistant: answer (each example); user: question

The examples of a task are drawn once by the seed, and not for each item anew: all its prompts then begin alike, which the
engine reads once. Where an item is itself among the examples it is left out of its own prompt.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hornbook.errors import UsageError
from hornbook.evals.task import Item, Question, Setting, Task
from hornbook.types import Message


@dataclass(frozen=True, slots=True)
class Framing:
    """What stands around the questions of a task: before all of them, and between one and the next."""

    description: str = ""
    between: str = "\n\n"
    lead: str = " "  # between a question and its answer, in plain text


def in_chat(task: Task, setting: Setting) -> bool:
    return task.chat if setting.chat is None else setting.chat


def drawn(task: Task, item: Item, setting: Setting, *, first: bool = False) -> list[Item]:
    """The solved examples that go before an item. ``first``: in the order of the data, as where a benchmark fixes them.

    An item of a group is shown examples of its group, where there are any. Raises UsageError where there are too few.
    """
    count = task.shots if setting.shots is None else setting.shots
    if not count:
        return []
    pool = task.examples()
    if item.group:
        pool = [example for example in pool if not example.group or example.group == item.group]
    if first:
        shown = [example for example in pool[: count + 1] if example.id != item.id][:count]
    else:  # one more than are needed, as the item itself may be among them; no pass over all of a large training set
        chance = random.Random(f"{setting.seed} {task.name} {item.group}")
        order = chance.sample(range(len(pool)), min(count + 1, len(pool)))
        shown = [pool[i] for i in order if pool[i].id != item.id][:count]
    if len(shown) < count:
        others = sum(example.id != item.id for example in pool)
        raise UsageError(
            f"{task.name} has {others} solved examples{f' for {item.group}' * bool(item.group)}, and {count} are asked for",
            f"Ask for at most {others} with --shots.",
        )
    return shown


def framed(
    task: Task, item: Item, setting: Setting, question: Callable[[Item], str], answer: Callable[[Item], str],
    framing: Framing = Framing(), *, examples: Sequence[Item] | None = None,
) -> Question:  # fmt: skip
    """The prompt of an item, up to where the answer begins. ``examples``: these and no others."""
    shown = drawn(task, item, setting) if examples is None else examples
    if not in_chat(task, setting):
        solved = "".join(question(one) + framing.lead + answer(one) + framing.between for one in shown)
        before = setting.system + framing.between * bool(setting.system)
        return before + framing.description + solved + question(item)
    turns: list[Message] = []
    system = framing.between.join(part for part in (setting.system, framing.description.strip()) if part)
    if system:
        turns.append(Message("system", system))
    for one in shown:
        turns += [Message("user", question(one)), Message("assistant", answer(one))]
    return (*turns, Message("user", question(item)))
