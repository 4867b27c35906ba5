"""``hornbook create`` and ``cp``: models of one's own, which point at weights where they lie."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from hornbook.cli import console
from hornbook.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]


def create(
    name: Annotated[str, typer.Argument(help="What the model will be called.")],
    file: Annotated[Path, typer.Option("--file", "-f", help="The Modelfile; - reads standard input.")] = Path(
        "Modelfile"
    ),
    as_json: AsJson = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never use the network: fail if FROM is not here.")
    ] = False,
) -> None:
    """Make a model by a Modelfile: another's weights with a system text, parameters, a template of its own.

    FROM names a model of the store, one to pull, a created one, a GGUF file or a folder; paths start from the Modelfile's
    folder. No weights are copied. A created model of that name is replaced.
    """
    from hornbook.checkpoint.created import CreatedModels
    from hornbook.checkpoint.modelfile import parse

    modelfile = parse(_text(file))
    created = CreatedModels(Settings.load(offline=offline or None))
    beside = Path.cwd() if str(file) == "-" else file.expanduser().absolute().parent
    with console.progress("bytes") as progress:
        made = created.create(name, modelfile, beside=beside, progress=progress)
    if as_json:
        console.print_json(made.to_json())
    else:
        console.say(
            f"  {made.name} is made from {made.parent} · {console.bytes_text(made.base.size)} used where they lie"
        )


def cp(
    source: Annotated[str, typer.Argument(help="A model that was created, or one of the store.")],
    destination: Annotated[str, typer.Argument(help="What the copy will be called.")],
    as_json: AsJson = False,
) -> None:
    """Give a model a second name. No weights are copied."""
    from hornbook.checkpoint.created import CreatedModels

    made = CreatedModels(Settings.load()).copy(source, destination)
    if as_json:
        console.print_json(made.to_json())
    else:
        console.say(f"  {made.name} is {source}")


def _text(file: Path) -> str:
    from hornbook.errors import UsageError

    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.expanduser().read_bytes()
        return data.decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", "Name a Modelfile with -f.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no text in UTF-8 (byte {error.start})", "Save it as UTF-8.") from error
