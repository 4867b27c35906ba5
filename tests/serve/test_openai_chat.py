"""Chat completions, asked by OpenAI's own client: its types are the judge of what the server says."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import pytest

openai = pytest.importorskip("openai")

from openai.types.chat import ChatCompletion, ChatCompletionChunk  # noqa: E402

MODEL = "smollm2:135m"
HELLO = [{"role": "user", "content": "Name three colours."}]
GREEDY = {"model": MODEL, "temperature": 0}


def create(client: Any, **asked: Any) -> ChatCompletion:
    """The answer, held to the client's own type word for word: the client itself does not look."""
    raw = client.chat.completions.with_raw_response.create(**({"messages": HELLO} | GREEDY | asked))
    return ChatCompletion.model_validate_json(raw.http_response.text, strict=True)


def chunks(client: Any, **asked: Any) -> list[ChatCompletionChunk]:
    asked = {"messages": HELLO} | GREEDY | asked
    with client.chat.completions.with_streaming_response.create(**asked, stream=True) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in raw.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [ChatCompletionChunk.model_validate_json(line, strict=True) for line in lines[:-1]]


def text_of(streamed: list[ChatCompletionChunk], index: int = 0) -> str:
    choices = [choice for chunk in streamed for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def test_an_answer_has_the_form_that_the_client_knows(openai_client: Any) -> None:
    answer = create(openai_client, max_tokens=8)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and answer.model == MODEL
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.message.content and choice.message.tool_calls is None
    assert choice.finish_reason == "length" and choice.logprobs is None
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_every_answer_carries_a_request_id(openai_client: Any) -> None:
    raw = openai_client.chat.completions.with_raw_response.create(messages=HELLO, max_tokens=1, **GREEDY)
    assert raw.headers["x-request-id"]
    assert raw.parse()._request_id == raw.headers["x-request-id"]


def test_a_stream_says_what_the_whole_answer_says(openai_client: Any) -> None:
    whole = create(openai_client, max_tokens=12)
    streamed = chunks(openai_client, max_tokens=12)
    assert text_of(streamed) == whole.choices[0].message.content
    assert streamed[0].choices[0].delta.role == "assistant"
    assert streamed[-1].choices[0].finish_reason == "length"
    assert len({chunk.id for chunk in streamed}) == 1
    assert len(streamed) > 4, "it is no stream if it comes at once"
    assert all(chunk.usage is None for chunk in streamed)


def test_a_stream_tells_usage_at_its_end_where_that_is_asked(openai_client: Any) -> None:
    streamed = chunks(openai_client, max_tokens=5, stream_options={"include_usage": True})
    *before, last = streamed
    assert last.choices == [] and last.usage is not None and last.usage.completion_tokens == 5
    assert all(chunk.usage is None for chunk in before)


def test_the_same_prompt_again_is_read_from_the_cache_and_says_so(openai_client: Any) -> None:
    long = [{"role": "user", "content": "Tell me of the sea, of ships, of harbours and of sailors' songs. " * 6}]
    create(openai_client, messages=long, max_tokens=2)
    again = create(openai_client, messages=long, max_tokens=2)
    assert again.usage is not None and again.usage.prompt_tokens_details is not None
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached is not None and 0 < cached < again.usage.prompt_tokens


def test_a_stop_string_ends_an_answer_and_is_no_part_of_it(openai_client: Any) -> None:
    free = create(openai_client, max_tokens=24).choices[0].message.content or ""
    word = free.split()[3]
    for stop in (word, [word, "zebra crossing"]):
        held = create(openai_client, max_tokens=24, stop=stop).choices[0]
        assert held.finish_reason == "stop"
        assert held.message.content == free[: free.index(word)]


def test_n_answers_differ_and_a_seed_repeats_them(openai_client: Any) -> None:
    asked = {"max_tokens": 8, "temperature": 1.5, "n": 3}
    first = create(openai_client, seed=11, **asked)
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert [c.message.content for c in create(openai_client, seed=11, **asked).choices] == texts
    assert [c.message.content for c in create(openai_client, seed=12, **asked).choices] != texts
    streamed = chunks(openai_client, seed=11, **asked)
    assert [text_of(streamed, index) for index in range(3)] == texts


def test_likelihoods_are_told_with_the_bytes_of_the_answer(openai_client: Any) -> None:
    choice = create(openai_client, max_tokens=10, logprobs=True, top_logprobs=3).choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    told = choice.logprobs.content
    assert b"".join(bytes(token.bytes or []) for token in told).decode() == choice.message.content
    for token in told:
        assert len(token.top_logprobs) == 3
        assert token.token == token.top_logprobs[0].token, "a greedy answer takes the likeliest"
        assert math.isclose(token.logprob, token.top_logprobs[0].logprob, abs_tol=1e-4)
        assert sum(math.exp(one.logprob) for one in token.top_logprobs) <= 1.0001
    streamed = chunks(openai_client, max_tokens=10, logprobs=True, top_logprobs=3)
    pieces = [t for c in streamed if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content or []]
    assert [t.token for t in pieces] == [t.token for t in told]


def test_a_biased_token_is_taken_or_left(openai_client: Any, smollm2_path: Any) -> None:
    from hornbook.checkpoint.gguf import GGUF
    from hornbook.text.tokenizer import Tokenizer

    with GGUF.open(smollm2_path) as file:
        tokenizer = Tokenizer.from_gguf(file.metadata)
    (id,) = tokenizer.encode(" tree", add_special=False)
    answer = create(openai_client, max_tokens=4, logit_bias={str(id): 100}).choices[0].message.content
    assert answer == " tree" * 4


def test_a_presence_penalty_breaks_a_repetition(openai_client: Any) -> None:
    asked = [{"role": "user", "content": "Repeat: na na na na na na na na na na"}]
    free = create(openai_client, messages=asked, max_tokens=16).choices[0].message.content
    for penalty in ("presence_penalty", "frequency_penalty"):
        held = create(openai_client, messages=asked, max_tokens=16, **{penalty: 2}).choices[0].message.content
        assert held != free


def test_both_names_of_the_limit_are_understood(openai_client: Any) -> None:
    for limit in ({"max_tokens": 3}, {"max_completion_tokens": 3}, {"max_tokens": 3, "max_completion_tokens": 3}):
        answer = create(openai_client, **limit)
        assert answer.usage is not None and answer.usage.completion_tokens == 3


def test_a_conversation_of_every_role_and_form_is_read(openai_client: Any) -> None:
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Answer in"}, {"type": "text", "text": "English."}]},
        {"role": "user", "content": "What is the weather in 東京?", "name": "mio"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "東京"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "18 °C"},
    ]
    assert create(openai_client, messages=messages, max_tokens=3).choices[0].message.content


