"""``hornbook systems``: the table of docs/systems.md, from the copy that travels in the package."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, NamedTuple

import typer

from hornbook.cli import console


class System(NamedTuple):
    """A row: what it is, the paper, where it lives, the test that proves it, and how far it is."""

    id: str
    system: str
    paper: str
    module: str
    proof: str
    state: str


def read(text: str) -> list[System]:
    """The rows of every Markdown table whose first heading is ``id``; a row of another width is a ValueError."""
    rows = []
    inside = False
    for line in text.splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]
        if not line.lstrip().startswith("|"):
            inside = False
        elif cells[0] == "id":
            inside = True
        elif inside and set(line) - set("|-: "):
            if len(cells) != len(System._fields):
                raise ValueError(f"a row of systems.md has {len(cells)} cells, not {len(System._fields)}: {line}")
            rows.append(System(*cells))
    return rows


def table() -> list[System]:
    return read(files("hornbook").joinpath("assets/systems.md").read_text("utf-8"))


def systems(
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """List the published systems that Hornbook implements: paper, module, proof and state."""
    rows = table()
    if as_json:
        console.print_json([row._asdict() for row in rows])
        return
    print(console.table(rows, list(System._fields)))
