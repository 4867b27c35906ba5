"""What a task that is answered by writing asks, and what is read out of an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hornbook.errors import DataError, UsageError
from hornbook.evals import filters
from hornbook.evals.data import Row
from hornbook.evals.filters import NOTHING, after, before, chain, code_block, last_number, number_in_words, regex
from hornbook.evals.metrics.exact import exact_match
from hornbook.evals.prompting import Framing
from hornbook.evals.task import Item, Setting, Writing
from hornbook.evals.written import Measure, Written, read_items
from hornbook.types import Message, SamplingParams

CITIES = [Item(f"q{i}", {"of": of, "is": names}) for i, (of, names) in enumerate(
    [("Italy", ["Rome", "Roma"]), ("中国", ["北京"]), ("Norway", ["Oslo"]), ("Peru", ["Lima"])]
)]  # fmt: skip


def capitals(**more: Any) -> Written:
    return Written(
        "capitals",
        lambda: CITIES,
        lambda item: f"Capital of {item.data['of']}?",
        lambda item: item.data["is"],
        (Measure("first", exact_match(), filters.first_line), Measure("all", exact_match())),
        **more,
    )


def asked(task: Written, item: Item, setting: Setting) -> Writing:
    (request,) = task.requests(item, setting)
    assert isinstance(request, Writing)
    return request


def test_a_question_is_put_plainly_or_in_turns() -> None:
    task = capitals(examples=lambda: CITIES, framing=Framing("Say it.\n\n", "\n"), stop=["\n"], max_tokens=9)
    assert asked(task, CITIES[0], Setting()) == Writing(
        "Say it.\n\nCapital of Italy?", SamplingParams(max_tokens=9, stop=("\n",))
    )
    plain = asked(task, CITIES[0], Setting(shots=3, system="Be brief.")).prompt
    assert isinstance(plain, str)
    assert plain.startswith("Be brief.\nSay it.\n\nCapital of ") and plain.endswith("\nCapital of Italy?")
    assert "Capital of 中国? 北京\n" in plain and "Rome" not in plain
    chat = asked(task, CITIES[1], Setting(shots=1, chat=True)).prompt
    assert [turn.role for turn in chat] == ["system", "user", "assistant", "user"]  # type: ignore[union-attr]
    assert chat[0] == Message("system", "Say it.") and chat[-1] == Message("user", "Capital of 中国?")


def test_fixed_examples_go_before_every_question_in_their_order() -> None:
    fixed = [Item("a", {"of": "A", "is": ["x"]}), Item("b", {"of": "B", "is": ["y"]})]
    task = capitals(fixed=fixed, shots=2, solution=lambda item: f"it is {item.data['is'][0]}")
    for seed in range(3):
        prompt = asked(task, CITIES[0], Setting(seed=seed)).prompt
        assert prompt == "Capital of A? it is x\n\nCapital of B? it is y\n\nCapital of Italy?"
    with pytest.raises(UsageError, match="2 solved examples, and 3 are asked for"):
        task.requests(CITIES[0], Setting(shots=3))


def test_measures_fill_columns_and_the_first_is_the_reward() -> None:
    task = capitals()
    assert [metric.name for metric in task.metrics] == ["first", "all"]
    assert task.grade(CITIES[0], [("\nRoma\nor so",)]) == {"first": 1.0, "all": 0.0}
    assert task.grade(CITIES[1], [("北京",)]) == {"first": 1.0, "all": 1.0}
    assert task.grade(CITIES[1], [("",)]) == task.grade(CITIES[1], []) == {"first": 0.0, "all": 0.0}
    assert task.reward(CITIES[0], "Rome") == 1.0
    assert task.target(CITIES[0]) == "Rome"


def test_items_are_read_when_they_are_asked_for_and_once() -> None:
    reads = []
    task = Written("t", lambda: reads.append(1) or CITIES, str, lambda item: [""], ())  # type: ignore[arg-type, func-returns-value]
    assert not reads
    assert task.items() == task.items() == tuple(CITIES) and len(reads) == 1
    assert task.examples() == ()


def test_two_questions_of_one_id_or_none_at_all_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text('{"id": "a"}\n{"id": "b"}\n{"id": "a"}\n')

    def read(row: Row, id: str) -> Item:
        return Item(row.value["id"], {})

    with pytest.raises(DataError, match=r"some.jsonl, line 3: the id a is that of .*some.jsonl, line 1"):
        read_items([path], read)
    with pytest.raises(DataError, match="no questions in"):
        read_items([path], lambda row, id: None)
    assert [one.id for one in read_items([path], lambda row, id: [Item(id, {}), Item(f"{id}+", {})])][:3] == [
        "some-0", "some-0+", "some-1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("read", "text", "found"),
    [
        (filters.first_line, "\n\n a \nb", "a"),
        (filters.first_line, "", ""),
        (filters.last_line, "a\n b \n\n", "b"),
        (filters.strip, "\u3000北京 \n", "北京"),
        (before("Q:", "\n\n"), "a\nb\n\nQ: c", "a\nb"),
        (before("."), "a", "a"),
        (after("</think>"), "<think>6</think>\n\n7", "7"),
        (after("</think>"), "7", "7"),
        (regex("a(b)?(c)?"), "ac ab", "c"),
        (regex("a(b)?(c)?"), "a", NOTHING),
        (regex("a(b)?(c)?", which=1), "ac ab", "b"),
        (regex("[0-9]+", which=-1), "1 2 3", "3"),
        (regex("[0-9]+", which=3), "1 2 3", NOTHING),
        (regex("[0-9]+", which=-4, otherwise="none"), "1 2 3", "none"),
        (last_number, "from 3 to $1,200.50.", "$1,200.50."),
        (last_number, "一共18个苹果", "18"),
        (last_number, "none", NOTHING),
        (code_block, "Here:\n```python\nx = 1\n```\nand\n```\ny\n```", "x = 1\n"),
        (code_block, "```\nx = '```'\n", "x = '```'\n"),
        (code_block, "  ~~~ js\nx\n  ~~~\n", "x\n"),
        (code_block, "````\n```\n````", "```\n"),
        (code_block, "x = 1", "x = 1"),
        (code_block, "``` no fence", "``` no fence"),
        (number_in_words, "Six of them", "6"),
        (number_in_words, "two hundred and forty-two", "242"),
        (number_in_words, "five million two hundred thousand and one", "5200001"),
        (number_in_words, "a hundred, or a thousand", "100"),
        (number_in_words, "someone", NOTHING),
        (chain(after("=>"), last_number), "1 2 => 3 4", "4"),
        (chain(), " a ", " a "),
    ],
)
def test_filters(read: filters.Filter, text: str, found: str) -> None:
    assert read(text) == found


def test_a_filter_that_is_named_is_one_of_these() -> None:
    assert all(read("a\nb 5") for read in filters.NAMED.values())
