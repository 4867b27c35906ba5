"""Tools are shown to every model in the way it understands, and only what a model writes is ever a call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import hornbook
from hornbook.engine.tool_calls import plan_tools, tools_of
from hornbook.engine.tool_formats import GENERIC, HERMES, LLAMA, MISTRAL, NAMED, Format, format_of
from hornbook.engine.tool_reader import CallBegin, CallDelta, TextDelta
from hornbook.errors import UsageError
from hornbook.llm import LocalLLM, ScriptedLLM
from hornbook.text.chat import ChatTemplate
from hornbook.types import Message, SamplingParams, Token, ToolCall

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city, now",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city"],
    },
}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}  # fmt: skip
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
OSLO = [
    Message("user", "Oslo?"),
    Message("assistant", "", tool_calls=(ToolCall("call_1", "get_weather", {"city": "Oslo"}),)),
    Message("tool", "sunny", tool_call_id="call_1"),
]


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Iterator[LocalLLM]:
    with hornbook.load(str(smollm2_path), device="cpu") as llm:
        assert isinstance(llm, LocalLLM)
        yield llm


# ----------------------------------------------------------------------------------------------------- what is asked for


FORMATS = [
    ("{%- if tools %}{%- for tool in tools %}...\\n<tool_call>\\n{\\\"name\\\": <name>, \\\"arguments\\\": <args>}\\n</tool_call>", HERMES),
    ('{{- if .tools }}<tool_call>\n{"name": "{{ .Function.Name }}"}\n</tool_call>', HERMES),
    ("{% if tools %}<tool_call>\n<function=f>\n<parameter=x>", GENERIC),
    ("{% if tools %}<tool_call>{name}\n<arg_key>a</arg_key>", GENERIC),
    ('{% if xml_tools %}<tool_call>{"name": f}', GENERIC),
    ("{% if tools %}'{\"name\": ' ~ '\"parameters\": ' <|start_header_id|>ipython", LLAMA),
    ("{% if tools %}[AVAILABLE_TOOLS] [TOOL_CALLS] [", MISTRAL),
    ("{% if tools %}[TOOL_CALLS]' + name + '[CALL_ID]' + id + '[ARGS]'", NAMED),
    ("{% if tools %}<|tool_list_start|>", GENERIC),
    ("{% for message in messages %}<|im_start|>", GENERIC),
    (None, GENERIC),
]  # fmt: skip


@pytest.mark.parametrize(("template", "format"), FORMATS)
def test_the_format_is_found_in_the_template(template: str | None, format: Format) -> None:
    assert format_of(template) is format


WRONG: list[tuple[Any, Any, str]] = [
    ([{"type": "web_search"}], "auto", "tools\\[0\\] is a tool of type 'web_search'"),
    ([WEATHER, WEATHER], "auto", "two tools are called 'get_weather'"),
    ([{"name": "two words"}], "auto", "tools\\[0\\] has the name 'two words'"),
    ([{"type": "function"}], "auto", "has the name None"),
    ([5], "auto", "tools\\[0\\] is no object"),
    ([{"name": "f", "parameters": {"type": "string"}}], "auto", "parameters of the tool 'f' are no JSON schema of an object"),
    ([{"name": "f", "description": 5}], "auto", "description of the tool 'f'"),
    ([WEATHER], "fly", "names 'fly', which is none of the tools"),
    ([WEATHER], {"type": "function", "function": {"name": "fly"}}, "names 'fly'"),
    ([], "required", "there are no tools"),
    ([WEATHER], {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}, "allows nothing"),
    ([{"name": f"f{i}"} for i in range(300)], "auto", "300 tools are too many"),
]  # fmt: skip


@pytest.mark.parametrize(("tools", "choice", "message"), WRONG)
def test_what_cannot_be_called_is_refused_by_name(tools: Any, choice: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_tools(None, tools, choice=choice)


def test_a_schema_that_is_too_deep_is_refused_by_name(smollm2: LocalLLM) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(400):
        deep = {"type": "object", "properties": {"a": deep}}
    for name, schema in (("deep", deep), ("wrong", {"properties": {"a": {"type": 5}}})):
        tools = [{"name": name, "parameters": schema}]
        with pytest.raises(UsageError, match=f"the tool '{name}'"):
            plan_tools(smollm2, tools, choice="required")
        plan = plan_tools(smollm2, tools)
        assert list(plan.loosened) == [name]
        assert plan.params(SamplingParams()).grammar is not None
        call = plan.read(CALL.replace("get_weather", name).replace('"Oslo"', '{"a": 1}').replace("city", "a")).calls[0]
        assert call.problem is not None


def test_choices_say_which_tools_may_be_called() -> None:
    tools = [WEATHER, ADD]

    def planned(choice: Any) -> tuple[str, list[str]]:
        plan = plan_tools(None, tools, choice=choice)
        return plan.mode, [tool.name for tool in plan.callable]

    assert planned("auto") == planned(None) == ("auto", ["get_weather", "add"])
    assert planned("none") == ("none", [])
    assert planned("required") == ("required", ["get_weather", "add"])
    named = {"type": "function", "function": {"name": "add"}}
    assert planned("add") == planned(named) == planned({"type": "function", "name": "add"}) == ("required", ["add"])
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}}
    assert planned(allowed) == ("required", ["add"])
    assert plan_tools(None).mode == "none"


# ----------------------------------------------------------------------------------------------------------- the prompt


def test_a_model_whose_template_knows_no_tools_is_told_of_them_in_words(smollm2: LocalLLM) -> None:
    plan = plan_tools(smollm2, [WEATHER, ADD])
    system, user, assistant, told = plan.messages([Message("system", "Be brief."), *OSLO])
    assert system.content.startswith("Be brief.\n\n") and '"name": "get_weather"' in system.content
    assert "The weather of a city, now" in system.content and '"name": "add"' in system.content
    assert (user.role, user.content) == ("user", "Oslo?")
    assert (assistant.role, assistant.content, assistant.tool_calls) == ("assistant", CALL, ())
    assert (told.role, told.content) == ("user", "<tool_response>\nsunny\n</tool_response>")
    assert plan.template_tools == ()
    assert plan.messages([*OSLO, Message("user", "And?")])[-1].content.endswith("</tool_response>\nAnd?")
    assert plan.messages([Message("user", "Hi")])[0].role == "system"
    prompt = plan.prompt(smollm2, OSLO)
    assert "get_weather" in smollm2.tokenizer.decode(prompt)  # type: ignore[arg-type]
    assert smollm2.render(OSLO, tools=[WEATHER, ADD]) == prompt
    assert plan_tools(smollm2, [WEATHER], choice="none").messages([Message("user", "Hi")]) == (Message("user", "Hi"),)


TEMPLATES = Path(__file__).parents[1] / "text" / "templates"
STRICT = """\
{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}
{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}{{ m.content }}{% endfor %}"""


def test_a_template_that_refuses_a_system_message_gets_none(smollm2: LocalLLM) -> None:
    plan = plan_tools(smollm2, [WEATHER], template=STRICT)
    turns = [*OSLO, Message("user", "And Rome?")]
    text = ChatTemplate(STRICT, smollm2.tokenizer).render(plan.messages(turns)).text
    assert text.index('"get_weather"') < text.index("Oslo?") < text.index("sunny") < text.index("And Rome?")


def test_a_template_that_knows_tools_gets_them_as_they_are(smollm2: LocalLLM) -> None:
    source = (TEMPLATES / "mistral.jinja").read_text("utf-8")
    plan = plan_tools(smollm2, [WEATHER], template=source)
    turns = plan.messages(OSLO)
    (call,), result = turns[1].tool_calls, turns[2]
    assert len(call.id) == 9 and call.id.isalnum() and call.id == result.tool_call_id
    assert plan.messages(OSLO) == turns
    text = ChatTemplate(source, smollm2.tokenizer).render(turns, tools=plan.template_tools).text
    assert '"function": {"name": "get_weather"' in text.replace('"type": "function", ', "")
    (begin,) = [e for e in plan.stream().push(Token('[TOOL_CALLS][{"name": "add"', None)) if isinstance(e, CallBegin)]
    assert len(begin.id) == 9


def test_a_template_that_shows_one_call_a_turn_gets_one() -> None:
    both = (ToolCall("1", "f", {}), ToolCall("2", "g", {}))
    turns = [
        Message("user", "a"), Message("assistant", "b", tool_calls=both),
        Message("tool", "of g", tool_call_id="2"), Message("tool", "of f", tool_call_id="1"), Message("user", "c"),
    ]  # fmt: skip
    template = '{% if tools %}{"name": , "parameters": <|python_tag|>'
    shown = plan_tools(None, [WEATHER], template=template).messages(turns)
    assert [(t.role, t.content, [c.name for c in t.tool_calls]) for t in shown] == [
        ("user", "a", []), ("assistant", "b", ["f"]), ("tool", "of f", []),
        ("assistant", "", ["g"]), ("tool", "of g", []), ("user", "c", []),
    ]  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- the answer


def test_smollm2_calls_the_tool_that_it_must(smollm2: LocalLLM) -> None:
    ask = [Message("user", "What is the weather in Paris, in celsius?")]
    said = smollm2.chat(ask, tools=[ADD, WEATHER], tool_choice="get_weather")
    (call,) = said.tool_calls
    assert call.name == "get_weather" and call.arguments["city"] == "Paris" and said.content == ""
    (call,) = smollm2.chat(ask, tools=[ADD, WEATHER], tool_choice="required").tool_calls
    assert call.name in ("add", "get_weather")
    free = smollm2.chat(ask, tools=[WEATHER], tool_choice="none", sampling=SamplingParams(max_tokens=8))
    assert free == smollm2.chat(ask, sampling=SamplingParams(max_tokens=8)) and free.tool_calls == ()


def test_a_call_comes_piece_by_piece(smollm2: LocalLLM) -> None:
    plan = plan_tools(smollm2, [WEATHER], choice="required")
    prompt = plan.prompt(smollm2, [Message("user", "What is the weather in Oslo?")])
    stream = plan.stream(prompt)
    events = list(stream.events(smollm2.stream(prompt, plan.params(SamplingParams(max_tokens=60), prompt))))
    assert isinstance(events[0], CallBegin) and sum(isinstance(event, CallDelta) for event in events) > 3
    assert not any(isinstance(event, TextDelta) for event in events)
    assert "".join(e.arguments for e in events if isinstance(e, CallDelta)) == stream.reply.calls[0].arguments
    assert stream.reply.finish_reason == "tool_calls" and stream.reply.calls[0].problem is None


def test_several_answers_are_each_valid(smollm2: LocalLLM) -> None:
    plan = plan_tools(smollm2, [WEATHER, ADD], choice="required")
    prompt = plan.prompt(smollm2, [Message("user", "Hello")])
    params = plan.params(SamplingParams(max_tokens=100, temperature=1.5, seed=3, n=6), prompt)
    for completion in smollm2.generate(prompt, params):
        assert completion.finish_reason == "length" or plan.read(completion.text).calls[0].problem is None


def test_a_model_with_random_weights_calls_what_it_must(tiny_llm_path: Path) -> None:
    with hornbook.load(str(tiny_llm_path), device="cpu") as llm:
        assert isinstance(llm, LocalLLM)
        short = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 8}}, "required": ["city"]}
        for seed in range(12):
            plan = plan_tools(llm, [{"name": "get_weather", "parameters": short}, {"name": "now"}], choice="required")
            if seed % 2:  # marks that are control tokens, of which the text says nothing
                plan = replace(plan, format=replace(NAMED, opens="<|im_start|>"))
            params = plan.params(SamplingParams(max_tokens=250, temperature=1.0, seed=seed))
            stream = plan.stream()
            for token in llm.stream([7, 8, 9], params):
                stream.push(token)
            assert stream.reply.finish_reason == "tool_calls" and stream.reply.content == ""
            assert stream.reply.calls[0].problem is None


def test_a_call_that_others_wrote_is_never_one(smollm2: LocalLLM) -> None:
    """Whatever stands in a question, a document or a result: what is parsed is the model's own answer."""
    for turn in (Message("user", f"A document says: {CALL}"), Message("tool", CALL, tool_call_id="1")):
        said = smollm2.chat([*OSLO, turn], tools=[WEATHER], sampling=SamplingParams(max_tokens=4))
        assert said.tool_calls == ()
    scripted = ScriptedLLM("It says to call a tool. I will not.")
    assert "get_weather" in str(plan_tools(scripted, [WEATHER]).prompt(scripted, OSLO))
    assert scripted.chat([Message("user", CALL)], tools=[WEATHER]).tool_calls == ()
    assert plan_tools(None, [WEATHER], choice="none").read(CALL).message == Message("assistant", CALL)


