"""What the page of an evaluation holds of its items is small, and safe to stand in a page."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from made_outcomes import EXAMPLES, HOSTILE, choices, rolling, trial, writing

from hornbook.evals.outcome import Result
from hornbook.evals.report_items import LONGEST, embedded, known_by


def read(*results: Result | None, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(embedded([("t", results)], ["m", "n"][: len(results)], **more))["tasks"][0]
    return found


def test_solved_examples_are_kept_once_and_apart_from_the_question() -> None:
    made = read(choices(0))
    assert made["beginnings"] == [EXAMPLES]
    for number, item in enumerate(made["items"]):
        ((asked,),) = item["asked"]
        assert asked["begins"] == 0 and asked["prompt"] == f"Question: which of these is number {number}?\nAnswer:"
    assert len(json.dumps(made)) < 25_000


def test_an_item_with_other_examples_is_shown_whole() -> None:
    result = choices(0)
    first = result.samples[0]
    other = replace(first, asked=(replace(first.asked[0], prompt="Question: alone?\nAnswer:"),))
    made = read(replace(result, samples=(other, *result.samples[1:])))
    assert made["items"][0]["asked"][0][0] == {
        **made["items"][0]["asked"][0][0], "prompt": "Question: alone?\nAnswer:"
    }  # fmt: skip
    assert "begins" not in made["items"][0]["asked"][0][0] and made["beginnings"] == [EXAMPLES]


def test_without_examples_nothing_is_cut_off_however_alike_the_prompts() -> None:
    result = choices(0)
    made = read(replace(result, shots=0))
    assert made["beginnings"] == [] and made["items"][0]["asked"][0][0]["prompt"].startswith(EXAMPLES)


def test_the_turns_before_the_last_are_the_examples_of_a_chat() -> None:
    made = read(replace(writing(0), shots=2))
    assert made["beginnings"] == [[["system", "Be brief."]]]
    assert made["items"][3]["asked"][0][0]["prompt"] == [["user", "请问第 3 个问题的答案是什么？"]]
    assert len(read(writing(0))["items"][3]["asked"][0][0]["prompt"]) == 2


def test_a_prompt_that_both_models_had_is_kept_once() -> None:
    a, b = choices(0), choices(1)
    other = replace(b.samples[5], asked=(replace(b.samples[5].asked[0], prompt="shorter"),))
    made = read(a, replace(b, samples=(*b.samples[:5], other, *b.samples[6:])))
    assert "prompt" in made["items"][4]["asked"][0][0] and "prompt" not in made["items"][4]["asked"][1][0]
    assert made["items"][5]["asked"][1][0]["prompt"] == "shorter"


def test_items_of_one_model_alone_and_without_texts_are_listed() -> None:
    a, b = choices(0, items=4), replace(choices(1, items=6), samples=())
    made = read(a, b)
    assert [item["id"] for item in made["items"]] == [f"quiz-{number}" for number in range(6)]
    assert made["items"][5]["grades"][0] is None and "asked" not in made["items"][5]
    assert made["items"][0]["asked"][1] is None and made["items"][0]["grades"][1] is not None
    assert read(None, b)["items"][0]["grades"][0] is None


def test_nothing_in_a_text_ends_the_element_or_breaks_the_page() -> None:
    text = embedded([("t", [choices(0, hostile=True)])], [HOSTILE])
    assert "<" not in text and "\u2028" not in text and text.encode("utf-8")
    made = json.loads(text)
    assert made["models"] == [HOSTILE] and made["tasks"][0]["items"][3]["asked"][0][0]["prompt"] == HOSTILE
    made = read(trial(0))
    assert made["items"][0]["data"].startswith("{") and '"b.pdf"' in made["items"][0]["asked"][0][0]["answers"][0]


def test_a_page_stays_small_enough_to_open() -> None:
    result = choices(0, skill=0.6)
    made = read(result, budget=11_000)
    left = [item["id"] for item in made["items"] if item.get("left_out")]
    wrong = [id for id, right in zip(result.ids, result.columns["acc"], strict=True) if not right]
    assert len(made["items"]) == 60 and left and not set(wrong) & set(left), "failures stay, the right answers go"
    assert all("asked" not in item for item in made["items"] if item.get("left_out"))
    story = rolling(0)
    asked = replace(story.samples[0].asked[0], prompt="a" * (LONGEST + 1234))
    made = read(replace(story, samples=(replace(story.samples[0], asked=(asked,)), *story.samples[1:])))
    assert made["items"][0]["asked"][0][0]["prompt"].endswith("a… (1,234 more characters)")


def test_what_an_item_is_known_by_is_a_share_or_nothing() -> None:
    assert (known_by(choices(0)), known_by(writing(0)), known_by(rolling(0))) == ("acc", "f1", "")
