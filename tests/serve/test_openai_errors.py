"""Errors in OpenAI's form: the client raises its own classes, with the field and the code."""

from __future__ import annotations

import json
from typing import Any

import pytest

openai = pytest.importorskip("openai")

MODEL = "smollm2:135m"
HELLO = [{"role": "user", "content": "Hello"}]


def said(role: str = "user", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, **fields}]}


IMAGE = [{"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}]
SOUND = [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "not json"}}
FUNCTION = {"type": "function", "function": {"name": "f"}}

WRONG_CHATS: list[tuple[dict[str, Any], str | None]] = [
    # what no field of the API is, and what cannot be honoured
    ({"frobnicate": 1}, "frobnicate"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"function_call": "auto"}, "function_call"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "include_obfuscation"),
    # values that are none
    ({"temperature": -1}, "temperature"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 1.5}, "top_p"),
    ({"n": 0}, "n"),
    ({"n": 1.5}, "n"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
    ({"stop": [""]}, None),
    ({"stop": 3}, "stop"),
    ({"seed": 1e30}, "seed"),
    ({"logit_bias": {"a": 1}}, "logit_bias"),
    ({"logit_bias": {"9" * 5000: 1}}, "logit_bias"),
    ({"logit_bias": {"99999999": 1}}, None),
    ({"logit_bias": {"5": 101}}, "logit_bias.5"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}}, None),
    ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
    ({"guided_regex": "("}, None),
    # tools
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [FUNCTION, FUNCTION]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"tools": [FUNCTION], "tool_choice": "perhaps"}, "tool_choice"),
    # messages
    ({"messages": []}, "messages"),
    ({"messages": "Hello"}, "messages"),
    ({"messages": None}, "messages"),
    (said("wizard", content="x"), "messages[0].role"),
    (said("function", name="f", content="x"), "messages[0].role"),
    (said(content=None), "messages[0].content"),
    (said(content=IMAGE), "messages[0].content[0].type"),
    (said(content=SOUND), "messages[0].content[0].type"),
    (said(content=[{"type": "text"}]), "messages[0].content[0]"),
    (said(content=[{"type": "hologram", "text": "x"}]), "messages[0].content[0]"),
    (said("tool", content="x"), "messages[0].tool_call_id"),
    (said("assistant", tool_calls=[CALL]), "messages[0].tool_calls[0].function.arguments"),
    (said(content="x", tool_calls=[CALL]), "messages[0].tool_calls"),
    (said(content="x", weight=1), "messages[0].weight"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), WRONG_CHATS, ids=lambda given: str(given)[:40])
def test_a_wrong_chat_is_refused_by_name_before_any_work(
    server: Any, fields: dict[str, Any], param: str | None
) -> None:
    answer = server.post("/v1/chat/completions", json={"model": MODEL, "messages": HELLO, "max_tokens": 1} | fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] is not None and error["param"].startswith(param)
    assert len(error["message"]) > 10
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"suffix": "end"}, "suffix"),
        ({"prompt": []}, None),
        ({"prompt": [[]]}, None),
        ({"prompt": [1, "a"]}, None),
        ({"prompt": [99999999]}, None),
        ({"prompt": None}, "prompt"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"prompt": ["a"] * 200, "n": 100}, "prompt"),
        ({"prompt": ["a"] * 257}, "prompt"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_a_wrong_completion_is_refused_by_name(server: Any, fields: dict[str, Any], param: str | None) -> None:
    answer = server.post("/v1/completions", json={"model": MODEL, "prompt": "Hello", "max_tokens": 1} | fields)
    assert answer.status_code == 400, answer.text
    if param is not None:
        assert answer.json()["error"]["param"].startswith(param)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"])
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b"{" * 50, b"[" * 100_000, b"\xff\xfe", b"{}"])
def test_a_body_that_is_none_is_refused(server: Any, path: str, body: bytes) -> None:
    answer = server.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_numbers_that_json_does_not_have_are_refused(server: Any) -> None:
    for number in ("NaN", "Infinity", "-Infinity"):
        body = json.dumps({"model": MODEL, "messages": HELLO}).replace("}]", f'}}], "temperature": {number}')
        answer = server.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "temperature"


def test_a_model_that_is_not_here_is_404_and_near_names_are_offered(openai_client: Any) -> None:
    for ask in (
        lambda name: openai_client.chat.completions.create(model=name, messages=HELLO),
        lambda name: openai_client.chat.completions.create(model=name, messages=HELLO, stream=True),
        lambda name: openai_client.completions.create(model=name, prompt="x"),
        lambda name: openai_client.embeddings.create(model=name, input="x"),
        lambda name: openai_client.responses.create(model=name, input="x"),
        lambda name: openai_client.models.retrieve(name),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            ask("smolm2:135m")
        assert refused.value.code == "model_not_found" and refused.value.param == "model"
        assert MODEL in str(refused.value)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "smollm2:135m:../x", "kb:../x", "kb:nowhere", "\0", "x" * 5000]
)
def test_a_name_never_becomes_a_path(server: Any, name: str) -> None:
    answer = server.post("/v1/chat/completions", json={"model": name, "messages": HELLO})
    assert answer.status_code in (400, 404) and answer.json()["error"]["message"]


def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(openai_client: Any) -> None:
    long = "word " * 9000
    for ask in (
        lambda: openai_client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": long}]),
        lambda: openai_client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": long}], stream=True
        ),
        lambda: openai_client.completions.create(model=MODEL, prompt=long),
    ):
        with pytest.raises(openai.BadRequestError, match=r"9,0\d\d tokens.*8,192") as refused:
            ask()
        assert refused.value.code == "context_length_exceeded"


def test_models_are_listed_and_told_one_by_one(openai_client: Any) -> None:
    from openai.types import Model

    raw = openai_client.models.with_raw_response.list()
    listed = {one["id"]: one for one in raw.http_response.json()["data"]}
    assert {MODEL, "minilm"} <= set(listed)
    for one in listed.values():
        model = Model.model_validate(one, strict=True)
        assert openai_client.models.retrieve(model.id) == model
    assert listed[MODEL]["kind"] == "llm" and listed[MODEL]["context_length"] == 8192
