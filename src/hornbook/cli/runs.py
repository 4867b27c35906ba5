"""runs: what has been trained, how far what is training is, and what made two runs differ."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hornbook.cli import console

if TYPE_CHECKING:
    from hornbook.train.history import History, Summary

_LINES = 12  # of a curve
_ROWS = 10  # of losses side by side


def runs(
    names: Annotated[
        list[str] | None, typer.Argument(help="A run to show, or several to compare: names, or folders. None: all.")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", "-f", help="Draw the loss as it comes, until the run ends. Without a name: the latest."
        ),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write the run's report.html anew, and print its path.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the runs of hornbook train, show one, or compare several."""
    from hornbook.errors import UsageError
    from hornbook.settings import Settings
    from hornbook.train import history

    home = Settings.load().home.expanduser().absolute() / "runs"
    if follow and not names:
        latest = max(_all(home), key=lambda run: run.when, default=None)
        if latest is None:
            raise UsageError(f"there are no runs in {home}", "hornbook train RECIPE.yaml makes one.")
        names = [str(latest.folder)]
    folders = [_folder(name, home) for name in names or []]
    if follow or report:
        if len(folders) != 1 or (follow and report):
            raise UsageError("--follow and --report are each for one run", "Name one, and give one of the two.")
        if follow:
            from hornbook.cli.following import follow as watch

            watch(folders[0], as_json=as_json)
        else:
            from hornbook.train.report import write

            print(write(folders[0]))
    elif not folders:
        _list(list(_all(home)), home, as_json)
    elif len(folders) == 1:
        _show(folders[0], as_json)
    else:
        _compare([history.read(folder) for folder in folders], as_json)


def _folder(name: str, home: Path) -> Path:
    """A run by its name or its folder. Raises UsageError, with names that are near."""
    from difflib import get_close_matches

    from hornbook.errors import UsageError
    from hornbook.train import history

    inside = [home / name] if ".." not in Path(name).parts else []
    for place in [*inside, Path(name).expanduser()]:
        if (place / "state.json").is_file():
            return place.absolute()
    near = get_close_matches(name, [_called(folder, home) for folder in history.all_in(home)], n=2, cutoff=0.4)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UsageError(f"there is no run {name!r}", f"{hint}hornbook runs lists those in {home}.")


def _called(folder: Path, home: Path) -> str:
    """A run's name: its path in the folder of runs, or the folder's own where it lies elsewhere."""
    return folder.relative_to(home).as_posix() if folder.is_relative_to(home) else folder.name


# ----------------------------------------------------------------------------------------------------------- all


def _all(home: Path) -> Iterator[Summary]:
    """Every run; one that cannot be read is told and keeps no other from being seen."""
    from hornbook.errors import UsageError
    from hornbook.train import history

    for folder in history.all_in(home):
        try:
            yield history.summarise(folder)._replace(name=_called(folder, home))
        except UsageError as error:
            console.say(error.what)


def _list(found: list[Summary], home: Path, as_json: bool) -> None:
    found.sort(key=lambda run: run.when, reverse=True)
    if as_json:
        console.print_json({"folder": str(home), "runs": [_data(run) for run in found]})
        return
    if not found:
        console.say(f"there are no runs in {home}: hornbook train RECIPE.yaml makes one")
        return
    rows = [
        (
            _short(run.name, 32), _short(run.recipe, 12), _short(run.model, 28), run.status,
            f"{run.step:,}/{run.steps:,}", _number(run.loss), _number(run.validation and run.validation.loss), _ago(run.when),
        )
        for run in found
    ]  # fmt: skip
    print(console.table(rows, ("name", "recipe", "model", "status", "steps", "loss", "held-out", "when")))


def _data(run: Summary) -> dict[str, Any]:
    return {
        **run._asdict(),
        "folder": str(run.folder),
        "validation": run.validation and run.validation._asdict(),
    }


def _short(text: str, width: int) -> str:
    from hornbook.cli.curve import cropped

    return cropped(text, width)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def _ago(when: float) -> str:
    seconds = max(0.0, time.time() - when)
    for unit, long in (("s", 60), ("min", 60), ("h", 48)):
        if seconds < long:
            return f"{seconds:.0f} {unit} ago"
        seconds /= 60 if unit != "h" else 24
    return f"{seconds:.0f} days ago"


