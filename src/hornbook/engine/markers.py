"""Marks in a stream of text, wherever the borders between its pieces fall: found whole, and never shown by half.

    piece   what a token says: text, or a Mark where the token is one of the model's control tokens
    cut     text and a mark -> what stands before it, whether it is there, what stands behind or must still be held back

Some models write a mark such as <tool_call> as plain text, others as a control token, which has no text at all. Where the
vocabulary has a control token of that name, only the token itself is the mark, and the same letters are letters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from hornbook.text.tokenizer import Tokenizer
from hornbook.types import Token


class Mark(str):
    """A control token, by its name."""

    __slots__ = ()


class Cut(NamedTuple):
    before: str  # certain to be no part of a mark
    mark: str  # the mark that was found, "" for none
    after: str  # behind the mark; without one, what may yet become one


def cut(text: str, marks: Iterable[str]) -> Cut:
    """Find the first of the marks in a text, of two that begin together the longer."""
    marks = [mark for mark in marks if mark]
    found = [(at, -len(mark), mark) for mark in marks if (at := text.find(mark)) >= 0]
    if found:
        at, _, mark = min(found)
        return Cut(text[:at], mark, text[at + len(mark) :])
    keep = max((_overlap(text, mark) for mark in marks), default=0)
    return Cut(text[: len(text) - keep], "", text[len(text) - keep :])


def _overlap(text: str, mark: str) -> int:
    """The length of the longest proper beginning of the mark with which the text ends."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)


def control_marks(tokenizer: Tokenizer | None, names: Iterable[str]) -> dict[int, Mark]:
    """Those of the names that are control tokens, by their ids."""
    if tokenizer is None:
        return {}
    ids = {name: tokenizer.id(name) for name in names if name}
    return {id: Mark(name) for name, id in ids.items() if id is not None and id in tokenizer.control_ids}


def pieces(token: Token, marks: Mapping[int, Mark]) -> list[str]:
    """What a token says. A control token's own text is empty; what comes with it was held back before."""
    mark = None if token.id is None else marks.get(token.id)
    return [piece for piece in (token.text, mark) if piece]
