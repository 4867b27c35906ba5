"""``hornbook corpus``: raw files become a corpus to train on, and what went is accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hornbook.cli import console


def corpus(
    recipe: Annotated[str, typer.Argument(help="A YAML file that names the sources; docs/corpus.md shows one.")],
    settings: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE ...", show_default=False)] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder to make. Default: the recipe's name.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the account as JSON on standard output.")] = False,
) -> None:
    """Clean, deduplicate, decontaminate and scrub raw text, and split it. The same command goes on where it was stopped.

    Settings are the recipe's keys, as in languages=[en,zh] or sources.0.path=mine.jsonl. The folder gets train.jsonl.zst,
    validation.jsonl.zst, account.json and report.html.
    """
    from hornbook.recipes.corpus import read_recipe, run

    asked = read_recipe(recipe, settings or [])
    folder = (Path(Path(recipe).stem) if output is None else output.expanduser()).absolute()
    with console.progress() as progress:
        made = run(asked, folder, progress)
    if as_json:
        console.print_json({"folder": str(made.folder), "made_now": made.fresh, **made.ledger.as_dict()})
        return
    if not made.fresh:
        console.say("The corpus is there already; nothing was done.")
    print(console.table(made.ledger.rows(), ("", "examples", "share", "characters")))
    changed = made.ledger.changed
    if changed:
        console.say("Changed: " + ", ".join(f"{name} in {count:,}" for name, count in changed.most_common(8)))
    if made.ledger.malformed_lines:
        console.say(f"Malformed lines passed over: {made.ledger.malformed_lines:,}")
    console.say(f"{made.folder}: train.jsonl.zst, validation.jsonl.zst, account.json, report.html")