# ----------------------------------------------------------------------------------------------------------- one


def _show(folder: Path, as_json: bool) -> None:
    from shutil import get_terminal_size

    from hornbook.cli.curve import can_braille, draw, plain
    from hornbook.train import history
    from hornbook.train.report import figures

    run = history.read(folder)
    if as_json:
        console.print_json(_of(run))
        return
    about = (run.folder.name, str(run.state.get("recipe") or ""), str(run.state.get("model") or ""), run.status)
    print(" · ".join(plain(word) for word in about if word))
    if run.state.get("error"):
        print(f"  {plain(str(run.state['error']))}")
    print(console.table([(f"  {name}", value) for name, value in figures(run)]))
    width = min(100, get_terminal_size().columns)
    for line in draw(
        run.steps,
        run.numbers["loss"],
        run.validations,
        width=width,
        height=_LINES,
        braille=can_braille(sys.stdout.encoding),
    ):
        print(line)
    console.say(f"  {folder}")


def _of(run: History) -> dict[str, Any]:
    from hornbook.train import history

    return {
        **_data(history.summarise(run.folder)),
        "recipe_resolved": run.recipe,
        "validations": [one._asdict() for one in run.validations],
        "samples": [one._asdict() for one in run.samples],
    }


# ------------------------------------------------------------------------------------------------------- several


def _compare(found: list[History], as_json: bool) -> None:
    """What was asked differently, and what came of it."""
    from hornbook.train.report import figures

    asked = differences([run.recipe for run in found])
    losses = side_by_side(found)
    if as_json:
        console.print_json(
            {
                "runs": [_of(run) for run in found],
                "differences": asked,
                "losses": [{"step": step, "losses": values} for step, values in losses],
            }
        )
        return
    heads = [_short(run.folder.name, 28) for run in found]
    if asked:
        rows = [(f"  {key}", *(_short(_said(value), 28) for value in values)) for key, values in asked.items()]
        print(console.table(rows, ("recipe", *heads)))
    else:
        print("the recipes are the same")
    told = [dict(figures(run)) for run in found]
    names = list(dict.fromkeys(name for run in told for name in run))
    print(
        "\n"
        + console.table([(f"  {name}", *(run.get(name, "–") for run in told)) for name in names], ("outcome", *heads))
    )
    if losses:
        rows = [(f"  {step:,}", *map(_number, values)) for step, values in losses]
        print("\n" + console.table(rows, ("loss at step", *heads)))


def differences(recipes: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Key ("training.rate") -> what each recipe says of it; None where it says nothing. Only what is not the same in all."""
    flat = [_flat(recipe) for recipe in recipes]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    every = {key: [recipe.get(key) for recipe in flat] for key in keys}
    return {key: values for key, values in every.items() if any(value != values[0] for value in values)}


def _flat(value: Any, at: str = "") -> dict[str, Any]:
    """A tree's leaves by their path; those of lists by their number."""
    if isinstance(value, Mapping) and value:
        return {
            key: leaf
            for name, inner in value.items()
            for key, leaf in _flat(inner, f"{at}.{name}" if at else str(name)).items()
        }
    if isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value):
        return {key: leaf for number, inner in enumerate(value) for key, leaf in _flat(inner, f"{at}.{number}").items()}
    return {at: value}


def _said(value: Any) -> str:
    import json

    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def side_by_side(found: Sequence[History]) -> list[tuple[int, list[float | None]]]:
    """(step, each run's loss there: the mean of the last few steps), at steps that all runs have reached."""
    from bisect import bisect_right

    from hornbook.train.history import RECENT

    if not found or not all(run.steps for run in found):
        return []
    reached = min(run.steps[-1] for run in found)
    rows: list[tuple[int, list[float | None]]] = []
    for step in sorted({max(1, reached * part // _ROWS) for part in range(1, _ROWS + 1)}):
        values: list[float | None] = []
        for run in found:
            end = bisect_right(run.steps, step)
            known = [value for value in run.numbers["loss"][max(0, end - RECENT) : end] if value is not None]
            values.append(sum(known) / len(known) if known else None)
        rows.append((step, values))
    return rows
