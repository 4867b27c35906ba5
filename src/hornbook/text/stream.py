"""Decode a stream of tokens into text that is certain: no half character, and nothing is ever taken back.

    decoder = StreamDecoder(tokenizer)
    for id in ids:
        print(decoder.push(id), end="")
    print(decoder.flush(), end="")

The pushes and the flush joined are exactly ``tokenizer.decode(ids)``. A token adds its bytes to a UTF-8 decoder that
holds back at most the three bytes of an unfinished character, so a push costs the same however long the text is.
"""

from __future__ import annotations

import codecs

from hornbook.text.tokenizer import Tokenizer


class StreamDecoder:
    """One reply's decoder. After `flush` it is ready for the next reply."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._first = True  # no token yet
        self._strips = tokenizer.detokenizer.strips_first_space  # and no byte yet
        self._held = b""  # the space that a word ends with, where the last of a text is not written

    def push(self, id: int) -> str:
        """Take one token and return the text that became certain with it, often "" inside a character."""
        tokenizer = self._tokenizer
        if self._skip_special and id in tokenizer.control_ids:
            return ""
        written = tokenizer.detokenizer.piece(id, first=self._first)
        self._first = False
        if self._strips and written:
            self._strips = False
            written = written.removeprefix(b" ")
        if tokenizer.detokenizer.strips_last_space and written:
            written, self._held = self._held + written, b""
            if written.endswith(b" "):
                written, self._held = written[:-1], b" "
        return self._utf8.decode(written)

    def flush(self) -> str:
        """End the text: what is still held back can become no character any more and is written as U+FFFD."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        self._first, self._held = True, b""
        self._strips = self._tokenizer.detokenizer.strips_first_space
        return rest
