"""What came of a run, as its folder says it; which folder a run has, and what it is called."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hornbook.errors import DataError, StoreError, UsageError
from hornbook.recipes.config import Recipe
from hornbook.settings import Settings

FREE = (
    "samples",
    "training.keep",
    "training.save_every",
    "training.tensorboard",
    "evaluate",
)  # what may change when a run is taken up again


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a recipe. ``before``, ``after``: the held-out loss; ``samples``: (question, before, after)."""

    name: str
    folder: Path
    result: Path
    steps: int
    seconds: float
    before: float | None
    after: float | None
    scores: Mapping[str, float]
    samples: tuple[tuple[str, str | None, str | None], ...]
    commands: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """For ``--json``."""
        held_out = {"before": self.before, "after": self.after, **self.scores}
        return {
            **{"run": self.name, "folder": str(self.folder), "result": str(self.result), "steps": self.steps},
            **{"seconds": round(self.seconds, 1), "held_out": held_out, "commands": list(self.commands)},
            "samples": [{"prompt": asked, "before": old, "after": new} for asked, old, new in self.samples],
        }


def told(folder: Path) -> Outcome | None:
    """What came of a finished run, by what its folder says; None where it cannot be told."""
    try:
        said = json.loads((folder / "outcome.json").read_text("utf-8"))
        rows = lines_of(folder / "metrics.jsonl")
        held_out = [row["validation"]["loss"] for row in rows if "validation" in row]
        steps = [row for row in rows if "loss" in row]
        samples: dict[str, dict[int, str]] = {}
        for row in lines_of(folder / "samples.jsonl"):
            samples.setdefault(row["prompt"], {})[row["step"]] = row["reply"]
        last = steps[-1]["step"] if steps else 0
        return Outcome(
            said["name"],
            folder,
            folder / said["kind"],
            last,
            sum(row["seconds"] for row in steps),
            held_out[0] if held_out else None,
            held_out[-1] if held_out else None,
            said["scores"],
            tuple((asked, replies.get(0), replies.get(last)) for asked, replies in samples.items()),
            tuple(said["commands"]),
        )
    except (OSError, ValueError, KeyError):
        return None


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of lines; of one that is not there, none. Raises DataError where it is damaged."""
    try:
        return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}", "Remove the run's folder and begin again.") from error


def write(path: Path, value: Mapping[str, Any]) -> None:
    """A file of JSON or of YAML, by its name. Raises StoreError."""
    import yaml

    if path.suffix == ".yaml":
        text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
    else:
        text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}", "Make room on the disk.") from error


# ------------------------------------------------------------------------------------------------------------ folders


def stored(folder: Path) -> dict[str, Any] | None:
    """The recipe of the run in a folder, as it was resolved; settings that a later Hornbook has added are those that they
    are where nothing is said."""
    import yaml

    from hornbook.recipes.reading import made

    try:
        found = yaml.safe_load((folder / "recipe.yaml").read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(found, dict):
        return None
    try:
        recipe = made(found, str(folder))
    except UsageError:
        return found
    return recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else found


def called(folder: Path, settings: Settings) -> str:
    """A run's name: its folder's own below the folder of runs, else the path."""
    return folder.name if folder.parent == runs(settings) else str(folder)


def runs(settings: Settings) -> Path:
    """Where runs are that were given no folder."""
    return settings.home.expanduser().absolute() / "runs"


def folder_for(recipe: Recipe, name: str, settings: Settings) -> Path:
    """The folder of the run ``name``; where that one is finished and was of another recipe, name-2, name-3, ..."""
    from hornbook.train.folder import differences, read_state

    asked = recipe.model_dump(mode="json")
    for number in itertools.count(1):
        folder = runs(settings) / (name if number == 1 else f"{name}-{number}")
        before = stored(folder)
        other = before is not None and differences(before, asked, FREE)
        if not other or read_state(folder).get("status") != "finished":
            return folder
    raise AssertionError
