"""From ids back to bytes: what each token writes, on its own, wherever it stands.

Every decoder in use is a sum of pieces: the bytes of a text are the pieces of its tokens one after the other, and only
the very start of a text is special (SentencePiece drops one space, WordPiece puts none), or its very end (the space
that ends a word of the first GPT). That is what makes an exact stream possible: `hornbook.text.stream` adds the same
pieces one at a time.

Four ways of writing a token exist:

    byte-level     every character of the token stands for one byte (GPT-2)            "Ġcaf", "Ã©" -> " café"
    SentencePiece  U+2581 is a space, <0xE4> is a byte                                  "▁caf", "é"  -> "café"
    WordPiece      "##" continues a word, anything else starts one                      "cafe", "##s" -> "cafes"
    word-end       "</w>" ends a word, anything else goes on                            "caf", "es</w>" -> "cafes"
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Literal

SPACE = "\u2581"  # how SentencePiece writes a space
KNOWN = 8192  # tokens whose bytes are kept: the words of a text come again
WORD_END = "</w>"  # how the first GPT marks the token that ends a word
Style = Literal["byte-level", "sentencepiece", "wordpiece", "word-end", "plain"]

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
# WordPiece puts a space before every word; these are the ones that English does not want (Wolf et al. 2020, HF).
_TIDY = [
    *[(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m")],
    *[(" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")],
]


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """GPT-2's table of printable characters for the 256 bytes (Radford et al. 2019): character -> byte.

    A byte that prints in Latin-1 stands for itself; the 68 others take the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(rest)}


class Detokenizer:
    """Turns ids into bytes. ``token`` gives an id's text; ``literal`` are ids whose text is written as it stands."""

    def __init__(
        self,
        style: Style,
        token: Callable[[int], str],
        *,
        strips_first_space: bool = False,
        tidies: bool = False,
        literal: frozenset[int] = frozenset(),
    ) -> None:
        self.style = style
        self.strips_first_space = strips_first_space
        self.strips_last_space = style == "word-end"
        self._token = token
        self._tidies = tidies
        self._literal = literal
        self.piece = lru_cache(KNOWN)(self._piece)

    def _piece(self, id: int, *, first: bool = False) -> bytes:
        """``piece``: the bytes of one token; ``first`` says that nothing stands before it in the text."""
        text = self._token(id)
        if id in self._literal and self.style != "wordpiece":  # there an added token is a word as well
            return text.encode("utf-8", "surrogatepass")
        if self.style == "byte-level":
            alphabet = byte_alphabet()
            try:
                return bytes([alphabet[character] for character in text])
            except KeyError:  # an added token is written in plain characters
                return text.encode()
        if self.style == "sentencepiece":
            byte = _BYTE.fullmatch(text)
            return bytes([int(byte[1], 16)]) if byte else text.replace(SPACE, " ").encode()
        if self.style == "word-end":
            return text.replace(WORD_END, " ").encode()
        if self.style == "wordpiece":
            return self._word(text, first).encode()
        return (text if first else f" {text}").encode()

    def _word(self, text: str, first: bool) -> str:
        if not first:
            text = text[2:] if text.startswith("##") else f" {text}"
        if self._tidies:
            for ugly, tidy in _TIDY:
                text = text.replace(ugly, tidy)
        return text

    def pieces(self, ids: Iterable[int]) -> bytes:
        """The bytes of a whole text, the rule for its start applied."""
        written = bytearray()
        for at, id in enumerate(ids):
            written += self.piece(id, first=at == 0)
        if self.strips_first_space and written[:1] == b" ":
            del written[0]
        if self.strips_last_space and written[-1:] == b" ":
            del written[-1]
        return bytes(written)
