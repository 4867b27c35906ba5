"""Tasks by name: the built-in ones, and a person's own files.

mmlu                   a task, or a group of tasks
arc_*                  all that are called so; what several words name is taken once
mmlu:anatomy           what stands after the colon is the task's own to read
perplexity:book.txt    a task about a file or a folder
mine.yaml, mine.py, mine.jsonl
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TypeAlias

from hornbook.errors import UsageError
from hornbook.evals.data import Data
from hornbook.evals.task import Task


@dataclass(frozen=True, slots=True)
class Kind:
    """What stands under a name: a line for a list of tasks, and how it is made from the data and what stands after the colon."""

    what: str
    make: Callable[[Data, str], Sequence[Task]]


Kinds: TypeAlias = "Mapping[str, Kind]"


def plain(what: str, *makes: Callable[[Data], Task]) -> Kind:
    """Of tasks that nothing more is said about. Raises UsageError, when they are made, where something is."""

    def make(data: Data, rest: str) -> list[Task]:
        if rest:
            raise UsageError(f"nothing can stand after the colon: {rest!r}", "Name the task alone.")
        return [one(data) for one in makes]

    return Kind(what, make)


# Each has TASKS: Kinds. A module without one of its own is found here, and nowhere else.
MODULES = ("perplexity", "knowledge", "commonsense", "lambada", "truthful", "mathematics", "bbh", "reading", "open_questions",
           "tables", "ifeval", "code", "retrieval", "rag")  # fmt: skip


def kinds() -> dict[str, Kind]:
    """All built-in tasks, by name."""
    found: dict[str, Kind] = {}
    for module in MODULES:
        found |= import_module(f"hornbook.evals.tasks.{module}").TASKS
    return dict(sorted(found.items()))


def tasks(names: Sequence[str], data: Data) -> list[Task]:
    """The tasks that stand under these names, in their order. Raises UsageError with the nearest names, DataError."""
    from hornbook.evals import own

    known = kinds()
    found: list[Task] = []
    for name in names:
        kind, _, rest = name.partition(":")
        matching = fnmatch.filter(known, kind)
        if matching:
            made = [task for one in matching for task in known[one].make(data, rest)]
            have = {task.name for task in found}
            found += {task.name: task for task in made if task.name not in have}.values()
        elif own.is_own(name):
            found += own.read(name)
        else:
            near = difflib.get_close_matches(kind, known, 4, 0.5)
            raise UsageError(
                f"there is no task {name!r}",
                (f"Did you mean {', '.join(near)}? " if near else "")
                + "`hornbook eval --list` shows all; a file of your own ends in .yaml, .py or .jsonl.",
            )
    return found
