"""Orders and feeds: every row once an epoch, budgets held, the same for the same seed, resumed anywhere, shared by ranks."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.data import feed, order
from hornbook.data.encoded import Account, Encoded
from hornbook.data.feed import Feed
from hornbook.data.table import Table
from hornbook.errors import DataError
from hornbook.train.batch import IGNORED, Batch

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60)
SEEDS = st.integers(0, 2**63 - 1)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(40, 90), SEEDS, st.integers(0, 5))
def test_every_row_is_in_one_micro_batch_of_an_epoch_and_none_passes_the_budget(
    lengths: list[int], tokens: int, seed: int, epoch: int
) -> None:
    for of in (order.packed, order.padded):
        batches = of(lengths, tokens, seed, epoch)
        assert sorted(row for batch in batches for row in batch) == list(range(len(lengths))) and all(batches)
        assert batches == of(np.array(lengths), tokens, seed, epoch), "nothing but these says what comes"
        for batch in batches:
            sizes = [lengths[row] for row in batch]
            assert (sum(sizes) if of is order.packed else max(sizes) * len(sizes)) <= tokens
    rows = [row for batch in order.fixed(len(lengths), 7, seed, epoch) for row in batch]
    assert sorted(rows) == list(range(len(lengths)))


def test_packing_leaves_little_room_and_padding_is_short() -> None:
    """On lengths as chats have them (log-normal), and never two epochs or seeds alike."""
    lengths = np.clip(np.random.default_rng(0).lognormal(5, 0.8, 2000), 4, 1024).astype(int)
    packed, padded = order.packed(lengths, 2048, 0, 0), order.padded(lengths, 2048, 0, 0)
    assert lengths.sum() / (len(packed) * 2048) > 0.98
    assert 1 - lengths.sum() / sum(lengths[batch].max() * len(batch) for batch in padded) < 0.02
    for of in (order.packed, order.padded):
        assert len({str(of(lengths, 2048, *key)) for key in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4
    first = order.padded(lengths, 2048, 0, 0)[0]
    assert lengths[first].max() < 400, "micro-batches are shuffled too: the longest do not all stand at one end"


def test_the_stream_of_draws_is_the_one_that_numpy_promises() -> None:
    assert order.shuffled(6, 0, 0).tolist() == order.shuffled(6, 0, 0).tolist()
    raw = np.random.PCG64(np.random.SeedSequence((7, 1))).random_raw(5)
    assert order.shuffled(5, 7, 1).tolist() == sorted(range(5), key=lambda i: raw[i])


def test_no_data_and_rows_beyond_the_budget_are_refused() -> None:
    for of in (order.packed, order.padded):
        with pytest.raises(DataError, match="nothing to train on"):
            of([], 10, 0, 0)
        with pytest.raises(DataError, match="a row has 11 tokens, a micro-batch takes 10"):
            of([3, 11], 10, 0, 0)
    with pytest.raises(DataError):
        order.fixed(0, 4, 0, 0)


def numbers(rows: list[int], epoch: int) -> Batch:
    return Batch(torch.tensor([rows]), torch.tensor([[epoch]]), rows=tuple(rows))


def seen(batches: Any, count: int) -> list[tuple[int, tuple[int, ...]]]:
    return [(int(batch.labels), batch.rows) for batch in islice(batches, count)]


@settings(max_examples=20, deadline=None)
@given(LENGTHS, SEEDS, st.integers(1, 5), st.integers(0, 12), st.integers(1, 5))
def test_ranks_share_the_stream_and_go_on_from_anywhere_in_any_number(
    lengths: list[int], seed: int, world: int, done: int, other: int
) -> None:
    def feeds(world: int) -> list[Feed]:
        return [
            Feed(lambda epoch: order.packed(lengths, 50, seed, epoch), numbers, rank=rank, world=world)
            for rank in range(world)
        ]

    alone = seen(feeds(1)[0], 100)
    team = feeds(world)
    drawn = [seen(one, done) for one in team]
    assert [batch for round in zip(*drawn, strict=True) for batch in round] == alone[: done * world]
    states = [one.state() for one in team]
    assert all(state == states[0] for state in states)
    others = feeds(other)
    for one in others:
        one.restore(states[0])
    rest = [batch for round in zip(*(seen(one, 8) for one in others), strict=True) for batch in round]
    assert rest == alone[done * world : done * world + 8 * other]
    epoch = [rows for number, rows in alone if number == 0]
    assert sorted(row for rows in epoch for row in rows) == list(range(len(lengths)))


def test_a_position_that_the_data_does_not_have_is_refused() -> None:
    one = Feed(lambda epoch: [[0], [1]], numbers)
    for wrong in ({"epoch": 0, "at": 2}, {"epoch": -1, "at": 0}, {"epoch": 0, "at": -1}):
        with pytest.raises(DataError, match="which this data does not have"):
            one.restore(wrong)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    draw = np.random.default_rng(1)
    rows = []
    for length in (5, 9, 3, 7, 1, 12):
        learnt = draw.integers(0, 2, length).astype(np.uint8)
        row = Encoded(draw.integers(3, 90, length).astype(np.int32), learnt, label=length % 3)
        row.target = draw.integers(3, 90, length // 2 + 1).astype(np.int32)
        rows.append(row)
    folder = tmp_path_factory.mktemp("table") / "t"
    return Table.write(folder, rows, fingerprint="x", account=Account(6, 6), vocab_size=90)


def test_a_packed_batch_is_its_rows_side_by_side(table: Table) -> None:
    for batch in islice(feed.packed(table, tokens=16, seed=3), 9):
        assert batch.segments is not None and batch.positions is not None and batch.rows is not None
        starts = batch.segments.tolist()
        assert starts[-1] == batch.ids.shape[1] <= 16 and batch.mask is None
        for row, start, end in zip(batch.rows, starts, starts[1:], strict=False):
            one = table[row]
            assert batch.ids[0, start:end].tolist() == one.ids.tolist()
            assert batch.positions[0, start:end].tolist() == list(range(len(one.ids)))
            wanted = [
                id if yes and at else IGNORED for at, (id, yes) in enumerate(zip(one.ids, one.learnt, strict=True))
            ]
            assert batch.labels[0, start:end].tolist() == wanted


def test_what_rows_begin_with_alike_stands_once_where_none_learns_it(tmp_path: Path) -> None:
    """Up to what a row's first learnt token is told from; groups are those that save the most."""
    draw = np.random.default_rng(1)

    def row(beginning: int, alike: int, length: int, learnt: int) -> Encoded:
        ids = draw.integers(3, 40, length).astype(np.int32)
        ids[:alike] = np.arange(beginning, beginning + alike)
        return Encoded(ids, (np.arange(length) >= learnt).astype(np.uint8))

    def only(made: list[Encoded]) -> list[tuple[int, int]]:
        """Of each opening of the batch of all rows its tokens and how many it opens."""
        name = str(draw.integers(1 << 40))
        table = Table.write(tmp_path / name, made, fingerprint="x", account=Account(3, 3), vocab_size=90)
        (batch,) = feed.packed(table, tokens=2000, seed=0).once()
        (apart,) = feed.packed(table, tokens=2000, seed=0, share=False).once()
        assert batch.tokens == apart.tokens == apart.ids.numel() == sum(len(row.ids) for row in made)
        assert batch.segments is not None and batch.positions is not None and apart.openings is None
        ends, whole = batch.segments.tolist(), []
        openings = batch.openings or (-1,) * (len(ends) - 1)
        for at, opening in enumerate(openings):
            spans = [(ends[number], ends[number + 1]) for number in (opening, at) if number >= 0]
            ids, labels, places = (
                [int(x) for start, end in spans for x in values[0, start:end]]
                for values in (batch.ids, batch.labels, batch.positions)
            )
            assert places == list(range(len(ids)))
            if at not in openings:
                whole.append((ids, labels))
        assert batch.rows is not None
        for number, (ids, labels) in zip(batch.rows, whole, strict=True):
            one = made[number]
            assert ids == one.ids.tolist()
            assert labels == [
                id if yes and at else IGNORED for at, (id, yes) in enumerate(zip(ids, one.learnt, strict=True))
            ]
        found = sorted({opening for opening in openings if opening >= 0})
        return sorted((ends[opening + 1] - ends[opening], openings.count(opening)) for opening in found)

    first = [row(50, 12, length, 14) for length in (20, 30, 15)]
    assert only(first) == [(12, 3)]
    assert only([*first, Encoded(first[0].ids, (np.arange(20) >= 10).astype(np.uint8))]) == [(9, 4)]
    assert only([*first, row(50, 7, 20, 14), row(70, 9, 20, 14)]) == [(12, 3)], "too few alike, or none"
    assert only([*first, *(row(62, 8, 20, 14) for _ in range(2))]) == [(8, 2), (12, 3)], "two kinds"
    near = [row(50, 30, 40, 35) for _ in range(4)]
    assert only([*first, *near]) == [(12, 3), (30, 4)], "rather long ones for some than a short one for all"
    assert only([row(60, 3, 20, 14), row(70, 8, 9, 8)]) == []


