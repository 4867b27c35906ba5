"""Pages: nothing leaks, nothing has two owners, what is shared is equal, what is evicted leaves no orphan."""

from __future__ import annotations

import random

import pytest

from hornbook.engine.executor import PAGE
from hornbook.engine.pages import Pages, pages_of


def table_of(pages: Pages, ids: list[int], salt: str = "") -> list[int]:
    """What a sequence does: take what is known, compute the rest, make it known."""
    table = pages.match(ids, salt, len(ids) - 1)
    first = len(table)
    own = pages.take(pages_of(len(ids)) - first)
    assert own is not None
    table += own
    for index in range(first, len(ids) // PAGE):
        pages.publish(table, index, ids, salt)
    return table


def test_a_second_sequence_shares_the_full_pages_of_its_beginning() -> None:
    pages = Pages(10)
    ids = list(range(40))
    first = table_of(pages, ids)
    second = table_of(pages, [*ids[:32], 7, 7])
    assert second[:2] == first[:2] and second[2] != first[2]
    assert (pages.used, pages.free, pages.cached) == (4, 6, 0)
    pages.check([first, second])


def test_the_last_token_is_never_taken_from_the_cache() -> None:
    """Its logits are wanted, so that it must pass the model."""
    pages = Pages(4)
    pages.release(table_of(pages, list(range(32))))
    assert len(pages.match(list(range(32)), "", limit=31)) == 1


def test_another_salt_shares_nothing() -> None:
    pages = Pages(4)
    ids = list(range(16))
    table_of(pages, ids, "one")
    assert pages.match([*ids, 1], "two", 16) == []
    assert len(pages.match([*ids, 1], "one", 16)) == 1


def test_the_same_page_after_another_beginning_is_another_page() -> None:
    pages = Pages(8)
    tail = list(range(100, 116))
    table_of(pages, [*[1] * 16, *tail])
    held = pages.match([*[2] * 16, *tail, 0], "", 32)
    assert held == []


def test_released_pages_stay_known_until_they_are_needed_and_the_longest_unused_goes_first() -> None:
    pages = Pages(4)
    a, b = [1] * 32, [2] * 32
    pages.release(table_of(pages, a))
    pages.release(table_of(pages, b))
    assert (pages.free, pages.cached) == (0, 4)
    pages.release(pages.match([*a, 0], "", 32))  # a was used last
    taken = pages.take(2)
    assert taken is not None
    pages.check([taken])
    assert pages.match([*b, 0], "", 32) == []
    assert len(pages.match([*a, 0], "", 32)) == 2


def test_the_end_of_a_chain_is_evicted_before_its_beginning() -> None:
    pages = Pages(3)
    ids = list(range(48))
    pages.release(table_of(pages, ids))
    taken = pages.take(1)
    assert taken is not None
    pages.check([taken])
    assert len(pages.match([*ids, 0], "", 48)) == 2


def test_two_that_compute_the_same_page_at_once_end_up_with_one() -> None:
    pages = Pages(4)
    ids = list(range(16))
    a, b = pages.take(1), pages.take(1)
    assert a and b
    pages.publish(a, 0, ids, "")
    pages.publish(b, 0, ids, "")
    assert a == b and pages.used == 1
    pages.check([a, b])


def test_taking_too_many_changes_nothing() -> None:
    pages = Pages(3)
    pages.release(table_of(pages, [1] * 16))
    assert pages.take(4) is None
    assert (pages.free, pages.cached) == (2, 1)


def test_a_fork_shares_full_pages_and_copies_the_partly_filled_one() -> None:
    pages = Pages(4)
    table = table_of(pages, list(range(20)))
    forked = pages.fork(table, 20)
    assert forked is not None
    twin, copy = forked
    assert twin[0] == table[0] and copy == (table[1], twin[1])
    pages.check([table, twin])
    assert pages.fork(table[:1], 16) == (table[:1], None)


def test_a_fork_without_a_page_for_the_copy_is_none_and_changes_nothing() -> None:
    pages = Pages(2)
    table = table_of(pages, list(range(20)))
    assert pages.fork(table, 20) is None
    pages.check([table])


def test_truncation_gives_back_the_pages_behind() -> None:
    pages = Pages(4)
    table = pages.take(4)
    assert table is not None
    pages.truncate(table, 17)
    assert len(table) == 2 and pages.free == 2
    pages.check([table])


def test_a_known_page_cannot_be_truncated_into() -> None:
    pages = Pages(2)
    table = table_of(pages, list(range(16)))
    with pytest.raises(AssertionError):
        pages.truncate(table, 9)


def test_without_sharing_nothing_is_ever_found() -> None:
    pages = Pages(4, share=False)
    ids = list(range(33))
    pages.release(table_of(pages, ids))
    assert pages.match(ids, "", 32) == [] and pages.cached == 0


@pytest.mark.parametrize("damage", ["leak", "double", "lost reference"])
def test_check_finds_damage(damage: str) -> None:
    pages = Pages(4)
    table = table_of(pages, list(range(20)))
    if damage == "leak":
        tables = [table[:1]]
    elif damage == "double":
        tables = [table, table]
    else:
        pages._references[table[0]] = 0
        tables = [table]
    with pytest.raises(AssertionError):
        pages.check(tables)


@pytest.mark.parametrize("seed", range(4))
def test_the_books_stay_right_whatever_is_done(seed: int) -> None:
    """Random sequences of few different tokens, so that they share, fork, collide and evict all the time."""
    rng = random.Random(seed)
    pages = Pages(24)
    live: list[tuple[list[int], list[int]]] = []
    for _ in range(1500):
        action = rng.random()
        if action < 0.45:
            ids = [rng.randrange(2) for _ in range(PAGE)] * rng.randint(1, 4) + [rng.randrange(3)]
            ids = ids[: rng.randint(1, len(ids))]
            if pages_of(len(ids)) <= pages.available:
                before = pages.available
                table = pages.match(ids, "", len(ids) - 1)
                own = pages.take(pages_of(len(ids)) - len(table))
                assert own is not None, before
                first = len(table)
                table += own
                for index in range(first, len(ids) // PAGE):
                    pages.publish(table, index, ids, "")
                live.append((ids, table))
        elif action < 0.6 and live:
            ids, table = rng.choice(live)
            if (forked := pages.fork(table, len(ids))) is not None:
                live.append((ids, forked[0]))
        elif live:
            _, table = live.pop(rng.randrange(len(live)))
            pages.release(table)
        pages.check([table for _, table in live])
    for _, table in live:
        pages.release(table)
    pages.check([])
    assert pages.used == 0
