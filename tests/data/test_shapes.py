"""Shapes: each way in which data sets write conversations, preferences and pairs is the same example here."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.data.example import Conversation, Labelled, Pair, Place, Preference
from hornbook.data.shapes import FIELDS, SHAPES, Shape, detect
from hornbook.data.turns import Unfit
from hornbook.types import Message, ToolCall

PLACE = Place("a.jsonl", 1)
ASKED, ANSWERED = Message("user", "你好?"), Message("assistant", "Hello.")
WEATHER = {"name": "weather", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": WEATHER}
OPENAI = [{"role": "user", "content": "你好?"}, {"role": "assistant", "content": "Hello."}]
SHAREGPT = [{"from": "human", "value": "你好?"}, {"from": "gpt", "value": "Hello."}]


def made(row: dict[str, Any], shape: Shape | None = None) -> Any:
    (example,) = SHAPES[shape or detect([name for name, value in row.items() if value is not None])](row, PLACE)
    return example


@pytest.mark.parametrize(
    "row",
    [
        {"messages": OPENAI},
        {"messages": [{"role": "system", "content": " "}, *OPENAI], "tools": None, "label": None},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "你"}, {"type": "text", "text": "好?"}]},
                OPENAI[1],
            ]
        },
        {"messages": json.dumps(OPENAI)},
        {"conversations": SHAREGPT, "id": 3},
        {"conversations": SHAREGPT, "system": "", "tools": "[]"},
        {"instruction": "你好?", "input": "", "output": "Hello."},
        {"instruction": "你好?", "input": None, "output": "Hello.", "history": []},
        {"instruction": "你好?", "instances": [{"input": "", "output": "Hello."}]},
        {"prompt": "你好?", "completion": "Hello."},
        {"prompt": "你好?", "response": "Hello."},
        {"prompt": OPENAI[:1], "completion": OPENAI[1:]},
        {"prompt": OPENAI[:1], "completion": OPENAI[1]},
    ],
)
def test_every_form_of_a_conversation_is_one(row: dict[str, Any]) -> None:
    assert made(row) == Conversation((ASKED, ANSWERED), place=PLACE)


def test_system_and_history_stand_before_what_is_asked() -> None:
    system = Message("system", "Be kind.")
    for row in (
        {"messages": OPENAI, "system": "Be kind."},
        {"conversations": [{"from": "system", "value": "Be kind."}, *SHAREGPT]},
        {"messages": [{"role": "developer", "content": "Be kind."}, *OPENAI]},
        {"instruction": "你好?", "output": "Hello.", "system": "Be kind."},
    ):
        assert made(row).messages == (system, ASKED, ANSWERED)
    row = {"instruction": "Add", "input": "1 + 1", "output": "2", "history": [["你好?", "Hello."]]}
    assert made(row).messages == (ASKED, ANSWERED, Message("user", "Add\n1 + 1"), Message("assistant", "2"))


def test_instances_of_one_instruction_are_examples_of_their_own() -> None:
    row = {"instruction": "Add", "instances": [{"input": "1 1", "output": "2"}, {"input": "2 2", "output": "4"}]}
    found = list(SHAPES["alpaca"](row, PLACE))
    assert [example.messages[-1].content for example in found] == ["2", "4"]  # type: ignore[union-attr]


def test_calls_of_tools_are_the_same_in_every_form() -> None:
    call = {"name": "weather", "arguments": {"city": "京都"}}
    said = [
        {"from": "human", "value": "Weather?"}, {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "rain"}, {"from": "gpt", "value": "It rains."},
    ]  # fmt: skip
    modern = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "assistant", "content": "It rains.", "tool_calls": None},
    ]
    text = {"name": "weather", "arguments": json.dumps(call["arguments"])}
    older = [
        modern[0],
        {"role": "assistant", "content": "", "function_call": text},
        {"role": "function", "name": "weather", "content": "rain"},
        modern[3],
    ]
    expected = (
        Message("user", "Weather?"),
        Message("assistant", "", tool_calls=(ToolCall("call_1", "weather", {"city": "京都"}),)),
        Message("tool", "rain", name="weather", tool_call_id="call_1"),
        Message("assistant", "It rains."),
    )
    for row in (
        {"conversations": said, "tools": json.dumps([WEATHER])},
        {"messages": modern, "tools": [TOOL]},
        {"messages": older, "tools": [WEATHER]},
    ):
        assert made(row) == Conversation(expected, (TOOL,), PLACE)


def test_calls_in_a_row_are_one_turn_and_answers_find_their_calls() -> None:
    def call(name: str) -> dict[str, str]:
        return {"from": "function_call", "value": json.dumps({"name": name, "arguments": {}})}

    turns = [
        SHAREGPT[0],
        {"from": "gpt", "value": "I look."},
        call("a"),
        call("b"),
        {"from": "observation", "value": "1"},
    ]
    found = made({"conversations": [*turns, {"from": "observation", "value": ""}, SHAREGPT[1]]}).messages
    assert (found[1].content, [call.name for call in found[1].tool_calls]) == ("I look.", ["a", "b"])
    assert [(turn.name, turn.tool_call_id, turn.content) for turn in found[2:4]] == [
        ("a", "call_1", "1"),
        ("b", "call_2", ""),
    ]


WORSE = Message("assistant", "Go away.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "你好?", "chosen": "Hello.", "rejected": "Go away."},
        {"prompt": OPENAI[:1], "chosen": OPENAI[1:], "rejected": [{"role": "assistant", "content": "Go away."}]},
        {"prompt": "你好?", "chosen": OPENAI, "rejected": [OPENAI[0], {"role": "assistant", "content": "Go away."}]},
        {"chosen": OPENAI, "rejected": [OPENAI[0], {"role": "assistant", "content": "Go away."}]},
        {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "Go away."}},
        {"chosen": "\n\nHuman: 你好?\n\nAssistant: Hello.", "rejected": "\n\nHuman: 你好?\n\nAssistant: Go away."},
    ],
)  # fmt: skip
def test_every_form_of_a_preference_is_one(row: dict[str, Any]) -> None:
    assert made(row) == Preference((ASKED,), ANSWERED, WORSE, None, PLACE)


@pytest.mark.parametrize("label, good", [(True, True), ("false", False), (0, False), ("1", True)])
def test_an_answer_that_was_judged_is_a_preference_without_another(label: Any, good: bool) -> None:
    for row in ({"messages": OPENAI}, {"conversations": SHAREGPT}, {"prompt": "你好?", "completion": "Hello."}):
        assert made({**row, "label": label}) == Preference((ASKED,), ANSWERED, None, good, PLACE)


def test_pairs_and_labels() -> None:
    assert made({"source": " a ", "target": "b", "label": None}) == Pair("a", "b", PLACE)
    assert made({"text": "a", "label": 3}) == Labelled("a", "3", None, PLACE)
    assert made({"text": "a", "second": "b", "label": True}) == Labelled("a", "true", "b", PLACE)


USER, ASSISTANT, SYSTEM = OPENAI[0], OPENAI[1], {"role": "system", "content": "s"}
CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
ANSWER = {"role": "tool", "content": "1"}


@pytest.mark.parametrize(
    "turns, said",
    [
        ([], "has no turns"),
        ("not JSON", "its list of turns is not JSON"),
        (["text"], "not a list of objects"),
        ([USER], "no turn of the assistant's"),
        ([ASSISTANT, USER], "turn 1 is the assistant's at the beginning"),
        ([USER, USER, ASSISTANT], "turn 2 is the user's after user"),
        ([USER, ASSISTANT, ASSISTANT], "turn 3 is the assistant's after assistant"),
        ([USER, SYSTEM, ASSISTANT], "turn 2 is the system's after user"),
        ([USER, ASSISTANT, ANSWER], "turn 3 is the tool's after assistant"),
        ([USER, CALL, USER], "turn 3 is the user's after calls of tools"),
        ([USER, CALL, ANSWER, ANSWER], "a tool answers more than was called"),
        ([USER, CALL, {**ANSWER, "tool_call_id": "x"}], "a tool answers 'x', which was not called"),
        ([USER, {"role": "assistant", "content": " "}], "turn 2, the assistant's, is empty"),
        ([{"role": "user"}, ASSISTANT], "turn 1, the user's, is empty"),
        ([{"role": "narrator", "content": "x"}, ASSISTANT], "a turn has the role 'narrator'"),
        ([{"content": "x"}, ASSISTANT], "a turn has the role None"),
        ([{"role": ["user"], "content": "x"}, ASSISTANT], "a turn has the role ['user']"),
        ([{"role": "user", "content": [{"type": "image_url"}]}, ASSISTANT], "a part that is no text"),
        ([{"role": "user", "content": 5}, ASSISTANT], "content is a int"),
        ([USER, {**ASSISTANT, "weight": 0}], "weight 0"),
        ([USER, {**ASSISTANT, "reasoning_content": "hm"}], "has reasoning_content beside"),
        ([USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}], "a call of a tool has no name"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}], "the arguments of f is not JSON"),
        ([USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}], "the arguments of f are no object"),
    ],
)  # fmt: skip
def test_turns_out_of_order_or_empty_are_told(turns: Any, said: str) -> None:
    with pytest.raises(Unfit) as raised:
        made({"messages": turns}, "messages")
    assert said in raised.value.what and raised.value.remedy


@pytest.mark.parametrize(
    "row, said",
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "answers are the same"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "no rejected answer"),
        ({"prompt": " ", "chosen": "b", "rejected": "c"}, "an empty prompt"),
        ({"chosen": "b", "rejected": "c"}, "no prompt, and its answers are no transcripts"),
        ({"chosen": OPENAI, "rejected": [{**USER, "content": "other"}, ASSISTANT]}, "different prompts"),
        ({"prompt": "a", "chosen": USER, "rejected": "b"}, "out of order"),
        ({"messages": OPENAI, "label": "maybe"}, "label is 'maybe', not true or false"),
        ({"messages": OPENAI[:1], "label": True}, "its answer is the user's"),
        ({"text": "a", "label": 0.5}, "its label is 0.5"),
        ({"text": "a", "label": " "}, "its label is ' '"),
        ({"source": "a", "target": ""}, "an empty target"),
        ({"instruction": "a", "output": "b", "history": 5}, "history is not a list of [asked, answered]"),
        ({"instruction": "a", "instances": []}, "instances are not a list of objects"),
        ({"instruction": "a", "instances": 0.5}, "instances are not a list of objects"),
        ({"instruction": "a", "output": "b", "history": ["x"]}, "history is not a list of [asked, answered]"),
        ({"instruction": "a", "instances": ["x"]}, "instances are not a list of objects"),
        ({"messages": [SYSTEM, *OPENAI], "system": "other"}, "a system turn and a system column"),
        ({"messages": OPENAI, "tools": [{"parameters": {}}]}, "a tool has no name"),
        ({"messages": OPENAI, "tools": "{}"}, "its tools are no list"),
    ],
)  # fmt: skip
def test_rows_that_are_no_example_are_told(row: dict[str, Any], said: str) -> None:
    with pytest.raises(Unfit) as raised:
        made(row, "preference" if "chosen" in row else None)
    assert said in raised.value.what and raised.value.remedy


LEAVES = st.sampled_from(
    [None, 1, 0.5, True, "", "x", "{", "[1]", "\n\nHuman: a\n\nAssistant: b", "user", "gpt", "function_call"]
)
KEYS = st.sampled_from(
    [*sorted(FIELDS), "role", "content", "from", "value", "tool_calls", "function", "name", "arguments"]
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


@given(row=st.dictionaries(KEYS, VALUES, max_size=5), shape=st.sampled_from(sorted(SHAPES)))
@settings(max_examples=200, deadline=None)
def test_any_row_is_examples_or_told_why_not(row: dict[str, Any], shape: Shape) -> None:
    try:
        found = list(SHAPES[shape](row, PLACE))
    except Unfit as unfit:
        assert unfit.what and unfit.remedy
    else:
        assert found and all(example.place == PLACE for example in found)
