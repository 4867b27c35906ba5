"""Responses, asked by OpenAI's own client: objects and events in its own types, and what is kept between requests."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

openai = pytest.importorskip("openai")

from openai.types.responses import Response, ResponseStreamEvent  # noqa: E402
from pydantic import TypeAdapter  # noqa: E402

MODEL = "smollm2:135m"
GREEDY = {"model": MODEL, "temperature": 0}
TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather now.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def create(client: Any, **asked: Any) -> Response:
    raw = client.responses.with_raw_response.create(**({"input": "Name a colour."} | GREEDY | asked))
    return Response.model_validate_json(raw.http_response.text, strict=True)


def events(client: Any, **asked: Any) -> list[Any]:
    """All events, each held to the client's own type, with its name beside it."""
    asked = {"input": "Name a colour."} | GREEDY | asked
    with client.responses.with_streaming_response.create(**asked, stream=True) as raw:
        lines = [line for line in raw.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines[::2]]
    told = [EVENT.validate_json(line.removeprefix("data: "), strict=True) for line in lines[1::2]]
    assert [event.type for event in told] == names
    assert [event.sequence_number for event in told] == list(range(len(told)))
    return told


def test_a_response_has_the_form_that_the_client_knows(openai_client: Any) -> None:
    answer = create(openai_client, max_output_tokens=5, metadata={"a": "b"})
    assert answer.id.startswith("resp_") and answer.model == MODEL and answer.metadata == {"a": "b"}
    assert answer.status == "incomplete" and answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None and answer.usage.output_tokens == 5
    assert answer.output_text
    whole = create(openai_client, text={"format": {"type": "json_object"}}, max_output_tokens=200)
    assert whole.status in ("completed", "incomplete")


def test_a_response_says_what_a_chat_with_the_same_turns_says(openai_client: Any) -> None:
    chat = openai_client.chat.completions.create(
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}],
        max_tokens=8, **GREEDY,
    )  # fmt: skip
    answer = create(openai_client, instructions="Be brief.", max_output_tokens=8)
    assert answer.output_text == chat.choices[0].message.content
    items = [{"role": "user", "content": [{"type": "input_text", "text": "Name a colour."}]}]
    same = create(openai_client, instructions="Be brief.", max_output_tokens=8, input=items)
    assert same.output_text == answer.output_text


def test_events_build_up_to_the_response(openai_client: Any) -> None:
    told = events(openai_client, max_output_tokens=5)
    deltas = [event.delta for event in told if event.type == "response.output_text.delta"]
    assert [event.type for event in told if event.type != "response.output_text.delta"] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    final = told[-1].response
    assert len(deltas) > 2 and "".join(deltas) == final.output_text
    assert final.output_text == create(openai_client, max_output_tokens=5).output_text
    assert openai_client.responses.retrieve(final.id).output_text == final.output_text


def test_a_call_is_an_item_whole_and_streamed(openai_client: Any) -> None:
    asked = {
        "input": "Weather in Paris?", "tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False,
        "max_output_tokens": 80,
    }  # fmt: skip
    answer = create(openai_client, **asked)
    (call,) = [item for item in answer.output if item.type == "function_call"]
    assert answer.status == "completed" and call.name == "get_weather" and call.status == "completed"
    jsonschema.validate(json.loads(call.arguments), TOOL["parameters"])
    told = events(openai_client, **asked)
    joined = "".join(event.delta for event in told if event.type == "response.function_call_arguments.delta")
    assert joined == call.arguments
    assert told[-1].type == "response.completed"
    named = create(openai_client, **asked | {"tool_choice": {"type": "function", "name": "get_weather"}})
    assert [item.type for item in named.output] == ["function_call"]


def test_what_a_tool_said_is_read_in_the_next_turn(openai_client: Any) -> None:
    first = create(
        openai_client, input="Weather in Paris?", tools=[TOOL], tool_choice="required", parallel_tool_calls=False,
        max_output_tokens=80,
    )  # fmt: skip
    (call,) = first.output
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "18 °C"}  # type: ignore[union-attr]
    after = create(
        openai_client, previous_response_id=first.id, input=[output], tools=[TOOL], tool_choice="none",
        max_output_tokens=6,
    )  # fmt: skip
    by_hand = create(
        openai_client, tools=[TOOL], tool_choice="none", max_output_tokens=6,
        input=[{"role": "user", "content": "Weather in Paris?"}, call.model_dump(exclude_none=True), output],
    )  # fmt: skip
    assert after.output_text and after.output_text == by_hand.output_text


