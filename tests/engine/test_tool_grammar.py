"""Whatever a model's weights are, what it is held to is a call of a tool that is there, with arguments that its schema allows."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from random_schemas import complaint, random_schema
from small_tokenizer import small_tokenizer

from hornbook.engine.choose import sample
from hornbook.engine.grammar import Vocabulary, compile
from hornbook.engine.reply import Reply as Speaker
from hornbook.engine.tool_calls import ToolPlan, plan_tools
from hornbook.engine.tool_stream import Reply
from hornbook.errors import UsageError
from hornbook.text.stream import StreamDecoder
from hornbook.text.tokenizer import Tokenizer
from hornbook.types import SamplingParams

TEMPLATES = {
    "generic": "",
    "hermes": '{{ tools }}<tool_call>\n{"name": ',
    "llama": '{{ tools }}<|start_header_id|>{"name": x, "parameters": y}',
    "mistral": "{{ tools }}[TOOL_CALLS]",
    "named": "{{ tools }}[TOOL_CALLS]f[ARGS]",
}
MARKS = ["[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", "[THINK]", "[/THINK]"]
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "parameters": CITY}
ROOM = SamplingParams(max_tokens=1500, temperature=1.0)


@pytest.fixture(scope="module", params=[(), MARKS], ids=["marks are text", "marks are tokens"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What plan_tools needs of a model: a tokenizer and its vocabulary."""
    tokenizer = small_tokenizer(tmp_path_factory.mktemp("tokenizer"), request.param)
    return SimpleNamespace(tokenizer=tokenizer, vocabulary=Vocabulary(tokenizer))


def random_tools(seed: int) -> list[dict[str, Any]]:
    r = random.Random(seed)
    schemas: list[dict[str, Any]] = []
    while len(schemas) < r.randint(1, 3):
        schema = random_schema(r.randrange(10**6))
        if schema.get("type") == "object":
            schemas.append(schema)
    names = r.sample(["search", "get_weather", "get", "a.b/c-d", "查询", "f"], len(schemas))
    return [{"name": name, "parameters": schema} for name, schema in zip(names, schemas, strict=True)]


def written(plan: ToolPlan, tokenizer: Tokenizer, grammar: str, seed: int, room: int = 1500) -> Reply:
    """What a model with random weights writes."""
    numbers = np.random.default_rng(seed)
    matcher = compile(plan.vocabulary, grammar=grammar).start()
    params = SamplingParams(max_tokens=room, temperature=1.0)
    speaker = Speaker(params, room, StreamDecoder(tokenizer), tokenizer.stop_ids)
    stream = plan.stream()
    while True:
        logits = numbers.normal(size=tokenizer.vocab_size).astype(np.float32) * 3
        id, _ = sample(logits, logits, matcher.allowed(), params, numbers.random())
        matcher.accept(id)
        token = speaker.accept(id, whole=matcher.is_done)
        stream.push(token)
        if token.finish_reason:
            return stream.reply


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_call_that_is_required_is_valid_whatever_the_weights(model: Any, name: str) -> None:
    finished = 0
    for seed in range(20):
        tools = random_tools(seed)
        schemas = {tool["name"]: tool["parameters"] for tool in tools}
        try:
            plan = plan_tools(model, tools, choice="required", parallel=bool(seed % 2), template=TEMPLATES[name])
        except UsageError as refused:
            assert refused.what.startswith("the tool '")
            continue
        assert plan.format.name == name
        reply = written(plan, model.tokenizer, str(plan.params(ROOM).grammar), seed)
        if reply.finish_reason == "length":
            continue
        finished += 1
        assert reply.finish_reason == "tool_calls" and reply.content == ""
        assert len({call.id for call in reply.calls}) == len(reply.calls) <= (16 if seed % 2 else 1)
        for call in reply.calls:
            assert call.problem is None
            assert complaint(call.arguments, schemas[call.name]) is None
    assert finished >= 14


