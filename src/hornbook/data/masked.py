"""What BERT and RoBERTa learn from: documents of which tokens are hidden, alone or as pairs that follow or do not.

    [CLS] first ... [SEP] second ... [SEP]     types 0 0 0 0 0 1 1 1 1     follows 0 or 1     arXiv 1810.04805
    <s> stretch of whole sentences ... </s>                                                  1907.11692

The tables are those of `hornbook.data.encode.documents`. What is hidden is drawn anew in every epoch (1907.11692,
section 4.1), from (seed, epoch, micro-batch) alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from hornbook.data import order, sentence_pairs
from hornbook.data.collate import ragged
from hornbook.data.encoded import WORD
from hornbook.data.feed import Feed
from hornbook.data.sentence_pairs import Bounds
from hornbook.data.table import Table
from hornbook.errors import UsageError
from hornbook.text.tokenizer import Tokenizer
from hornbook.train.batch import Batch
from hornbook.train.masking import Masking


class Marks(NamedTuple):
    """The ids that stand around texts and in the place of hidden tokens."""

    cls: int
    sep: int
    mask: int
    padding: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Marks:
        """Raises UsageError for a tokenizer without one of them."""
        marks = tokenizer.parts.marks
        found = {
            "begins a text": marks.get("cls", tokenizer.bos_id),
            "ends a text": marks.get("sep", tokenizer.eos_id),
            "hides a token": marks.get("mask"),
        }
        for what, id in found.items():
            if id is None:
                raise UsageError(
                    f"the tokenizer has no token that {what}", "Take a tokenizer of a masked language model."
                )
        first, last, mask = (int(id) for id in found.values() if id is not None)
        return cls(first, last, mask, last if tokenizer.pad_id is None else tokenizer.pad_id)


def masked(
    table: Table,
    tokenizer: Tokenizer,
    *,
    length: int,
    tokens: int,
    seed: int,
    next_sentence: bool = False,
    whole_words: bool = False,
    rank: int = 0,
    world: int = 1,
) -> Feed:
    """Batches of rows of at most ``length`` tokens with their marks, ``tokens`` at once with the padding.

    next_sentence  rows are pairs, half of which follow: for `losses.masked_lm_and_next_sentence`; else one stretch each
    whole_words    words are hidden whole
    Raises UsageError for a tokenizer without a mask token and a length without room, DataError as the plans do.
    """
    marks = Marks.of(tokenizer)
    room = length - (3 if next_sentence else 2)
    if room < 2:
        raise UsageError(f"rows of {length} tokens leave room for {max(room, 0)} of text", "Make them longer.")
    masking = Masking(tokenizer.vocab_size, marks.mask, {*tokenizer.control_ids, *marks})
    documents = [table.sentences(number) for number in range(len(table))]
    still = None if next_sentence else sentence_pairs.stretches(documents, room)

    @lru_cache(maxsize=2)  # around the end of an epoch two are in use
    def plan(epoch: int) -> Bounds:
        return sentence_pairs.pairs(documents, room, seed, epoch) if still is None else still

    def micro_batches(epoch: int) -> order.Epoch:
        rows = plan(epoch)
        lengths = rows[:, 2] - rows[:, 1] + 2
        if next_sentence:
            lengths = lengths + rows[:, 5] - rows[:, 4] + 1
        return order.padded(lengths, tokens, seed, epoch)

    def collate(rows: list[int], epoch: int) -> Batch:
        made = [_row(table, planned, marks) for planned in plan(epoch)[rows].tolist()]
        ids, types, words = (
            ragged(column, value) for column, value in zip(zip(*made, strict=True), (marks.padding, 0, 0), strict=True)
        )
        real = torch.arange(ids.shape[1]) < torch.tensor([len(row[0]) for row in made])[:, None]
        draws = np.random.SeedSequence((seed, epoch, rows[0], 2)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(draws[0] >> np.uint64(1)))
        read, labels = masking(ids, generator, mask=real, words=words.bool() if whole_words else None)
        follows = torch.from_numpy(plan(epoch)[rows, 6]) if next_sentence else None
        return Batch(read, labels, real, types if next_sentence else None, follows, rows=tuple(rows))

    return Feed(micro_batches, collate, rank=rank, world=world)


def _row(table: Table, planned: list[int], marks: Marks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, types and starts of words [T] of a row of a plan."""
    first = table.part(*planned[:3])
    parts = [(first, 0)] if len(planned) == 3 else [(first, 0), (table.part(*planned[3:6]), 1)]
    ids, types, words = [np.array([marks.cls])], [np.zeros(1, np.uint8)], [np.ones(1, bool)]
    for part, number in parts:
        assert part.starts is not None, "a table of documents knows where words begin"
        ids += [part.ids, np.array([marks.sep])]
        types.append(np.full(len(part.ids) + 1, number, np.uint8))
        words += [(part.starts & WORD) > 0, np.ones(1, bool)]
    return np.concatenate(ids), np.concatenate(types), np.concatenate(words)
