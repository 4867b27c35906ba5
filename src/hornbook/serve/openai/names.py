"""Names of what is made while a request is answered: chatcmpl-, cmpl-, resp_, msg_, call_ and so on."""

from __future__ import annotations

import secrets

DASHED = ("chatcmpl", "cmpl")


def new_id(kind: str) -> str:
    """A name that cannot be guessed: 24 hexadecimal digits after its kind."""
    return f"{kind}{'-' if kind in DASHED else '_'}{secrets.token_hex(12)}"