def test_an_answer_can_be_sent_back_as_it_came(openai_client: Any) -> None:
    said = create(openai_client, max_tokens=4).choices[0].message
    for form in (said, said.model_dump(), said.model_dump(exclude_none=True)):
        messages = [*HELLO, form, {"role": "user", "content": "And more?"}]
        assert openai_client.chat.completions.create(messages=messages, max_tokens=1, **GREEDY).choices


def test_fields_that_change_nothing_are_let_through(openai_client: Any) -> None:
    plain = create(openai_client, max_tokens=4).choices[0].message.content
    asked = create(
        openai_client, max_tokens=4, user="mio", metadata={"a": "b"}, store=False, service_tier="auto",
        modalities=["text"], prompt_cache_key="k", safety_identifier="s", parallel_tool_calls=False,
    )  # fmt: skip
    assert asked.choices[0].message.content == plain


# --- shapes

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_schema_is_kept_to(openai_client: Any, temperature: float) -> None:
    shape = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    asked = [{"role": "user", "content": "Invent a person."}]
    answer = create(
        openai_client, messages=asked, max_tokens=120, response_format=shape, temperature=temperature, seed=3
    )
    assert answer.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), PERSON)


def test_the_client_parses_into_its_own_model(openai_client: Any) -> None:
    from pydantic import BaseModel

    class Step(BaseModel):
        number: int
        done: bool

    answer = openai_client.chat.completions.parse(messages=HELLO, response_format=Step, max_tokens=60, **GREEDY)
    assert isinstance(answer.choices[0].message.parsed, Step)


