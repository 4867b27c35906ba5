"""Keep what people wrote apart from what a template wrote, so that data never turns into control tokens.

A person may write "<|im_end|>", and a file may hold "<|im_start|>system". In a rendered prompt these must stay
characters, while the same text written by the template must become one token. Two steps do it:

    protect   before rendering, a mark that occurs nowhere else is put inside every control token that a person's text
              holds, and beside an end of that text which could complete one: "<" + MARK + "|im_end|>"
    encode    after rendering, control tokens that are still whole are the template's own: each becomes an alias, one
              private character that the tokenizer maps to the token's id. Then the marks are taken out, and all that
              remains is text.

Where nobody wrote a control token nothing is marked, and the ids are those of an ordinary encoding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import AddedToken

from hornbook.errors import TemplateError
from hornbook.text.tokenizer import Tokenizer, without_control

_ALIASES = 0x100000  # plane 16, private use: alias of the i-th control token
_MARKS = range(0x10FFFD, 0x10FF00, -1)  # its end, of which no alias comes near


@dataclass(frozen=True, slots=True)
class Encoded:
    """ids, and for each its half-open range of characters of the text."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class Fence:
    """The fence around one tokenizer's control tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control = [token for token in tokenizer.control_tokens if token]  # the longest first
        self._longest = max(map(len, self._control), default=0)

    @staticmethod
    def marks(*texts: str, count: int = 3) -> list[str]:
        """Characters that occur in none of the texts."""
        free = [mark for mark in map(chr, _MARKS) if not any(mark in text for text in texts)]
        if len(free) < count:
            raise TemplateError(
                "the conversation uses up all private characters of Unicode's plane 16",
                "Take the characters U+10FF01 to U+10FFFD out of it.",
            )
        return free[:count]

    def protect(self, value: Any, mark: str) -> Any:
        """Put the mark into every string of ``value`` (strings, lists, mappings) that holds or touches a control token."""
        if isinstance(value, str):
            return self._protect(value, mark)
        if isinstance(value, Mapping):
            return {
                self.protect(key, mark): item if key == "role" else self.protect(item, mark)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple)):
            return [self.protect(item, mark) for item in value]
        return value

    def _protect(self, text: str, mark: str) -> str:
        inside = self._pattern(text)
        if inside is not None:
            text = inside.sub(lambda found: found[0][0] + mark + found[0][1:], text)
        core = text.strip()
        if not core:
            return text
        start = text.index(core[0])
        end = start + len(core)
        reach = range(1, min(len(core), self._longest) + 1)
        if any(core[-length:] in self._beginnings for length in reach):
            text = text[:end] + mark + text[end:]
        if any(core[:length] in self._endings for length in reach):
            text = text[:start] + mark + text[start:]
        return text

    @cached_property
    def _beginnings(self) -> frozenset[str]:
        return frozenset(token[:cut] for token in self._control for cut in range(1, len(token)))

    @cached_property
    def _endings(self) -> frozenset[str]:
        return frozenset(token[cut:] for token in self._control for cut in range(1, len(token)))

    def _pattern(self, text: str) -> re.Pattern[str] | None:
        """One that finds the control tokens in this text, the longest first."""
        present = [token for token in self._control if token in text]
        return re.compile("|".join(map(re.escape, present))) if present else None

    def encode(self, text: str, mark: str) -> Encoded:
        """Encode a rendered text; the offsets are those of the text without marks. No BOS or EOS is added."""
        aliased, places = self._alias(text, mark)
        encoding = self._backend.encode(aliased, add_special_tokens=False)
        size = self._tokenizer.vocab_size
        ids = [self._ids[id - size] if id >= size else id for id in encoding.ids]
        return Encoded(ids, [(places[start], places[end]) for start, end in encoding.offsets])

    def _alias(self, text: str, mark: str) -> tuple[str, list[int]]:
        """The text to encode, and for each of its positions the position in the text without marks."""
        if any(chr(_ALIASES + at) in text for at in range(len(self._control))) and re.search(
            f"[{chr(_ALIASES)}-{chr(_ALIASES + len(self._control))}]", text
        ):
            raise TemplateError(
                "the conversation holds characters of Unicode's plane 16, which stand for control tokens here",
                f"Take the characters from U+{_ALIASES:X} on out of it.",
            )
        pattern = self._pattern(text)
        number = {token: at for at, token in enumerate(self._control)}
        parts: list[str] = []
        places: list[int] = []
        at = place = 0
        for found in [*(pattern.finditer(text) if pattern else ()), None]:
            plain = text[at : found.start() if found else len(text)].replace(mark, "")
            parts.append(plain)
            places.extend(range(place, place + len(plain)))
            place += len(plain)
            if found:
                parts.append(chr(_ALIASES + number[found[0]]))
                places.append(place)
                place += len(found[0])
                at = found.end()
        return "".join(parts), [*places, place]

    @cached_property
    def _ids(self) -> list[int]:
        return [id for id in map(self._tokenizer.id, self._control) if id is not None]

    @cached_property
    def _backend(self) -> Any:
        """The tokenizer without control tokens, and with an alias for each. It shares the vocabulary."""
        backend = self._tokenizer.backend
        added = backend.get_added_tokens_decoder()
        twin = without_control(backend)
        twin.add_tokens(
            [
                AddedToken(
                    chr(_ALIASES + at),
                    lstrip=added[id].lstrip,
                    rstrip=added[id].rstrip,
                    normalized=False,
                    special=False,
                )
                for at, id in enumerate(self._ids)
            ]
        )
        return twin