def test_padded_batches_of_every_kind(table: Table) -> None:
    (batch,) = feed.padded(table, tokens=100, padding=99, seed=0).once()
    assert batch.rows is not None and batch.mask is not None and batch.ids.shape == (6, 12)
    for at, row in enumerate(batch.rows):
        one = table[row]
        assert batch.ids[at].tolist() == one.ids.tolist() + [99] * (12 - len(one.ids))
        assert batch.mask[at].tolist() == [True] * len(one.ids) + [False] * (12 - len(one.ids))
        assert (batch.labels[at] != IGNORED).sum() == one.learnt.sum()
    (batch,) = feed.classified(table, tokens=100, padding=99, seed=0).once()
    assert batch.labels.tolist() == [table[row].label for row in batch.rows or ()]
    (batch,) = feed.translated(table, tokens=100, start=1, padding=0, seed=0).once()
    assert batch.source is not None and batch.source_mask is not None
    for at, row in enumerate(batch.rows or ()):
        target = table[row].target
        assert target is not None and batch.source[at][batch.source_mask[at]].tolist() == table[row].ids.tolist()
        labels = batch.labels[at][batch.labels[at] != IGNORED]
        assert labels.tolist() == target.tolist() and batch.ids[at, : len(target)].tolist() == [1, *target[:-1]]


def test_a_held_out_set_is_measured_whole_by_ranks_that_take_as_many_batches(table: Table) -> None:
    alone = list(feed.packed(table, tokens=12, seed=0).once())
    assert len(alone) == 4
    shares = [list(feed.packed(table, tokens=12, seed=0, rank=rank, world=3).once()) for rank in range(3)]
    assert {len(share) for share in shares} == {2}
    learnt = sum(int((batch.labels != IGNORED).sum()) for share in shares for batch in share)
    assert learnt == sum(int((batch.labels != IGNORED).sum()) for batch in alone)