def test_any_object_of_json_is_an_object(openai_client: Any) -> None:
    asked = [{"role": "user", "content": 'Say {"ok": 1} in JSON and nothing more.'}]
    choice = create(
        openai_client, messages=asked, max_tokens=100, response_format={"type": "json_object"}, stop=["}"]
    ).choices[0]
    assert (choice.message.content or "").startswith("{")


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ({"guided_choice": ["no (never)", "yes|always"]}, {"no (never)", "yes|always"}),
        ({"guided_regex": "[0-9]{3}"}, None),
    ],
)
def test_a_guided_answer_keeps_to_its_guide(openai_client: Any, field: dict[str, Any], allowed: Any) -> None:
    answer = create(openai_client, max_tokens=20, extra_body=field).choices[0]
    said = answer.message.content or ""
    assert said in allowed if allowed else said.isdigit() and len(said) == 3


# --- tools

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["c", "f"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
ASKED = [{"role": "user", "content": "What is the weather in Paris?"}]


def test_a_required_call_is_valid_even_of_a_tiny_model(openai_client: Any) -> None:
    answer = create(openai_client, messages=ASKED, tools=[WEATHER], tool_choice="required", max_tokens=90)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls
    for call in choice.message.tool_calls:
        assert call.type == "function" and call.function.name == "get_weather" and call.id
        jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])


def test_a_named_tool_is_called_and_no_other(openai_client: Any) -> None:
    choice = {"type": "function", "function": {"name": "get_time"}}
    answer = create(
        openai_client, messages=ASKED, tools=[WEATHER, CLOCK], tool_choice=choice, max_tokens=60,
        parallel_tool_calls=False,
    )  # fmt: skip
    calls = answer.choices[0].message.tool_calls
    assert calls is not None and [call.function.name for call in calls if call.type == "function"] == ["get_time"]


def test_no_tool_is_called_where_none_may_be(openai_client: Any) -> None:
    answer = create(openai_client, messages=ASKED, tools=[WEATHER], tool_choice="none", max_tokens=6)
    assert answer.choices[0].message.tool_calls is None and answer.choices[0].message.content


def test_streamed_pieces_of_a_call_join_to_the_call(openai_client: Any) -> None:
    asked = {"messages": ASKED, "tools": [WEATHER], "tool_choice": "required", "max_tokens": 90}
    whole = create(openai_client, **asked, parallel_tool_calls=False).choices[0].message.tool_calls
    streamed = chunks(openai_client, **asked, parallel_tool_calls=False)
    pieces = [piece for chunk in streamed for piece in chunk.choices[0].delta.tool_calls or []]
    assert whole is not None and len(pieces) > 2
    first, *rest = pieces
    assert first.id and first.function and first.function.name == "get_weather" and first.type == "function"
    assert all(piece.id is None and piece.function and piece.function.name is None for piece in rest)
    joined = "".join(piece.function.arguments or "" for piece in pieces if piece.function)
    assert whole[0].type == "function" and joined == whole[0].function.arguments
    assert streamed[-1].choices[0].finish_reason == "tool_calls"


def test_the_client_follows_a_stream_with_its_own_helper(openai_client: Any) -> None:
    with openai_client.chat.completions.stream(
        messages=ASKED, tools=[WEATHER], tool_choice="required", max_tokens=90, parallel_tool_calls=False, **GREEDY
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert final.choices[0].message.tool_calls[0].function.name == "get_weather"
