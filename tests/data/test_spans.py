"""Span corruption by its definition (arXiv 1910.10683): counts, published lengths, nothing lost, all places as likely."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import islice
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.data import encode
from hornbook.data.example import Text
from hornbook.data.spans import corrupt, counts, sentinels, spans, text_length
from hornbook.data.table import Table
from hornbook.errors import UsageError
from hornbook.retrieve.sentences import split
from hornbook.text.tokenizer import Tokenizer
from hornbook.train.batch import IGNORED
from small_vocabulary import shakespeare, small_tokenizer

END, SENTINELS = 1, list(range(2000, 1900, -1))


def test_lengths_are_those_that_the_authors_publish() -> None:
    """568 tokens make a source of 512 and a target of 114: 85 tokens in 28 spans."""
    assert text_length(512) == (568, 114)
    assert counts(568) == (85, 28)
    source, target = corrupt(np.arange(100, 668, dtype=np.int32), SENTINELS, END, 0)
    assert (len(source), len(target)) == (512, 114)
    for source_length in (4, 5, 16, 100, 511):
        length, _ = text_length(source_length)
        assert len(corrupt(np.arange(length, dtype=np.int32), SENTINELS, END, 0)[0]) <= source_length
    with pytest.raises(UsageError, match="a source of 2 tokens holds no text"):
        text_length(2)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 600), st.integers(0, 2**40))
def test_source_and_target_together_are_the_text(length: int, seed: int) -> None:
    ids = np.arange(100, 100 + length, dtype=np.int32)
    source, target = corrupt(ids, SENTINELS, END, seed, 3)
    taken = counts(length)
    assert source[-1] == target[-1] == END and source[0] == 100
    used = [id for id in source.tolist() if id in SENTINELS]
    assert used == SENTINELS[: taken.spans] == [id for id in target.tolist() if id in SENTINELS]
    gone: dict[int, list[int]] = {}
    for id in target[:-1].tolist():
        if id in SENTINELS:
            gone[id] = []
        else:
            gone[used[len(gone) - 1]].append(id)
    assert all(gone.values()) and sum(map(len, gone.values())) == taken.noise
    whole = [token for id in source[:-1].tolist() for token in gone.get(id, [id])]
    assert whole == ids.tolist()
    assert taken.noise == min(max(round(0.15 * length), 1), length - 1)
    again = corrupt(ids, SENTINELS, END, seed, 3)
    assert np.array_equal(source, again[0]) and np.array_equal(target, again[1])


def test_all_ways_are_as_likely() -> None:
    """Of 40 tokens six go in two spans: 5 ways to cut the six, 33 to cut what stays."""
    ids, ways, draws = np.arange(40, dtype=np.int32), comb(5, 1) * comb(33, 1), 3300
    found = Counter(corrupt(ids, SENTINELS, END, 9, at)[0].tobytes() for at in range(draws))
    assert len(found) == ways
    expected = draws / ways
    chi_squared = sum((count - expected) ** 2 / expected for count in found.values())
    assert chi_squared < ways - 1 + 5 * (2 * (ways - 1)) ** 0.5


def test_too_few_sentinels_are_refused(shared: Path) -> None:
    with pytest.raises(UsageError, match="a text of 568 tokens has 28 spans, the tokenizer has 4 sentinels"):
        corrupt(np.arange(568, dtype=np.int32), SENTINELS[:4], END, 0)
    with pytest.raises(UsageError, match="no sentinels"):
        sentinels(small_tokenizer(shared))


def test_batches_of_real_text_hold_every_token_and_are_drawn_anew_each_epoch(shared: Path, tmp_path: Path) -> None:
    plain = small_tokenizer(shared)
    backend = type(plain.backend).from_str(plain.backend.to_str())
    backend.add_special_tokens([f"<extra_id_{number}>" for number in range(20)])
    tokenizer = Tokenizer(replace(plain.parts, backend=backend))
    marks = sentinels(tokenizer)
    assert len(marks) == 20
    encoder = encode.documents(tokenizer, split)
    text = shakespeare(shared)
    rows = encoder.many([Text(text[:9000]), Text(text[9000:12000]), Text("a")])
    table = Table.write(tmp_path / "t", rows, fingerprint="x", account=encoder.account, vocab_size=tokenizer.vocab_size)

    def feed():  # type: ignore[no-untyped-def]
        return spans(table, tokenizer, length=100, tokens=500, start=7, seed=2)

    one, two = feed(), feed()
    size = one.epoch_batches
    epoch = list(islice(one, size))
    tokens = 0
    for batch in epoch:
        assert batch.source is not None and batch.source_mask is not None and batch.source.numel() <= 500
        assert (batch.ids[:, 0] == 7).all() and batch.source.shape[1] <= 100
        for row in range(len(batch.ids)):
            source, target = batch.source[row][batch.source_mask[row]], batch.labels[row][batch.labels[row] != IGNORED]
            special = sum(int((side == mark).sum()) for side in (source, target) for mark in marks)
            tokens += len(source) + len(target) - special - 2
    single = 1 + (table.lengths[:2] % text_length(100)[0] == 1).sum()
    assert tokens == table.lengths.sum() - single, "all but stretches of one token"
    again = list(islice(two, size))
    assert all(
        torch.equal(a.source, b.source) and torch.equal(a.labels, b.labels) for a, b in zip(epoch, again, strict=True)
    )
    first = {n: row for batch in epoch for n, row in zip(batch.rows, batch.source.tolist(), strict=True)}
    later = {n: row for batch in islice(two, size) for n, row in zip(batch.rows, batch.source.tolist(), strict=True)}
    assert sorted(first) == sorted(later) and np.mean([first[n][:80] == later[n][:80] for n in first]) < 0.1
