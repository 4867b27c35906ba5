"""What is judged, as token ids: pairs of a context and its continuation, and whole texts cut into windows.

    context "The cat "  continuation "sat"   -->  ids [ The | cat | ▁sat ]    start 2: spaces belong to what follows
    context [5, 9, 2]   continuation "sat"   -->  ids [ 5 9 2 | sat ]         start 3: ids stay as they are
    text of 10 tokens, a context of 4        -->  [ begin 0 1 2 3 ] [ 3 4 5 6 7 ] [ 5 6 7 8 9 ]
                                                          ^^^^^^^       ^^^^^^^         ^^^     judged, each token once

Tokenised as lm-evaluation-harness does it, so that likelihoods can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hornbook.errors import UsageError
from hornbook.types import Prompt, Score

if TYPE_CHECKING:
    from hornbook.text.tokenizer import Tokenizer

_ANCHOR = "\n"  # no vocabulary's tokens reach from the end of a line into a word


def joined(tokenizer: Tokenizer, pairs: Sequence[tuple[Prompt, str]]) -> list[tuple[list[int], int]]:
    """(ids of both, where the continuation begins) for each context and its continuation. No context: the model's begin token.

    A context of text and its continuation are tokenised as one text; to one of ids the continuation's own are added.
    """
    texts = {text for context, tail in pairs if isinstance(context, str) for text in (context.rstrip(), context + tail)}
    encoded = dict(
        zip(texts, tokenizer.encode_batch([*texts]), strict=True)
    )  # a context once for all its continuations
    return [_joined(tokenizer, context, continuation, encoded) for context, continuation in pairs]


def _joined(
    tokenizer: Tokenizer, context: Prompt, continuation: str, encoded: Mapping[str, list[int]]
) -> tuple[list[int], int]:
    if not isinstance(context, str):
        before = [int(id) for id in context] or begin_of(tokenizer)
        return [*before, *going_on(tokenizer, continuation)], len(before)
    bare = context.rstrip()
    if not bare:
        begin = begin_of(tokenizer)
        return [*begin, *tokenizer.encode(context + continuation, add_special=False)], len(begin)
    whole, start = encoded[context + continuation], len(encoded[bare])
    if start >= len(whole) and continuation:  # the continuation melted into the context's last token
        first = tokenizer.encode(context)
        return [*first, *tokenizer.encode(continuation, add_special=False)], len(first)
    return whole, start


def going_on(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text that is not the beginning of one: without the space that some vocabularies put before a text."""
    anchor, both = (tokenizer.encode(one, add_special=False) for one in (_ANCHOR, _ANCHOR + text))
    if both[: len(anchor)] == anchor:
        return both[len(anchor) :]
    return tokenizer.encode(text, add_special=False)


def begin_of(tokenizer: Tokenizer) -> list[int]:
    """What stands for "no text yet": the begin token, or the end token of the text before."""
    first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if first is None:
        raise UsageError("the text is empty and the model has no begin token", "Give at least one character.")
    return [first]


def windows(begin: Sequence[int], ids: Sequence[int], length: int) -> list[tuple[list[int], int]]:
    """Cut a text so that each of its tokens is judged once, by a model that reads ``length`` tokens: (ids, start) each.

    Windows follow one another with one token of context; the last one reaches back as far as the model reads.
    """
    whole = [*begin[-1:], *ids]
    found, end = [], 1
    while end < len(whole):
        start, end = end, min(end + length, len(whole))
        first = max(0, end - length - 1)
        found.append((whole[first:end], start - first))
    return found


def related(asked: Sequence[tuple[Sequence[int], int]]) -> list[list[int]]:
    """The places of (ids, start) with something to judge, those of one context together, the longest first; contexts that
    begin alike follow one another, so that an engine still knows what they share."""
    families: dict[tuple[int, ...], list[int]] = {}
    for place, (ids, start) in enumerate(asked):
        if start < len(ids):
            families.setdefault(tuple(ids[:start]), []).append(place)
    return [sorted(families[context], key=lambda place: -len(asked[place][0])) for context in sorted(families)]


def whole_of(parts: Sequence[Score]) -> Score:
    """Of a text, from its windows'."""
    return Score(
        math.fsum(part.logprob for part in parts),
        all(part.is_greedy for part in parts),
        sum(part.tokens for part in parts),
    )
