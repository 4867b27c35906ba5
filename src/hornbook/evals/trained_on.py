"""Whether a model was trained on what it is examined with: a run of ours has kept where its data lie.

    MODEL or its adapter -> the run's recipe.yaml -> data.train -> documents -> runs of 13 words held against the items

The overlap is that of `hornbook.data.contamination`, after GPT-3's appendix C.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hornbook.data.compression import inner_suffix
from hornbook.data.contamination import Contamination
from hornbook.data.read import Source, files
from hornbook.data.records import FORMATS, Fault, records
from hornbook.data.texts import strings
from hornbook.errors import HornbookError
from hornbook.evals.outcome import Outcome
from hornbook.evals.task import Item, Task
from hornbook.settings import Settings
from hornbook.types import Progress

RECIPE = "recipe.yaml"
MOST = 500_000_000  # bytes of training data that are looked through


def run_of(path: Path) -> Path | None:
    """The run that made a model or an adapter, by where that lies."""
    near = [path, *path.parents][:4]
    return next((folder for folder in near if (folder / RECIPE).is_file() and (folder / "state.json").is_file()), None)


def remarks(
    source: str,
    adapter: str | None,
    outcome: Outcome,
    tasks: Sequence[Task],
    settings: Settings,
    report: Progress | None = None,
) -> list[str]:
    """Warnings where a model is one of our runs', or has an adapter of one, that was trained on what it was asked."""
    from hornbook.checkpoint.lora import adapter_folder
    from hornbook.checkpoint.store import Store
    from hornbook.engine.remote import is_remote

    paths = [] if is_remote(source) else [Store(settings).get(source).path]
    paths += [] if adapter is None else [adapter_folder(adapter, settings)]
    runs = [made_by for path in paths if (made_by := run_of(path.absolute())) is not None]
    if not runs:
        return []
    asked = {result.task: set(result.ids) for result in outcome.results}
    items = {task.name: [item for item in task.items() if item.id in asked[task.name]] for task in tasks}
    return [note for made_by in runs for note in warnings(made_by, items, report)]


def warnings(run: Path, items: Mapping[str, Sequence[Item]], report: Progress | None = None) -> list[str]:
    """What a reader of the scores has to know: which tasks' items stand in the run's training data, and how many at least.

    items  task -> its items
    What cannot be read any more is said, too: that nothing was found means nothing then.
    """
    looked = Contamination.of({task: [list(strings(dict(item.data))) for item in own] for task, own in items.items()})
    found: dict[str, dict[int, tuple[str, str]]] = {}
    told: list[str] = []
    left = MOST
    for path in _data(run, told):
        size = path.stat().st_size
        if size > left:
            told.append(f"only {MOST:,} bytes of the training data of {run} were searched for the questions")
            break
        left -= size
        try:
            for text in _documents(path):
                if (overlap := looked.find(text)) is not None:
                    found.setdefault(overlap.name, {}).setdefault(overlap.item, (overlap.text, path.name))
                if report is not None:
                    report(f"searching the training data for questions: {path.name}", 0, 0)
        except (HornbookError, OSError) as error:
            told.append(
                f"the training data {path} could not be searched for the questions: {str(error).splitlines()[0]}"
            )
    for task, own in found.items():
        words, where = next(iter(own.values()))
        told.insert(
            0,
            f"{task}: at least {len(own)} of {len(items[task])} items stand in the data that the model was trained on, such "
            f"as {words[:100]!r} in {where}",
        )
    return told


def _data(run: Path, told: list[str]) -> Iterator[Path]:
    """The files that a run was trained on."""
    try:
        recipe = yaml.safe_load((run / RECIPE).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        told.append(f"the recipe of {run} cannot be read, so its data were not searched for the questions: {error}")
        return
    for source in _sources(recipe):
        try:
            yield from files(source)
        except (HornbookError, OSError) as error:
            told.append(
                f"the training data {source.path} are not here any more, and were not searched for the questions: "
                + str(error).splitlines()[0]
            )


def _sources(recipe: Any) -> Iterator[Source]:
    """Of one recipe, or of the stages of a life."""
    if not isinstance(recipe, dict):
        return
    stages = recipe.get("stages")
    for stage in stages.values() if isinstance(stages, dict) else ():
        yield from _sources(stage)
    data = recipe.get("data")
    train = data.get("train") if isinstance(data, dict) else data
    for one in train if isinstance(train, list) else ():
        if isinstance(one, dict) and isinstance(one.get("path"), str):
            yield Source(one["path"])


def _documents(path: Path) -> Iterator[str]:
    """The rows of a table, the paragraphs of a text."""
    format = inner_suffix(path)
    for record in records(path, format if format in FORMATS else ".txt", split="blank-line"):
        if not isinstance(record.value, Fault):
            yield "\n".join(strings(record.value))