def legal(plan: ToolPlan, tokenizer: Tokenizer, text: str, prompt: str | None = None, **params: Any) -> str:
    """The beginning of a text that the grammar lets a model write; control tokens are spelled."""
    grammar = plan.params(SamplingParams(**params), prompt).grammar
    matcher = compile(plan.vocabulary, grammar=grammar).start()
    ids = tokenizer.encode(text, add_special=False, parse_special=True)
    taken = ids[: matcher.legal(ids)]
    for id in taken:
        matcher.accept(id)
    assert len(taken) < len(ids) or matcher.can_end or not text.endswith("!")
    return tokenizer.decode(taken, skip_special=False)


FREE = ["Hello, <tool> you {!", "<tool_cal!", '{"name": "someone", "age": 5}!', '{"city": 1}!', "\n\n {!"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_left_to_itself_a_model_writes_what_it_likes(model: Any, name: str) -> None:
    plan = plan_tools(model, [WEATHER], template=TEMPLATES[name])
    for text in FREE:
        assert legal(plan, model.tokenizer, text) == text
        assert plan.read(text).message.content == text
    if name != "llama":
        assert written(plan, model.tokenizer, str(plan.params(ROOM).grammar), 1, 60).calls == ()


CALLS = {
    "generic": 'Hm. <tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>',
    "hermes": 'Hm. <tool_call>{"name": "get_weather", "arguments": {"city":"Oslo"}}</tool_call>',
    "llama": '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Oslo"}}',
    "mistral": '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}}]',
    "named": '[TOOL_CALLS]get_weather[ARGS]{"city": "Oslo"}',
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_call_that_a_model_begins_is_held_to_the_tools(model: Any, name: str) -> None:
    plan = plan_tools(model, [WEATHER], parallel=False, template=TEMPLATES[name])
    good = CALLS[name]
    assert legal(plan, model.tokenizer, good + "!") == good
    for wrong in (good.replace("weather", "whether"), good.replace("city", "town"), good.replace('"Oslo"', "5")):
        assert good.startswith(legal(plan, model.tokenizer, wrong))
    if name == "llama":
        bare = good.removeprefix("<|python_tag|>")
        assert legal(plan, model.tokenizer, bare) == bare
        assert bare.startswith(legal(plan, model.tokenizer, bare.replace("city", "town")))


def test_two_calls_are_written_only_where_that_is_allowed(model: Any) -> None:
    one = CALLS["generic"]
    two = f"{one}\n{one.removeprefix('Hm. ')}"
    for parallel, expected in ((True, two), (False, one)):
        plan = plan_tools(model, [WEATHER], parallel=parallel)
        assert legal(plan, model.tokenizer, two) == expected


def test_a_model_thinks_before_it_is_held_to_a_call(model: Any) -> None:
    template = TEMPLATES["hermes"] + "<think></think>"
    thought = "I may write <tool_call> here, and {.</think>\n\n"
    call = CALLS["hermes"].removeprefix("Hm. ")
    for choice in ("auto", "required"):
        plan = plan_tools(model, [WEATHER], choice=choice, template=template)
        assert legal(plan, model.tokenizer, f"<think>{thought}{call}") == f"<think>{thought}{call}"
        assert legal(plan, model.tokenizer, thought + call, "<think>\n") == thought + call
        assert legal(plan, model.tokenizer, call) == call
        assert call.startswith(legal(plan, model.tokenizer, call.replace("city", "town")))
        reply = plan.read(f"<think>{thought}{call}")
        assert reply.thinking == thought.removesuffix("</think>\n\n") and len(reply.calls) == 1
    free = plan_tools(model, [WEATHER], template=template)
    for text in ("<think>a</think>b!", "\n<think>a</think>b!", "<think>cut!"):
        assert legal(free, model.tokenizer, text) == text
    assert legal(free, model.tokenizer, "cut!", "<think>\n") == "cut!"


def test_an_answers_schema_holds_beside_calls(model: Any) -> None:
    schema = {"type": "object", "properties": {"name": {"const": "x"}}, "required": ["name"]}
    for name in TEMPLATES:
        plan = plan_tools(model, [WEATHER], template=TEMPLATES[name])
        call = CALLS[name].removeprefix("Hm. ")
        assert legal(plan, model.tokenizer, call, schema=schema) == call
        assert legal(plan, model.tokenizer, '{"name": "x"}', schema=schema) == '{"name": "x"}'
        assert legal(plan, model.tokenizer, "Hello", schema=schema) == ""


def test_arguments_that_a_schema_does_not_name_are_not_written(model: Any) -> None:
    nothing = plan_tools(model, [{"name": "now"}], choice="now")
    assert written(nothing, model.tokenizer, str(nothing.params(ROOM).grammar), 3).calls[0].value == {}
    free = {"type": "object", "properties": {"any": {"type": "object"}}, "required": ["any"]}
    plan = plan_tools(model, [{"name": "f", "parameters": free}], choice="f")
    text = '<tool_call>\n{"name": "f", "arguments": {"any": {"what": 1}}}\n</tool_call>'
    assert legal(plan, model.tokenizer, text) == text
    assert legal(plan, model.tokenizer, text.replace("any", "other")) != text.replace("any", "other")


def test_what_no_grammar_can_hold_is_refused_where_it_must_be_held(model: Any) -> None:
    odd = {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}, "required": ["tags"]}
    tools = [WEATHER, {"name": "tag", "parameters": odd}]
    for choice in ("required", "tag"):
        with pytest.raises(UsageError, match="the tool 'tag': .*uniqueItems"):
            plan_tools(model, tools, choice=choice)
    with pytest.raises(UsageError, match="'tag'"):
        plan_tools(model, [{"type": "function", "function": {**tools[1], "strict": True}}])
    assert plan_tools(model, tools, choice="get_weather").loosened == {}
    plan = plan_tools(model, tools)
    assert list(plan.loosened) == ["tag"]
    text = '<tool_call>\n{"name": "tag", "arguments": {"tags": [1, 1]}}\n</tool_call>'
    assert legal(plan, model.tokenizer, text) == text
    assert plan.read(text).calls[0].problem == "tags: two of its items are the same"


def test_tools_go_with_no_other_grammar(model: Any) -> None:
    plan = plan_tools(model, [WEATHER])
    for other in ({"regex": "a"}, {"grammar": 'start: "a"'}, {"ignore_eos": True}):
        with pytest.raises(UsageError, match="cannot go with"):
            plan.params(SamplingParams(**other))
        assert plan_tools(model, [WEATHER], choice="none").params(SamplingParams(**other)) == SamplingParams(**other)


def test_mistrals_own_tokenizer_marks_calls_by_a_token(shared: Path, tmp_path: Path) -> None:
    """A SentencePiece tokenizer, which begins a text with a space that is none of it."""
    shutil.copy(shared / "tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3", tmp_path / "tokenizer.model")
    tokenizer = Tokenizer.from_folder(tmp_path)
    mistral = SimpleNamespace(tokenizer=tokenizer, vocabulary=Vocabulary(tokenizer))
    for choice, parallel in (("required", False), ("get_weather", False), ("required", True)):
        plan = plan_tools(mistral, [WEATHER], choice=choice, parallel=parallel, template=TEMPLATES["mistral"])
        for seed in range(3):
            reply = written(plan, tokenizer, str(plan.params(ROOM).grammar), seed)
            assert reply.content == "" and [call.problem for call in reply.calls[:1]] == [None]
    plan = plan_tools(mistral, [WEATHER], template=TEMPLATES["mistral"])
    mark, call = tokenizer.id("[TOOL_CALLS]"), CALLS["mistral"].removeprefix("[TOOL_CALLS]")
    assert mark in tokenizer.control_ids
    ids = [mark, *tokenizer.encode(call.strip(), add_special=False)]
    matcher = compile(plan.vocabulary, grammar=plan.params(ROOM).grammar).start()
    assert matcher.legal(ids) == len(ids)
    speaker, stream = Speaker(ROOM, 200, StreamDecoder(tokenizer), tokenizer.stop_ids), plan.stream()
    for id in [*ids, tokenizer.eos_id]:
        stream.push(speaker.accept(id))
    assert [call.value for call in stream.reply.calls] == [{"city": "Oslo"}] and stream.reply.content == ""
    spelled = tokenizer.encode(CALLS["mistral"], add_special=False)  # the letters of the mark, without the token
    stream, speaker = plan.stream(), Speaker(ROOM, 200, StreamDecoder(tokenizer), tokenizer.stop_ids)
    for id in [*spelled, tokenizer.eos_id]:
        stream.push(speaker.accept(id))
    assert stream.reply.calls == () and stream.reply.content == CALLS["mistral"]
