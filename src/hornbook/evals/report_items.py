"""The items of one or two outcomes as JSON within a page: small, safe to stand in HTML, and easy to search.

    task ── beginnings    what many prompts begin with (solved examples), kept once
         ├─ columns       names of the grades
         └─ items ── id, group, target, grades of each model, what was asked and answered

Whatever stands in them was written by others. In a page ``<`` is written as its escape, so that nothing ends the element that
holds the data, and the page's script shows all of it as text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hornbook.evals.outcome import Asked, Result, Sample, finite

LONGEST = 20_000  # characters of a text that is shown
BUDGET = 48_000_000  # characters of all items; beyond it the texts of right answers are left out, then of others

Pair = Sequence["Result | None"]  # a task's result of each model


def embedded(tasks: Sequence[tuple[str, Pair]], models: Sequence[str], budget: int = BUDGET) -> str:
    """The JSON of the tasks' items, as it may stand in an element ``script`` of a page."""
    made = [_task(name, pair) for name, pair in tasks]
    _shorten(made, budget)
    return in_html({"models": list(models), "tasks": made})


def in_html(value: Any) -> str:
    """JSON without any character that HTML or UTF-8 would stumble over."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda at: f"\\u{ord(at[0]):04x}", text)


def known_by(result: Result) -> str:
    """The column that says whether an item was answered rightly: of the first metric that is a share of items; or none."""
    return next(
        (one.name for one in result.figures if one.name in result.columns and one.percent and one.higher_is_better), ""
    )


# ------------------------------------------------------------------------------------------------------------- items


def _task(name: str, pair: Pair) -> dict[str, Any]:
    results = [one for one in pair if one is not None]
    columns = list(dict.fromkeys(column for result in results for column in result.columns))
    places = [{id: place for place, id in enumerate(one.ids)} if one else {} for one in pair]
    ids = list(dict.fromkeys(id for one in reversed(results) for id in one.ids))
    begun = _Beginnings(results)
    items = []
    for id in ids:
        there = [(one, where.get(id)) for one, where in zip(pair, places, strict=True)]
        samples = [one.samples[at] if one and at is not None and one.samples else None for one, at in there]
        sample = next((one for one in samples if one), None)
        group = next((one.item_groups[at] for one, at in there if one and at is not None), "")
        grades = [
            [finite(one.columns[column][at]) if column in one.columns else None for column in columns]
            if one and at is not None
            else None
            for one, at in there
        ]
        item: dict[str, Any] = {"id": id, "group": group, "grades": grades}
        if sample:
            item |= {"target": _cut(sample.target), "asked": list(_asked(samples, begun))}
            if not any(one.prompt for one in sample.asked):  # a trial: what it was about stands in its own fields
                item["data"] = _cut(json.dumps(sample.data, ensure_ascii=False, indent=1, default=str))
        items.append(item)
    return {
        "task": name,
        "known_by": known_by(results[-1]) if results else "",
        "columns": columns,
        "beginnings": begun.texts,
        "items": items,
    }


def _asked(samples: Sequence[Sample | None], begun: _Beginnings) -> Iterator[list[dict[str, Any]] | None]:
    """Of each model; a prompt that is the first one's stands there alone."""
    first: Sequence[Asked] | None = None
    for sample in samples:
        if sample is None:
            yield None
            continue
        told = []
        for place, one in enumerate(sample.asked):
            same = first is not None and place < len(first) and first[place].prompt == one.prompt
            told.append(_one(one, {} if same else begun.split(sample.group, one.prompt)))
        first = first or sample.asked
        yield told


def _one(asked: Asked, prompt: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"kind": asked.kind, **prompt}
    if asked.kind in ("likelihood", "rolling"):
        said["answers"] = [
            [finite(one["logprob"]), bool(one["is_greedy"]), int(one["tokens"])] for one in asked.answers
        ]
        if asked.kind == "likelihood":
            said["options"] = [_cut(option) for option in asked.continuations]
    elif asked.kind == "writing":
        said["answers"] = [_cut(text) for text in asked.answers]
    else:
        said["answers"] = [_cut(json.dumps(one, ensure_ascii=False, indent=1, default=str)) for one in asked.answers]
    return said


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text) - LONGEST:,} more characters)"


def _shorten(tasks: Sequence[Mapping[str, Any]], budget: int) -> None:
    """Take the texts of some items away, where a page would be too large to open; their rows stay."""
    sizes: list[tuple[bool, int, dict[str, Any]]] = []
    for task in tasks:
        column = task["columns"].index(task["known_by"]) if task["known_by"] else None
        for item in task["items"]:
            if "asked" in item:
                right = column is not None and all(grades and grades[column] == 1 for grades in item["grades"])
                sizes.append((right, len(json.dumps(item, ensure_ascii=False)), item))
    left = budget
    for _, size, item in sorted(sizes, key=lambda one: one[:2]):
        left -= size
        if left < 0:
            item["left_out"] = True
            for name in ("asked", "data", "target"):
                item.pop(name, None)


# ------------------------------------------------------------------------------------------------------- beginnings


class _Beginnings:
    """What most prompts of a task, or of a group of it, begin with, where solved examples stand before the question.

    It is kept once, and a search looks only at what is an item's own: every item would match a word of the examples.
    """

    def __init__(self, results: Sequence[Result]) -> None:
        self.texts: list[Any] = []
        self._numbers: dict[str, int] = {}
        self._plain: dict[str, str] = {}
        by_group: dict[str, list[str]] = {}
        for result in results if any(one.shots for one in results) else ():
            for sample in result.samples:
                prompts = by_group.setdefault(sample.group, [])
                prompts += [one.prompt for one in sample.asked if isinstance(one.prompt, str)]
        self._shots = bool(by_group)
        for group, prompts in by_group.items():
            # Those of three quarters lie together in order; an item that is itself among the examples begins otherwise.
            some = sorted(prompts)[len(prompts) // 4 : max(1, -(-3 * len(prompts) // 4))]
            alike = os.path.commonprefix([some[0], some[-1]]) if len(some) > 1 else ""
            self._plain[group] = alike[: alike.rfind("\n\n") + 2] if "\n\n" in alike else ""

    def split(self, group: str, prompt: str | Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """A prompt as the number of its beginning, where it has one, and the rest."""
        if isinstance(prompt, str):
            alike = self._plain.get(group, "")
            if alike and prompt.startswith(alike):
                return {"begins": self._number(_cut(alike)), "prompt": _cut(prompt[len(alike) :])}
            return {"prompt": _cut(prompt)}
        turns = [[str(turn["role"]), _cut(str(turn["content"]))] for turn in prompt]
        if self._shots and len(turns) > 1:
            return {"begins": self._number(turns[:-1]), "prompt": turns[-1:]}
        return {"prompt": turns}

    def _number(self, text: Any) -> int:
        key = json.dumps(text)
        if key not in self._numbers:
            self._numbers[key] = len(self.texts)
            self.texts.append(text)
        return self._numbers[key]
