"""What a task of multiple choice asks, and what the answers are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from hornbook.errors import DataError, UsageError
from hornbook.evals.choices import ACC, ACC_NORM, MultipleChoice, chosen, cut
from hornbook.evals.data import Row
from hornbook.evals.prompting import Framing
from hornbook.evals.task import Item, Likelihood, Setting
from hornbook.types import Message, Score

PLACES = (("北京", "上海"), ("Rome", "Milan"), ("Bern", "Basel"), ("東京", "大阪"))


def item(number: int, **more: Any) -> Item:
    options = PLACES[number]
    data = {"question": f"Capital {number}?", "options": list(options), "gold": [0], **more}
    return Item(f"capital-{number}", data)


def capitals(**more: Any) -> MultipleChoice:
    items = [item(number) for number in range(len(PLACES))]
    return MultipleChoice("capitals", lambda: items, examples=lambda: items, **more)


def likelihood(task: MultipleChoice, of: Item, setting: Setting) -> Likelihood:
    (request,) = task.requests(of, setting)
    assert isinstance(request, Likelihood)
    return request


def scores(*logprobs: float) -> list[tuple[Score, ...]]:
    return [tuple(Score(one, False, 1) for one in logprobs)]


def test_an_option_follows_a_space_in_plain_text_and_nothing_in_a_chat() -> None:
    task = capitals(framing=Framing("Know:\n\n"))
    assert likelihood(task, item(0), Setting()) == Likelihood("Know:\n\nCapital 0?", (" 北京", " 上海"))
    chat = likelihood(task, item(0), Setting(chat=True, shots=3, system="Be brief."))
    assert chat.continuations == ("北京", "上海")
    assert isinstance(chat.context, tuple)
    assert chat.context[0] == Message("system", "Be brief.\n\nKnow:")
    assert chat.context[-1] == Message("user", "Capital 0?")
    assert {one.content for one in chat.context if one.role == "assistant"} == {"Rome", "Bern", "東京"}


def test_a_question_is_never_among_its_own_examples_and_the_first_are_taken_in_order() -> None:
    task = capitals(in_order=True, shots=2)
    assert likelihood(task, item(1), Setting()).context == "Capital 0? 北京\n\nCapital 2? Bern\n\nCapital 1?"
    for seed in range(5):
        context = likelihood(capitals(), item(1), Setting(shots=3, seed=seed)).context
        assert isinstance(context, str) and context.count("Capital 1?") == 1
    with pytest.raises(UsageError, match="3 solved examples, and 4 are asked for"):
        capitals().requests(item(1), Setting(shots=4))


def test_a_task_without_examples_takes_no_shots() -> None:
    task = MultipleChoice("alone", lambda: [item(0)])
    assert task.requests(item(0), Setting(shots=5)) == task.requests(item(0), Setting(shots=0))


def test_questions_and_options_may_come_from_functions_of_ones_own() -> None:
    task = MultipleChoice(
        "tax", lambda: [Item("1", {"asks": "Is tax due?", "due": True})], lambda one: f"{one.data['asks']} ->",
        lambda one: ("yes", "no"), lambda one: (0 if one.data["due"] else 1,), metrics=(ACC,),
    )  # fmt: skip
    (only,) = task.items()
    assert likelihood(task, only, Setting()) == Likelihood("Is tax due? ->", (" yes", " no"))
    assert task.grade(only, scores(-1.0, -2.0)) == {"acc": 1.0}
    assert task.target(only) == "yes"


@pytest.mark.parametrize(
    ("options", "logprobs", "gold", "grade"),
    [
        (["a", "abcd"], [-2.0, -4.0], [0], {"acc": 1.0, "acc_norm": 0.0}),  # -2 against -1 a character
        (["北京", "abcd"], [-2.0, -3.0], [0], {"acc": 1.0, "acc_norm": 0.0}),  # characters, not bytes: -1 against -0.75
        (["a", "b", "c"], [-2.0, -1.0, -1.0], [2], {"acc": 0.0, "acc_norm": 0.0}),  # of equals the first
        (["a", "b", "c"], [-2.0, -3.0, -1.0], [0, 2], {"acc": 1.0, "acc_norm": 1.0}),  # several are right
    ],
)
def test_the_likeliest_option_is_the_answer(
    options: Sequence[str], logprobs: Sequence[float], gold: Sequence[int], grade: dict[str, float]
) -> None:
    asked = Item("1", {"question": "?", "options": options, "gold": gold})
    task = MultipleChoice("t", lambda: [asked], metrics=(ACC, ACC_NORM))
    assert task.grade(asked, scores(*logprobs)) == grade
    assert task.target(asked) == " | ".join(options[one] for one in gold)


def test_a_written_answer_has_no_worth_here() -> None:
    with pytest.raises(DataError, match="no worth of a single answer"):
        capitals().reward(item(0), "北京")


@pytest.mark.parametrize(
    ("options", "gold", "says"),
    [
        (["yes"], 0, "at least two options"),
        (["yes", ""], 0, "at least two options"),
        (["yes", 3], 0, "at least two options"),
        (["yes", "no"], 2, "the right answer is 2, of 2 options"),
        (["yes", "no"], -1, "the right answer is -1"),
        (["yes", "no"], [], "the right answer is"),
    ],
)
def test_a_row_that_cannot_be_chosen_from_is_named(options: list[Any], gold: Any, says: str) -> None:
    with pytest.raises(DataError, match=rf"q\.jsonl, line 7: {says}"):
        chosen(Row("q.jsonl, line 7", 6, {}), options, gold)


def test_what_stands_around_a_text_must_be_there() -> None:
    row = Row("q.jsonl, line 2", 1, {"query": "Question: why?"})
    assert cut(row, "query", "Question: ", "?") == "why"
    with pytest.raises(DataError, match=r"line 2: query is not 'Passage: '"):
        cut(row, "query", "Passage: ")
