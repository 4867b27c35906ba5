"""``hornbook key add``, ``list`` and ``revoke``: who may use this machine's server from elsewhere."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from hornbook.cli import console
from hornbook.errors import UsageError
from hornbook.settings import Settings

if TYPE_CHECKING:
    from hornbook.serve.guard.keys import Keys


class Action(StrEnum):
    ADD = "add"
    LIST = "list"
    REVOKE = "revoke"


def key(
    action: Annotated[Action, typer.Argument(help="add makes a key, list shows whose there are, revoke ends one.")],
    name: Annotated[str, typer.Argument(help="Who or what uses the key: phone, ada.", show_default=False)] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")] = False,
) -> None:
    """Make, list and revoke the keys of the server. A key is shown once; what is kept cannot be turned back into it."""
    from hornbook.serve.guard.keys import Keys

    keys = Keys(Settings.load())
    if action is Action.LIST:
        if name:
            raise UsageError("hornbook key list takes no name", "hornbook key list")
        _list(keys, as_json)
        return
    if not name:
        raise UsageError(f"hornbook key {action.value} needs a name", f"hornbook key {action.value} phone")
    if action is Action.ADD:
        secret = keys.add(name)
        if as_json:
            console.print_json({"name": name.strip(), "key": secret})
            return
        console.say(f"  the key of {name.strip()}, shown only now; clients send it as Authorization: Bearer KEY")
        print(secret)
        console.say(f"  hornbook key revoke {name.strip()} ends it at once")
        return
    ended = keys.revoke(name.strip())
    if as_json:
        console.print_json({"name": ended.name, "revoked": True})
    else:
        console.say(f"  {ended.name} is revoked: servers of this home refuse its key from now on")


def _list(keys: Keys, as_json: bool) -> None:
    known = keys.all()
    if as_json:
        fields = ("name", "created", "last_used")
        console.print_json({"keys": [{field: getattr(key, field) for field in fields} for key in known]})
        return
    if known:
        rows = [(key.name, key.created[:10], (key.last_used or "never").replace("T", " ")) for key in known]
        print(console.table(rows, ("name", "created", "last used (UTC)")))
    console.say(f"  {len(known)} keys" if known else "  no keys: a server on 127.0.0.1 asks for none")
