"""``hornbook train``: a recipe is shown, refused or carried out; what came of it and what to do with it is said at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hornbook.cli import console
from hornbook.errors import UsageError
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.recipes.config import Recipe
    from hornbook.recipes.outcome import Outcome
    from hornbook.recipes.stages import Life

LONGEST = 240  # characters of a sample's reply that are shown


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A file, or a kind of recipe (--list).", show_default=False)
    ] = None,
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE ...", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The run's folder. Default: runs/NAME in Hornbook's home.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and end there.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Go on where memory looks too small.")] = False,
    list_kinds: Annotated[bool, typer.Option("--list", help="List the kinds of recipes.")] = False,
    example: Annotated[
        str | None, typer.Option("--example", metavar="KIND", help="Print a recipe of that kind to begin with.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what came of it as JSON on standard output.")] = False,
) -> None:
    """Train a model by a recipe. The same command goes on with a run that was stopped or killed.

    Settings are those of docs/recipes.md, as in training.rate=1e-4 or data.train.0.path=mine.jsonl.
    """
    if list_kinds:
        _list(as_json)
        return
    if example is not None:
        from hornbook.recipes.example import example as commented

        print(commented(example), end="")
        return
    if recipe is None:
        raise UsageError("no recipe was given", "hornbook train --list lists the kinds; --example sft prints one.")
    from hornbook.recipes.reading import read
    from hornbook.recipes.stages import Life

    asked = read(recipe, settings or [])
    if isinstance(asked, Life):
        _live(asked, recipe, output, dry_run, force, as_json)
    else:
        _carry_out(asked, recipe, output, dry_run, force, as_json)


def _list(as_json: bool) -> None:
    from hornbook.recipes.kinds import RECIPES

    rows = [(name, kind.summary) for name, kind in RECIPES.items()]
    rows.append(("life", "do several recipes one after the other, from pre-training to chat"))
    if as_json:
        console.print_json([{"recipe": name, "summary": summary} for name, summary in rows])
        return
    print(console.table(rows))


def _carry_out(recipe: Recipe, given: str, output: Path | None, dry: bool, force: bool, as_json: bool) -> None:
    from hornbook.cli.models import fetch
    from hornbook.recipes.outcome import folder_for
    from hornbook.recipes.preview import Preview, show
    from hornbook.recipes.progress import Line
    from hornbook.recipes.run import run

    settings = Settings.load()
    folder = folder_for(recipe, Path(given).stem, settings) if output is None else output.expanduser().absolute()
    if (model := getattr(recipe, "model", None)) is not None:
        fetch(settings, model)
    shown: list[Preview] = []

    def show_and_keep(preview: Preview) -> None:
        shown.append(preview)
        show(preview)
        if not dry:
            console.say(f"  {'run':<9}{folder}")

    line = Line()

    def say(text: str) -> None:
        line.end()
        console.say(text)

    try:
        outcome = run(
            recipe,
            folder,
            settings=settings,
            show=show_and_keep,
            report=line,
            say=say,
            force=force,
            dry=dry,
        )
    finally:
        line.end()
    if as_json:
        preview = {"preview": shown[0].data()} if shown else {}
        console.print_json({**preview, **({} if outcome is None else outcome.data())})
    elif outcome is not None:
        _tell(outcome)


def _live(life: Life, given: str, output: Path | None, dry: bool, force: bool, as_json: bool) -> None:
    """A chain of recipes."""
    from hornbook.cli.models import fetch
    from hornbook.recipes.life import Done, live
    from hornbook.recipes.outcome import runs
    from hornbook.recipes.preview import duration, show
    from hornbook.recipes.progress import Line

    settings = Settings.load()
    folder = runs(settings) / Path(given).stem if output is None else output.expanduser().absolute()
    if dry:
        print(console.table([(name, stage.recipe) for name, stage in life.stages.items()]))
        return
    fetch(settings, *dict.fromkeys(life.models()))
    line = Line()

    def say(text: str) -> None:
        line.end()
        console.say(text)

    def tell(done: Done) -> None:
        line.end()
        figures = [f"{name} {value:,.4g}" for name, value in done.figures.items()]
        took = f"{duration(done.seconds)}" if done.anew else "was done already"
        console.say("  " + " · ".join([*figures, took, str(done.result)]))
        for asked, reply in done.said:
            console.say(f"  > {_short(asked)}\n    {_short(reply)}")

    try:
        done = live(life, folder, settings=settings, show=show, report=line, say=say, tell=tell, force=force)
    finally:
        line.end()
    if as_json:
        console.print_json([one.data() for one in done])


def _tell(outcome: Outcome) -> None:
    from hornbook.recipes.preview import duration

    for asked, old, new in outcome.samples:
        console.say(f"\n  > {_short(asked)}")
        if old is not None:
            console.say(f"    before  {_short(old)}")
        if new is not None:
            console.say(f"    after   {_short(new)}")
    console.say()
    if outcome.before is not None and outcome.after is not None:
        console.say(f"  held-out loss {outcome.before:.4f} -> {outcome.after:.4f}")
    for name, value in outcome.scores.items():
        console.say(f"  {name} {value:.4f}")
    console.say(f"  {outcome.steps:,} steps in {duration(outcome.seconds)} · {outcome.result}")
    for command in outcome.commands:
        console.say(f"  {command}")


def _short(text: str) -> str:
    """On one line, and cut."""
    line: Any = " ".join(text.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
