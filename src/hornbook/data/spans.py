"""Span corruption, what T5 learns from (arXiv 1910.10683, sections 3.1.4 and 3.3.4).

    text     Thank you for inviting me to your party last week
    source   Thank you <X> me to your party <Y> week </s>          of n tokens 15 % are taken away,
    target   <X> for inviting <Y> last </s>                        in spans of 3 on average

The number of tokens and of spans follow from n alone; where they lie is drawn, all ways being as likely. The text begins
with a stretch that stays and, as the authors' code has it, ends with a span that goes: no sentinel ends the target, and
a text too short for two spans always loses its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hornbook.data import order
from hornbook.data.encoded import Ids
from hornbook.data.feed import Feed
from hornbook.data.order import shuffled
from hornbook.data.sentence_pairs import stretches
from hornbook.data.table import Table
from hornbook.errors import DataError, UsageError
from hornbook.text.tokenizer import Tokenizer
from hornbook.train.batch import Batch, translation

SHARE, MEAN = 0.15, 3.0


class Counts(NamedTuple):
    """Of a text's tokens: how many are taken away, and in how many spans."""

    noise: int
    spans: int


def counts(length: int, share: float = SHARE, mean: float = MEAN) -> Counts:
    """For a text of ``length`` tokens, two or more."""
    noise = min(max(round(length * share), 1), length - 1)
    return Counts(noise, min(max(round(noise / mean), 1), noise, length - noise))


def text_length(source: int, share: float = SHARE, mean: float = MEAN) -> tuple[int, int]:
    """(tokens of the longest text whose corrupted source has at most ``source`` tokens, tokens of its target), both with an
    end token: of 512, 568 and 114. Raises UsageError where no text is so short."""

    def sides(length: int) -> tuple[int, int]:
        taken = counts(length, share, mean)
        return length - taken.noise + taken.spans + 1, taken.noise + taken.spans + 1

    if source < sides(2)[0]:
        raise UsageError(f"a source of {source} tokens holds no text", f"It takes {sides(2)[0]}.")
    length = 2
    while sides(length + 1)[0] <= source:
        length += 1
    return length, sides(length)[1]


def corrupt(ids: Ids, sentinels: Sequence[int], end: int, *key: int) -> tuple[Ids, Ids]:
    """ids [T] -> (source, target); ``key``: of what the places are drawn. Raises UsageError where sentinels do not suffice."""
    taken = counts(len(ids))
    if taken.spans > len(sentinels):
        raise UsageError(
            f"a text of {len(ids)} tokens has {taken.spans} spans, the tokenizer has {len(sentinels)} sentinels",
            "Make rows shorter.",
        )
    kept = _segments(len(ids) - taken.noise, taken.spans, *key, 0)
    gone = _segments(taken.noise, taken.spans, *key, 1)
    pieces = np.split(ids, np.cumsum(np.stack([kept, gone], 1).ravel())[:-1])
    source, target = [], []
    for sentinel, stays, goes in zip(sentinels, pieces[0::2], pieces[1::2], strict=False):
        source += [stays, [sentinel]]
        target += [[sentinel], goes]
    return tuple(np.concatenate([*side, [end]]).astype(np.int32) for side in (source, target))  # type: ignore[return-value]


def sentinels(tokenizer: Tokenizer) -> list[int]:
    """The ids of <extra_id_0>, <extra_id_1>, ... Raises UsageError where there is none."""
    found: list[int] = []
    while (id := tokenizer.id(f"<extra_id_{len(found)}>")) is not None:
        found.append(id)
    if not found:
        raise UsageError(
            "the tokenizer has no sentinels (<extra_id_0>, ...)", "Take T5's, or add them to the vocabulary."
        )
    return found


def spans(
    table: Table,
    tokenizer: Tokenizer,
    *,
    length: int,
    tokens: int,
    start: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
) -> Feed:
    """Batches whose sources have at most ``length`` tokens, ``tokens`` of them at once with the padding.

    ``start``: the id with which the decoder begins. Rows are stretches of one document of `encode.documents`, those of a
    single token left out; the places are drawn anew in every epoch. Raises UsageError for a tokenizer without sentinels or
    an end token, DataError where no document has two tokens.
    """
    marks, end = sentinels(tokenizer), tokenizer.eos_id
    if end is None:
        raise UsageError("the tokenizer has no token that ends a text", "Take T5's.")
    padding = end if tokenizer.pad_id is None else tokenizer.pad_id
    room, _ = text_length(length)
    whole = [np.array([0, size]) for size in table.lengths.tolist()]
    plan = stretches(whole, room)
    plan = plan[plan[:, 2] - plan[:, 1] >= 2]
    if not len(plan):
        raise DataError("no document has two tokens", "Give longer texts.")
    sizes = [(size, counts(size)) for size in (plan[:, 2] - plan[:, 1]).tolist()]
    lengths = [size - taken.noise + taken.spans + 1 for size, taken in sizes]

    def collate(rows: list[int], epoch: int) -> Batch:
        pairs = []
        for row in rows:
            source, target = corrupt(table.part(*plan[row].tolist()).ids, marks, end, seed, epoch, row)
            pairs.append((source.tolist(), target.tolist()))
        batch = translation(pairs, start=start, padding=padding)
        return Batch(
            batch.ids, batch.labels, batch.mask, source=batch.source, source_mask=batch.source_mask, rows=tuple(rows)
        )

    return Feed(lambda epoch: order.padded(lengths, tokens, seed, epoch), collate, rank=rank, world=world)


def _segments(length: int, count: int, *key: int) -> np.ndarray:
    """``length`` cut into ``count`` parts of one or more, [count]; all ways are as likely."""
    cuts = np.sort(shuffled(length - 1, *key)[: count - 1]) + 1
    return np.diff(cuts, prepend=0, append=length)
