r"""What Python's JSON reader takes and no text may hold: half surrogate pairs, and bodies that are not UTF-8.

JSON can write half of a pair ("\ud800"). Python reads it into a str that no tokenizer, file, database or answer takes,
so each of them would fail in its own way; RFC 8259 section 8.2 calls what happens then unpredictable. Python's reader
also takes UTF-16 and UTF-32, and surrogates that were encoded as if they were UTF-8, though section 8.1 asks for UTF-8.
Refused here, none of them reaches a route.
"""

from __future__ import annotations

import re

from hornbook.serve.guard.refusals import Refusal

_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF_A_PAIR = re.compile(_HIGH + rb"(?!" + _LOW + rb")|(?<!" + _HIGH + rb")" + _LOW)
_ENCODED_HALF = re.compile(rb"\xed[\xa0-\xbf]")  # never a part of UTF-8
# What a chunk's end may leave open: an escape, the low half that has to follow a high one, an encoded character.
_OPEN = re.compile(rb"(?:\\(?:u[0-9a-fA-F]{0,3})?|" + _HIGH + rb"(?:\\(?:u[0-9a-fA-F]{0,3})?)?|\xed)\Z")
_LONGEST = 12  # bytes of what is left open, one escape that is whole and one that is not


class Characters:
    """Follows the escapes and the encoding of one body, chunk by chunk, in time linear in its bytes."""

    def __init__(self) -> None:
        self._rest = b""  # of the last chunk, what it left open

    def take(self, chunk: bytes) -> None:
        """Raise Refusal (400) at half a pair or at bytes that are no UTF-8 text."""
        if b"\x00" in chunk:
            raise _refusal("the body is not UTF-8", "Send JSON in UTF-8, and a NUL in a text as \\u0000.")
        if not self._rest and b"\\" not in chunk and b"\xed" not in chunk:
            return
        text = self._rest + chunk
        # An escaped backslash escapes nothing further; what stays in its place keeps its neighbours apart.
        backslashes = len(text) - len(text.rstrip(b"\\"))
        odd = b"\\" * (backslashes % 2)
        text = text[: len(text) - len(odd)].replace(b"\\\\", b"  ")
        open_ = _OPEN.search(text, max(0, len(text) - _LONGEST))
        whole = text[: open_.start()] if open_ else text
        self._rest = text[len(whole) :] + odd
        if (b"\\ud" in whole or b"\\uD" in whole) and _HALF_A_PAIR.search(whole):
            raise _refusal("the body holds half of a surrogate pair, which is no character", "Send whole characters.")
        if _ENCODED_HALF.search(whole):
            raise _refusal("the body is not UTF-8: it encodes a surrogate", "Send JSON in UTF-8.")


def _refusal(what: str, remedy: str) -> Refusal:
    return Refusal(400, "bad_characters", what, remedy)
