"""What a run of tasks gave: the scores with their uncertainty, and each item's part of them, as plain data.

    Outcome ─ Result (a task) ─ Figure (a metric: value, standard error, interval), Group (a part of the items: its Figures)
                              └ Sample (an item: what was asked, what came back, what it was worth)

An Outcome is written as JSON and read back. Items keep their ids and their grades (the columns), so that two models are paired
item by item whenever that is wanted; samples, which are long, are lines of a file beside it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from hornbook.errors import DataError
from hornbook.evals.metric import Column, Metric
from hornbook.evals.task import Setting

FORM = 1  # counts up when an older program could not read what a newer one writes
FILE = "outcome.json"

Turns: TypeAlias = "tuple[Mapping[str, str], ...]"  # {"role", "content"} each


@dataclass(frozen=True, slots=True)
class Identity:
    """Which model it was. ``fingerprint``: SHA-256 of its weights where they are a file of ours, so that a model which was
    changed under the same name is another one; empty for a server's."""

    name: str
    source: str
    fingerprint: str = ""
    runs_on: str = ""  # what computed it: "native avx2", "torch cpu float32", the server's address
    context_length: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "runs_on": self.runs_on,
            "context_length": self.context_length,
        }


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric's value over some items. ``low``, ``high``: the ends of its 95% interval. None: there are too few items to tell.

    ``percent``: a share, shown times a hundred; the numbers here are not.
    """

    name: str
    value: float | None
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    higher_is_better: bool = True
    percent: bool = True

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.name,
            "value": self.value,
            "stderr": self.stderr,
            "low": self.low,
            "high": self.high,
            "higher_is_better": self.higher_is_better,
            "percent": self.percent,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Figure:
        numbers = (value["value"], value["stderr"], value["low"], value["high"])
        return cls(value["metric"], *numbers, value["higher_is_better"], value["percent"])


@dataclass(frozen=True, slots=True)
class Group:
    """The items that count to one name, such as a subject of MMLU."""

    name: str
    items: int
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing that was asked about an item, and what came back.

    kind           "likelihood" (an answer for each continuation), "rolling" (one), "writing" (texts), "trial" (what the task says)
    prompt         plain text, or the turns of a chat
    answers        {"logprob", "is_greedy", "tokens"} each; texts; or the one object of a trial
    """

    kind: str
    prompt: str | Turns
    continuations: tuple[str, ...] = ()
    answers: tuple[Any, ...] = ()

    def to_json(self) -> dict[str, Any]:
        prompt = self.prompt if isinstance(self.prompt, str) else [dict(turn) for turn in self.prompt]
        return {
            "kind": self.kind,
            "prompt": prompt,
            "continuations": list(self.continuations),
            "answers": list(self.answers),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Asked:
        prompt = value["prompt"] if isinstance(value["prompt"], str) else tuple(value["prompt"])
        return cls(value["kind"], prompt, tuple(value["continuations"]), tuple(value["answers"]))


@dataclass(frozen=True, slots=True)
class Sample:
    """An item as it went: what a person reads to understand a failure. ``data``: the item's own fields."""

    id: str
    group: str
    data: Mapping[str, Any]
    asked: tuple[Asked, ...]
    target: str
    grade: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "group": self.group,
            "data": dict(self.data),
            "asked": [one.to_json() for one in self.asked],
            "target": self.target,
            "grade": {name: finite(value) for name, value in self.grade.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Sample:
        asked = tuple(Asked.from_json(one) for one in value["asked"])
        grade = {name: np.nan if one is None else one for name, one in value["grade"].items()}
        return cls(value["id"], value["group"], value["data"], asked, value["target"], grade)


@dataclass(frozen=True)
class Result:
    """One task's. ``ids``, ``item_groups`` and every column are in the order of the items [N].

    shots      solved examples before each question, where all had as many
    fewer      item id -> how many it had, where the context did not hold all (asked for with fit_shots)
    clusters   what each item hangs on together with others, '' where it stands alone; none at all where every one does
    metrics    how the figures are made of the columns; not in the JSON: who reads that back gives them anew
    samples    in the order of the items; not in the JSON either, but in a file beside it
    """

    task: str
    version: str
    shots: int
    chat: bool
    ids: tuple[str, ...]
    item_groups: tuple[str, ...]
    columns: Mapping[str, Column]
    figures: tuple[Figure, ...]
    groups: tuple[Group, ...] = ()
    fewer: Mapping[str, int] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    samples: tuple[Sample, ...] = ()
    clusters: tuple[str, ...] = ()

    @property
    def items(self) -> int:
        return len(self.ids)

    def figure(self, name: str = "") -> Figure:
        """Of a metric; without a name the one that the task is known by. Raises KeyError."""
        for one in self.figures:
            if not name or one.name == name:
                return one
        raise KeyError(name)

    def to_json(self, *, items: bool = True) -> dict[str, Any]:
        """``items``: with each item's id, group and grade."""
        by_item = {
            "ids": list(self.ids),
            "item_groups": list(self.item_groups) if any(self.item_groups) else [],
            "clusters": list(self.clusters),
            "columns": {name: [finite(value) for value in column] for name, column in self.columns.items()},
        }
        return {
            "task": self.task,
            "version": self.version,
            "shots": self.shots,
            "chat": self.chat,
            "items": self.items,
            "fewer_shots": dict(self.fewer),
            "figures": [one.to_json() for one in self.figures],
            "groups": [
                {"name": one.name, "items": one.items, "figures": [figure.to_json() for figure in one.figures]}
                for one in self.groups
            ],
            **(by_item if items else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        columns = {
            name: np.array([np.nan if one is None else one for one in column], dtype=np.float64)
            for name, column in value["columns"].items()
        }
        return cls(
            value["task"],
            value["version"],
            value["shots"],
            value["chat"],
            tuple(value["ids"]),
            tuple(value["item_groups"]) or ("",) * len(value["ids"]),
            columns,
            tuple(Figure.from_json(one) for one in value["figures"]),
            tuple(
                Group(one["name"], one["items"], tuple(Figure.from_json(figure) for figure in one["figures"]))
                for one in value["groups"]
            ),
            dict(value["fewer_shots"]),
            clusters=tuple(value.get("clusters", ())),  # which older files do not have
        )


@dataclass(frozen=True)
class Outcome:
    """A model's results. ``limit``: how many items of each task were asked about; None: all.

    began      ISO time in UTC;  seconds: what this run took;  asked, kept: requests answered now, and known from before
    notes      what a reader of the scores has to know, such as questions that stand in the model's training data
    """

    model: Identity
    setting: Setting
    results: tuple[Result, ...]
    limit: int | None = None
    began: str = ""
    seconds: float = 0.0
    asked: int = 0
    kept: int = 0
    notes: tuple[str, ...] = ()

    def result(self, task: str) -> Result:
        """Raises KeyError."""
        for one in self.results:
            if one.task == task:
                return one
        raise KeyError(task)

    def with_metrics(self, metrics: Mapping[str, Sequence[Metric]]) -> Outcome:
        """The metrics of each task by its name: what was read from JSON cannot know them by itself."""
        given = (replace(one, metrics=tuple(metrics.get(one.task, one.metrics))) for one in self.results)
        return replace(self, results=tuple(given))

    def to_json(self, *, items: bool = True) -> dict[str, Any]:
        """The stable form that outcome.json holds, and without ``items`` what ``hornbook eval --json`` prints."""
        from hornbook import __version__

        return {
            "form": FORM,
            "hornbook": __version__,
            "model": self.model.to_json(),
            "setting": {
                "shots": self.setting.shots,
                "seed": self.setting.seed,
                "chat": self.setting.chat,
                "system": self.setting.system,
                "max_tokens": self.setting.max_tokens,
            },
            "limit": self.limit,
            "began": self.began,
            "seconds": round(self.seconds, 3),
            "asked": self.asked,
            "kept": self.kept,
            "notes": list(self.notes),
            "results": [one.to_json(items=items) for one in self.results],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Outcome:
        """Raises DataError where it is none, or one of a later form."""
        try:
            if value["form"] > FORM:
                raise DataError(
                    f"the results are of form {value['form']}, and this Hornbook reads up to {FORM}", "Update Hornbook."
                )
            return cls(
                Identity(**value["model"]),
                Setting(**value["setting"]),
                tuple(Result.from_json(one) for one in value["results"]),
                value["limit"],
                value["began"],
                value["seconds"],
                value["asked"],
                value["kept"],
                tuple(value["notes"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"these are no results of an evaluation: {error!r}", f"Give an {FILE}.") from error

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """From outcome.json or the folder of a run, with the samples that lie beside it. Raises DataError."""
        path = path / FILE if path.is_dir() else path
        try:
            outcome = cls.from_json(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read as results of an evaluation: {error}",
                f"Give an {FILE}, or the folder that holds one.",
            ) from error
        except DataError as error:
            raise DataError(f"{path}: {error.what}", error.remedy) from error
        results = tuple(replace(one, samples=tuple(_samples(path.parent, one.task))) for one in outcome.results)
        return replace(outcome, results=results)


def samples_file(task: str) -> str:
    """samples-TASK.jsonl; a name that is none of a file, such as one that holds a path, gets a mark of its own."""
    plain = re.sub(r"[^\w.-]+", "-", task)
    mark = "" if plain == task else "-" + hashlib.sha256(task.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"samples-{plain[-100:]}{mark}.jsonl"


def finite(value: float) -> float | None:
    """JSON has no numbers that are none."""
    return float(value) if np.isfinite(value) else None


def _samples(folder: Path, task: str) -> Iterable[Sample]:
    path = folder / samples_file(task)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            yield Sample.from_json(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}, line {number} is no sample: {error!r}", "Remove the file, or run again."
            ) from error
