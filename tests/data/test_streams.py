"""Streams: stopped anywhere and gone on in another process, they give the same rest; shares, shuffles and splits hold."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.data.example import Conversation, Labelled, Pair, Preference, Text
from hornbook.data.mix import Ended, Mixed
from hornbook.data.read import Source
from hornbook.data.split import draw, held_out, split
from hornbook.data.stream import Files, Kept, Listed, Shuffled, Stream
from hornbook.errors import DataError, UsageError
from hornbook.types import Message


def rows(path: Path, count: int, name: str = "") -> Path:
    lines = ("{" if i % 5 == 3 else json.dumps({"text": f"{name}{i}"}) for i in range(count))
    path.write_text("\n".join(lines), "utf-8")
    return path


def passes(stream: Stream[Any], count: int) -> list[Any]:
    """``count`` examples, over as many passes as they take."""
    found: list[Any] = []
    while len(found) < count:
        found += islice(stream, count - len(found))
    return found


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    buffer=st.integers(1, 20),
    ended=st.sampled_from(["stop", "repeat", "drop"]),
    order=st.booleans(),
    seed=st.integers(0, 99),
    stops=st.lists(st.integers(1, 30), min_size=1, max_size=4),
)
@settings(max_examples=80, deadline=None)
def test_a_stream_left_anywhere_gives_the_same_rest(
    lengths: list[int], buffer: int, ended: Ended, order: bool, seed: int, stops: list[int]
) -> None:
    def made() -> Stream[Any]:
        lists = [[(i, at) for at in range(length)] for i, length in enumerate(lengths)]
        mixed = Mixed([Shuffled(Listed(items), buffer=5, seed=i) for i, items in enumerate(lists)], [1.0 + i for i in range(len(lists))], seed=seed, ended=ended)  # fmt: skip
        kept: Stream[Any] = Kept(mixed, lambda item: item[1] != 1)
        return Shuffled(kept, buffer=buffer, seed=seed) if order else kept

    whole = passes(made(), sum(stops) + 20)
    stream, found = made(), list[Any]()
    for stop in stops:
        found += passes(stream, stop)
        again = made()
        again.restore(json.loads(json.dumps(stream.state())))
        stream = again
    assert found + passes(stream, 20) == whole


def test_files_go_on_behind_any_line_and_tell_each_skipped_line_once(tmp_path: Path) -> None:
    rows(tmp_path / "a.jsonl", 7, "a"), rows(tmp_path / "b.jsonl", 9, "b")
    told: list[int] = []

    def made() -> Files:
        return Files(Source(str(tmp_path)), malformed="skip", skipped=lambda place, _: told.append(place.line))

    whole = [example.text for example in made()]  # type: ignore[union-attr]
    assert whole == [f"{name}{i}" for name, count in (("a", 7), ("b", 9)) for i in range(count) if i % 5 != 3]
    assert told == [4, 4, 9]
    for stop in range(len(whole) + 1):
        told.clear()
        first, second = made(), made()
        found = [example.text for example in islice(first, stop)]  # type: ignore[union-attr]
        second.restore(json.loads(json.dumps(first.state())))
        assert found + [example.text for example in second] == whole  # type: ignore[union-attr]
        assert told == [4, 4, 9], f"stopped behind {stop}"
    position = made().state()
    rows(tmp_path / "b.jsonl", 10, "b")
    with pytest.raises(DataError, match="are not those that the position was in"):
        made().restore(position)


def test_instances_of_one_line_are_gone_on_between(tmp_path: Path) -> None:
    instances = [{"input": str(i), "output": str(i)} for i in range(3)]
    (tmp_path / "a.jsonl").write_text(json.dumps({"instruction": "say", "instances": instances}) + "\n", "utf-8")
    first = Files(Source(str(tmp_path / "a.jsonl")))
    list(islice(first, 2))
    second = Files(Source(str(tmp_path / "a.jsonl")))
    second.restore(first.state())
    assert [example.messages[-1].content for example in second] == ["2"]  # type: ignore[union-attr]


class Counted(Listed[int]):
    """Knows how far ahead of its reader it was drawn."""

    given = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        for item in super().__iter__():
            self.given += 1
            yield item


def test_a_shuffle_holds_one_buffer_and_each_pass_has_another_order() -> None:
    source = Counted(range(1000))
    stream = Shuffled(source, buffer=64, seed=3)
    first = []
    for item in stream:
        first.append(item)
        assert source.given - len(first) < 64
    second = list(stream)
    assert sorted(first) == sorted(second) == list(range(1000)) and first != second != list(range(1000))
    assert (
        list(Shuffled(Listed(range(1000)), buffer=64, seed=3))
        == first
        != list(Shuffled(Listed(range(1000)), buffer=64, seed=4))
    )
    order = Counter(tuple(Shuffled(Listed("abc"), buffer=9, seed=seed)) for seed in range(1200))
    assert len(order) == 6 and min(order.values()) > 140, "each order is as likely"
    with pytest.raises(DataError, match="a buffer of 0"):
        Shuffled(Listed([1]), buffer=0, seed=0)


def test_shares_of_a_mix_and_what_happens_when_one_ends() -> None:
    def mixed(ended: Ended, lengths: tuple[int, ...] = (200, 5000)) -> Mixed[str]:
        return Mixed(
            [Listed(name * length) for name, length in zip("ab", lengths, strict=True)], [1, 3], seed=5, ended=ended
        )

    drawn = Counter(islice(mixed("stop"), 400))
    assert 70 < drawn["a"] < 130 and drawn["a"] + drawn["b"] == 400
    stopped, repeated, dropped = (Counter(mixed(ended)) for ended in ("stop", "repeat", "drop"))  # type: ignore[arg-type]
    assert stopped["a"] == 200 and 450 < stopped["b"] < 750
    assert repeated["b"] >= 5000 and 1400 < repeated["a"] < 1950
    assert dropped == {"a": 200, "b": 5000}
    stream = mixed("drop", (2, 6))
    assert Counter(stream) == Counter(stream) == {"a": 2, "b": 6}
    with pytest.raises(DataError, match="has no examples"):
        list(mixed("repeat", (0, 50)))
    for streams, weights, said in (
        ([], [], "0 streams"),
        ([Listed("a")], [1, 2], "1 streams have 2"),
        ([Listed("a")], [0], "weights are"),
    ):
        with pytest.raises(UsageError, match=said):
            Mixed(streams, weights, seed=0)
    with pytest.raises(UsageError, match="'never' is not what"):
        Mixed([Listed("a")], [1], seed=0, ended="never")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="of 2 streams, here are 1"):
        Mixed([Listed("a")], [1], seed=0).restore(mixed("stop").state())
    with pytest.raises(DataError, match="behind 9 examples, of which there are 1"):
        Listed("a").restore({"at": 9})


def test_no_document_is_on_both_sides_in_any_order() -> None:
    pairs = [Pair(f"文{i % 40}", f"t{i}") for i in range(100)]
    learnt, asked = split(pairs, 10, seed=0)
    assert {pair.source for pair in learnt}.isdisjoint(pair.source for pair in asked)
    assert 10 <= len(asked) <= 12 and [*learnt, *asked] != pairs and {*learnt, *asked} == {*pairs}
    assert {*split(pairs[::-1], 10, seed=0)[1]} == {*asked} != {*split(pairs, 10, seed=1)[1]}
    assert split(pairs, 0) == (pairs, [])
    assert len(split(pairs, 0.25)[1]) in (25, 26, 27) and len(split(pairs[:3], 0.01)[1]) == 1
    with pytest.raises(DataError, match="100 examples with 100 held out leave none"):
        split(pairs, 100)
    for wrong in (1.0, -1, -0.1, True):
        with pytest.raises(UsageError, match="no share"):
            split(pairs, wrong)
    texts = [Text(f"document {i}") for i in range(4000)]
    assert 340 < sum(held_out(text, 0.1, 3) for text in texts) < 460


def test_the_side_follows_what_is_asked_not_what_is_answered() -> None:
    def said(*turns: str) -> tuple[Message, ...]:
        return tuple(Message(role, text) for role, text in zip(("user", "assistant", "user"), turns, strict=False))  # type: ignore[arg-type]

    answers = Message("assistant", "a"), Message("assistant", "b")
    same: list[tuple[Any, Any]] = [
        (Conversation(said("q", "a")), Conversation(said("q", "b", "c"))),
        (Conversation(said("q", "a")), Preference(said("q"), *answers)),
        (Pair("q", "a"), Pair("q", "b")),
        (Labelled("q", "a"), Text("q")),
    ]
    other: list[tuple[Any, Any]] = [
        (Conversation(said("q", "a")), Conversation(said("p", "a"))),
        (Labelled("q", "a", "x"), Labelled("q", "a", "y")),
    ]
    assert all(draw(one, 7) == draw(two, 7) != draw(one, 8) for one, two in same)
    assert all(draw(one, 7) != draw(two, 7) for one, two in other)
