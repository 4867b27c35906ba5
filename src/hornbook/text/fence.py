"""Keep what people wrote apart from what a template wrote, so that data never turns into control tokens.

A person may write "<|im_end|>", and a file may hold "<|im_start|>system". In a rendered prompt these must stay
characters, while the same text written by the template must become one token. Two steps do it:

    protect   before rendering, a mark that occurs nowhere else is put inside every control token that a person's text
              holds, and beside an end of that text which could complete one: "<" + MARK + "|im_end|>"
    encode    after rendering, control tokens that are still whole are the template's own: each becomes an alias, one
              character that the tokenizer maps to the token's id. Then the marks are taken out, and all that
              remains is text.

Where nobody wrote a control token nothing is marked, and the ids are those of an ordinary encoding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from hornbook.errors import TemplateError
from hornbook.text.tokenizer import Tokenizer, without_control

# Unicode assigns nothing in planes 4 to 13, so no real text holds their characters; one that does costs another plane.
_PLANES = range(4, 13)  # of the aliases
_MARKS = range(0xDFFFD, 0xDFF00, -1)


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
        self._number = {token: at for at, token in enumerate(self._control)}
        self._ids = [id for id in map(tokenizer.id, self._control) if id is not None]
        self._longest = max(map(len, self._control), default=0)
        self._backends: dict[
            int, tuple[Backend, dict[int, int]]
        ] = {}  # by the plane of their aliases; all but always there is one

    @staticmethod
    def marks(*values: Any, count: int = 3) -> list[str]:
        """Characters that occur in no string of these values."""
        used = {letter for value in values for letter in _unassigned(value)}
        free = [mark for mark in map(chr, _MARKS) if mark not in used]
        if len(free) < count:
            raise TemplateError(
                "the conversation holds all the characters that could mark what people wrote",
                "Take the characters U+DFF01 to U+DFFFD, which Unicode does not assign, out of it.",
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
        plane = next((plane for plane in _PLANES if not _in_plane(plane).search(text)), None)
        if plane is None:
            raise TemplateError(
                "the conversation holds characters of every plane that Unicode does not assign",
                f"Take the characters from U+{_PLANES[0]:X}0000 to U+{_PLANES[-1]:X}FFFF out of it.",
            )
        aliased, places = self._alias(text, mark, plane << 16)
        if plane not in self._backends:
            self._backends[plane] = self._with_aliases(plane << 16)
        backend, meant = self._backends[plane]
        encoding = backend.encode(aliased, add_special_tokens=False)
        return Encoded(
            [meant.get(id, id) for id in encoding.ids],
            [(places[start], places[end]) for start, end in encoding.offsets],
        )

    def _alias(self, text: str, mark: str, base: int) -> tuple[str, list[int]]:
        """The text to encode, and for each of its positions the position in the text without marks."""
        pattern = self._pattern(text)
        parts: list[str] = []
        places: list[int] = []
        at = place = 0
        for found in [*(pattern.finditer(text) if pattern else ()), None]:
            plain = text[at : found.start() if found else len(text)].replace(mark, "")
            parts.append(plain)
            places.extend(range(place, place + len(plain)))
            place += len(plain)
            if found:
                parts.append(chr(base + self._number[found[0]]))
                places.append(place)
                place += len(found[0])
                at = found.end()
        return "".join(parts), [*places, place]

    def _with_aliases(self, base: int) -> tuple[Backend, dict[int, int]]:
        """The tokenizer with an alias for each control token, and what each alias's id means. It shares the vocabulary."""
        backend = self._tokenizer.backend
        added = backend.get_added_tokens_decoder()
        twin = without_control(backend)
        twin.add_tokens(
            [
                AddedToken(
                    chr(base + at), lstrip=added[id].lstrip, rstrip=added[id].rstrip, normalized=False, special=False
                )
                for at, id in enumerate(self._ids)
            ]
        )
        aliases = (twin.token_to_id(chr(base + at)) for at in range(len(self._ids)))
        return twin, {alias: id for alias, id in zip(aliases, self._ids, strict=True) if alias is not None}


def _in_plane(plane: int) -> re.Pattern[str]:
    return re.compile(f"[{chr(plane << 16)}-{chr((plane << 16) + 0xFFFF)}]")


def _unassigned(value: Any) -> Iterator[str]:
    """The characters of the marks' plane in all strings of a nested value."""
    if isinstance(value, str):
        yield from _in_plane(_MARKS[0] >> 16).findall(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _unassigned(key)
            yield from _unassigned(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _unassigned(item)