def test_a_response_goes_on_from_the_one_before_without_its_instructions(openai_client: Any) -> None:
    first = create(openai_client, input="My name is Ada.", instructions="Be kind.", max_output_tokens=6)
    next_ = create(openai_client, input="And yours?", previous_response_id=first.id, max_output_tokens=6)
    by_hand = create(
        openai_client, max_output_tokens=6,
        input=[
            {"role": "user", "content": "My name is Ada."},
            {"role": "assistant", "content": first.output_text},
            {"role": "user", "content": "And yours?"},
        ],
    )  # fmt: skip
    assert next_.output_text == by_hand.output_text and next_.previous_response_id == first.id


def test_a_stored_response_is_found_listed_and_forgotten(openai_client: Any) -> None:
    made = create(openai_client, max_output_tokens=2)
    assert openai_client.responses.retrieve(made.id).output_text == made.output_text
    (item,) = openai_client.responses.input_items.list(made.id).data
    assert item.role == "user" and item.content[0].text == "Name a colour."
    openai_client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        openai_client.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError) as refused:
        create(openai_client, previous_response_id=made.id)
    assert refused.value.code == "previous_response_not_found" and refused.value.param == "previous_response_id"


def test_a_response_that_is_not_to_be_stored_is_not(openai_client: Any) -> None:
    made = create(openai_client, max_output_tokens=2, store=False)
    with pytest.raises(openai.NotFoundError):
        openai_client.responses.retrieve(made.id)


def test_a_schema_is_kept_to(openai_client: Any) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"],
              "additionalProperties": False}  # fmt: skip
    shape = {"format": {"type": "json_schema", "name": "number", "schema": schema, "strict": True}}
    answer = create(openai_client, text=shape, max_output_tokens=60)
    assert answer.status == "completed"
    jsonschema.validate(json.loads(answer.output_text), schema)


def test_likelihoods_are_told_where_they_are_asked(openai_client: Any) -> None:
    answer = create(openai_client, include=["message.output_text.logprobs"], top_logprobs=2, max_output_tokens=4)
    (part,) = answer.output[0].content  # type: ignore[union-attr]
    assert part.type == "output_text" and part.logprobs
    assert "".join(token.token for token in part.logprobs) == part.text
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)


def test_a_conversation_that_is_too_long_loses_old_turns_only_where_that_is_allowed(openai_client: Any) -> None:
    old = [{"role": "user", "content": "word " * 9000}, {"role": "assistant", "content": "Is that all?"}]
    asked = {"input": [*old, {"role": "user", "content": "Name a colour."}], "max_output_tokens": 2}
    with pytest.raises(openai.BadRequestError, match=r"9,0\d\d tokens.*8,192") as refused:
        create(openai_client, **asked)
    assert refused.value.code == "context_length_exceeded"
    answer = create(openai_client, truncation="auto", **asked)
    assert answer.truncation == "auto" and answer.model_extra is not None
    assert answer.model_extra["truncated_turns"] == 2
    assert answer.output_text == create(openai_client, max_output_tokens=2).output_text


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"background": True}, "background"),
        ({"reasoning": {"effort": "high"}}, "reasoning"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input[0].content[0].type"),
        ({"input": []}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(openai_client: Any, field: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        create(openai_client, **field)
    assert refused.value.param is not None and refused.value.param.startswith(param)


def test_what_a_model_thinks_is_an_item_of_its_own() -> None:
    from hornbook.serve.openai.responses_body import messages_of_items
    from hornbook.serve.openai.responses_told import Telling
    from hornbook.serve.openai.speech import Called, Delta

    head = {"model": "m", "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    telling = Telling(head, None)
    said = [Delta(0, thought="Two "), Delta(0, thought="and two."), Delta(0, text="Four"), Delta(0, text="."),
            Delta(0, calls=(Called(0, "call_1", "add", ""), Called(0, arguments="{}"))), Delta(0, reason="tool_calls")]  # fmt: skip
    usage = {"input_tokens": 1, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 1}, "total_tokens": 7,
             "output_tokens": 6, "output_tokens_details": {"reasoning_tokens": 2}}  # fmt: skip
    told = [
        *telling.begin(),
        *(event for delta in said for event in telling.hear(delta)),
        *telling.end("tool_calls", usage),
    ]
    events = [EVENT.validate_json(json.dumps(event), strict=True) for event in told]
    assert "".join(event.delta for event in events if event.type == "response.reasoning_text.delta") == "Two and two."
    final = events[-1].response
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output[0].content[0].text == "Two and two." and final.output_text == "Four."
    turn = telling.turn()
    assert turn.content == "Four." and [call.name for call in turn.tool_calls] == ["add"]
    (sent_back,) = messages_of_items([item.model_dump(exclude_none=True) for item in final.output])
    assert sent_back == turn, "a client that sends its output back says what we keep"