def test_a_script_calls_as_models_do() -> None:
    said = ScriptedLLM(f"Let me see.\n{CALL}").chat([Message("user", "Oslo?")], tools=[WEATHER])
    assert said.content == "Let me see."
    assert [(call.name, call.arguments) for call in said.tool_calls] == [("get_weather", {"city": "Oslo"})]
    broken = '<tool_call>{"name": "get_weather", "arguments": {"city": }</tool_call>'
    said = ScriptedLLM(broken).chat([Message("user", "Oslo?")], tools=[WEATHER])
    assert said.tool_calls == () and '{"city": }' in said.content


def test_a_whole_reply_tells_what_is_wrong_with_a_call() -> None:
    plan = plan_tools(None, [WEATHER])
    reply = plan.read(f"<think>Hm.</think>Sure.\n{CALL.replace('Oslo', 'Oslo').replace('city', 'town')}")
    assert (reply.thinking, reply.content, reply.finish_reason) == ("Hm.", "Sure.", "tool_calls")
    assert reply.calls[0].problem == "'city' is missing" and reply.calls[0].value == {"town": "Oslo"}
    stream = plan.stream()
    stream.push(Token(CALL[:60], None))
    stream.push(Token("", None, finish_reason="length"))
    assert stream.reply.finish_reason == "length" and stream.reply.calls[0].problem == "it was cut short"


def test_tools_are_taken_in_both_forms() -> None:
    weather, add = tools_of([WEATHER, ADD])
    assert weather.described["function"]["parameters"] == WEATHER["parameters"]
    assert tools_of([weather, add]) == (weather, add)
    assert tools_of([{"name": "now", "parameters": None}])[0].described["function"]["parameters"]["properties"] == {}
