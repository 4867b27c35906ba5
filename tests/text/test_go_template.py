"""Go templates give, letter for letter, what Go and Ollama would; users' control tokens stay text; the rest is refused by name."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from hornbook.checkpoint.gguf import GGUF
from hornbook.errors import TemplateError
from hornbook.text.chat import ChatTemplate
from hornbook.text.go_chat import GoChatTemplate, template_of
from hornbook.text.go_template import GoTemplate
from hornbook.text.tokenizer import Tokenizer
from hornbook.types import Message, ToolCall

CALLS = [{"id": "1", "function": {"index": 0, "name": "f", "arguments": {"a": 1, "b": "<x> & 語"}}}]
VALUES: dict[str, Any] = {
    "System": "S", "Prompt": "", "Response": "", "Think": False, "IsThinkSet": False,
    "Tools": [{"type": "function", "function": {"name": "f", "description": "", "parameters": {
        "type": "object", "required": ["b"], "properties": {"b": {"type": "string"}, "a": {"type": "number", "enum": [1, 2]}},
    }}}],
    "Messages": [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": CALLS},
        {"role": "tool", "content": "42", "tool_name": "f"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "text"),
    [
        # white space: a minus beside the braces takes it all away, and nothing else does
        ("a \n {{- .System -}} \n\t b", "aSb"),
        ("a {{ .System }} b", "a S b"),
        ("a {{- /* said */ -}} b{{/* }} */}}c", "abc"),
        ("{{ 3 }}{{- 4 }} {{ -5 }}", "34 -5"),
        # branches; what is empty is false
        ("{{ if .Prompt }}1{{ else if and .System .Tools }}2{{ else }}3{{ end }}", "2"),
        ("{{ if or .Prompt (not .Tools) .Response }}1{{ else if .Prompt }}2{{ else }}3{{ end }}", "3"),
        ("{{ with .System }}<{{ . }}{{ $.System }}>{{ end }}{{ with .Prompt }}y{{ else }}n{{ end }}", "<SS>n"),
        ("{{ or .Prompt .System }} {{ and .System .Prompt }}|", "S |"),
        # loops, their variables and their else
        ("{{ range $i, $m := .Messages }}{{ $i }}{{ $m.Role }} {{ end }}", "0user 1assistant 2tool "),
        ("{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Name }}{{ else }}-{{ end }}{{ end }}", "-f-"),
        ("{{ range $i, $_ := .Messages }}{{ if eq (len (slice $.Messages $i)) 1 }}{{ .Content }}{{ end }}{{ end }}", "42"),
        ("{{ range .Messages }}{{ if eq .Role `tool` }}{{ break }}{{ end }}{{ if .Content }}{{ continue }}{{ end }}x{{ end }}", "x"),
        ("{{ $x := 1 }}{{ range .Messages }}{{ $x = 2 }}{{ $x := 3 }}{{ $x }}{{ end }}{{ $x }}", "3332"),
        ("{{ range $k, $v := (index .Tools 0).Function.Parameters.Properties }}{{ $k }}:{{ $v.Type }} {{ end }}", "a:number b:string "),
        ("{{ range 3 }}{{ . }}{{ end }}", "012"),
        # functions and JSON as Go writes it
        ("{{ (index .Messages 1).ToolCalls | json | len }}", "97"),
        ("{{ range (index .Messages 1).ToolCalls }}{{ .Function.Arguments }}{{ end }}", '{"a":1,"b":"\\u003cx\\u003e \\u0026 語"}'),
        ("{{ json .System }} {{ eq .System `a` `S` }} {{ ne 1 2 }} {{ lt 1 2 }}{{ ge `b` `a` }}", '"S" true true truetrue'),
        ("{{ len `語` }} {{ slice `hello` 1 3 }} {{ index `a` 0 }}", "3 el 97"),
        ('{{ "a\\n\\"b\\u8a9e" }}{{ `\\n` }}{{ \'a\' }}', 'a\n"b語\\n97'),
        ("{{ if eq .Prompt nil }}1{{ end }}{{ if false }}2{{ end }}{{ if true }}3{{ end }}", "3"),
    ],
)  # fmt: skip
def test_the_text_is_what_go_would_write(source: str, text: str) -> None:
    assert GoTemplate(source).run(VALUES) == text


@pytest.mark.parametrize(
    ("source", "line", "word"),
    [
        ("{{ .Foo }}", 1, ".Foo"),
        ("a\n\n{{ printf `x` }}", 3, "printf"),
        ("\n{{ define `x` }}{{ end }}", 2, "define"),
        ("{{ template `x` . }}", 1, "template"),
        ("\n{{ if .System }}", 2, "no {{ end }}"),
        ("{{ end }}", 1, "closes nothing"),
        ("{{ if .System }}{{ else }}{{ else }}{{ end }}", 1, "second else"),
        ("\n{{ .System", 2, 'no "}}"'),
        ("{{ $x }}", 1, "$x is not declared"),
        ("{{ if $x := 1 }}{{ end }}{{ $x }}", 1, "$x is not declared"),
        ("{{ .System .Prompt }}", 1, "no function"),
        ("{{ break }}", 1, "belongs in a range"),
        ("{{ (.System }}", 1, 'no ")"'),
        ("{{ .System | }}", 1, "missing"),
        ("{{}}", 1, "empty"),
        ("{{ len }}", 1, "given 0 values"),
        ("{{ .System.Role }}", 1, "no field .Role"),
        ("{{ slice .Messages 9 }}", 1, "outside"),
        ("{{ eq .System 1 }}", 1, "cannot be compared"),
        ("{{ range .System }}{{ end }}", 1, "range"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(source: str, line: int, word: str) -> None:
    with pytest.raises(TemplateError) as caught:
        GoTemplate(source).run(VALUES)
    assert f"line {line}:" in caught.value.what
    assert word in caught.value.what


def test_a_hostile_template_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hornbook.text.meter.MAX_STEPS", 10_000)
    nested = "{{ range 100000 }}" * 3 + "x" + "{{ end }}" * 3
    with pytest.raises(TemplateError, match="10,000 steps"):
        GoTemplate(nested).run(VALUES)
    with pytest.raises(TemplateError, match="within each other"):
        GoTemplate("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}")
    with pytest.raises(TemplateError, match="within each other"):
        GoTemplate("{{ if 1 }}" * 5000)


def test_a_long_template_is_read_in_time() -> None:
    begun = time.monotonic()
    GoTemplate("{{ .System }}\n" * 60_000)
    with pytest.raises(TemplateError, match="line 60001: '[?]"):
        GoTemplate("{{\n" + ".System\n" * 59_999 + "? }}")
    assert time.monotonic() - begun < 10


# ------------------------------------------------------------------------------------------------------ conversations


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> tuple[Tokenizer, ChatTemplate]:
    with GGUF.open(smollm2_path) as file:
        tokenizer = Tokenizer.from_gguf(file.metadata)
        template = ChatTemplate.from_gguf(file.metadata, tokenizer)
    assert template is not None
    return tokenizer, template


# The kind that knows one exchange; its line ends are ChatML's.
EXCHANGE = """\
{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ if .Prompt }}<|im_start|>user
{{ .Prompt }}<|im_end|>
{{ end }}<|im_start|>assistant
{{ .Response }}<|im_end|>
"""
# SmolLM2's own template, said in Go
SMOLLM2 = """\
{{- range $i, $_ := .Messages }}
{{- if and (eq $i 0) (ne .Role "system") }}<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
{{ end }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
# Tools as the templates of Qwen and Hermes models describe them
TOOLS = """\
{{- if or .System .Tools }}<|im_start|>system
{{- if .System }}
{{ .System }}
{{- end }}
{{- if .Tools }}
# Tools
{{- range .Tools }}
{"type": "function", "function": {{ .Function }}}
{{- end }}
{{- end }}<|im_end|>
{{ end }}
{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 -}}
{{- if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
{{ else if eq .Role "assistant" }}<|im_start|>assistant
{{ if .Content }}{{ .Content }}
{{- else if .ToolCalls }}<tool_call>
{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}
{{ end }}</tool_call>
{{- end }}{{ if not $last }}<|im_end|>
{{ end }}
{{- else if eq .Role "tool" }}<|im_start|>user
<tool_response>
{{ .Content }}
</tool_response><|im_end|>
{{ end }}
{{- if and (ne .Role "assistant") $last }}<|im_start|>assistant
{{ end }}
{{- end }}"""

TALK = [
    Message("system", "Be kind."),
    Message("user", "Hello"),
    Message("assistant", "Hi!"),
    Message("user", "Bye"),
]


def test_a_template_of_one_exchange_is_run_for_each(smollm2: Any) -> None:
    template = GoChatTemplate(EXCHANGE, smollm2[0])
    begun = (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHi!<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    )
    assert template.render(TALK, reply=True).text == begun
    assert template.render(TALK).text == begun + "<|im_end|>\n"
    # a conversation that ends with the assistant's own words is gone on with
    assert template.render([*TALK, Message("assistant", "See")], reply=True).text == begun + "See"


def test_a_template_without_a_place_for_the_answer_has_it_at_its_end(smollm2: Any) -> None:
    template = GoChatTemplate("{{ .System }} USER: {{ .Prompt }} ASSISTANT: ", smollm2[0])
    assert template.render(TALK, reply=True).text == "Be kind. USER: Hello ASSISTANT: Hi! USER: Bye ASSISTANT: "


def test_neighbours_of_one_role_become_one_message(smollm2: Any) -> None:
    template = GoChatTemplate("{{ .System }}|{{ range .Messages }}[{{ .Role }} {{ .Content }}]{{ end }}", smollm2[0])
    turns = [
        Message("system", "a"),
        Message("system", "b"),
        Message("user", "c"),
        Message("user", "d"),
        Message("system", "e"),
    ]
    assert template.render(turns).text == "a\n\nb\n\ne|[system a\n\nb][user c\n\nd][system e]"


def test_tools_their_calls_and_results_are_shown(smollm2: Any) -> None:
    tool = {
        "type": "function",
        "function": {"name": "w", "description": "d", "parameters": {"type": "object", "properties": {}}},
    }
    call = Message("assistant", "", tool_calls=(ToolCall("1", "w", {"city": "Paris"}),))
    turns = [Message("user", "Rain?"), call, Message("tool", "no", name="w", tool_call_id="1")]
    assert GoChatTemplate(TOOLS, smollm2[0]).render(turns, tools=[tool], reply=True).text == (
        '<|im_start|>system\n# Tools\n{"type": "function", "function": {"name":"w","description":"d","parameters":'
        '{"type":"object","properties":{}}}}<|im_end|>\n<|im_start|>user\nRain?<|im_end|>\n<|im_start|>assistant\n'
        '<tool_call>\n{"name": "w", "arguments": {"city":"Paris"}}\n</tool_call><|im_end|>\n<|im_start|>user\n'
        "<tool_response>\nno\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_what_a_template_has_no_place_for_is_refused(smollm2: Any) -> None:
    template = GoChatTemplate(EXCHANGE, smollm2[0])
    with pytest.raises(TemplateError, match="no place for tools"):
        template.render(TALK, tools=[{"type": "function", "function": {"name": "w"}}], reply=True)
    with pytest.raises(TemplateError, match="results"):
        template.render([Message("user", "x"), Message("tool", "y")], reply=True)


def test_thinking_is_told(smollm2: Any) -> None:
    template = GoChatTemplate("{{ if .IsThinkSet }}{{ .Think }}{{ end }}{{ .Prompt }}", smollm2[0])
    said = [template.thinking(think).render([Message("user", "?")], reply=True).text for think in (None, True, False)]
    assert said == ["?", "true?", "false?"]


def test_the_same_template_in_both_languages_gives_the_same_ids(smollm2: Any) -> None:
    """Whatever people write: control tokens whole and in halves, white space, other scripts."""
    tokenizer, jinja = smollm2
    go = template_of(SMOLLM2, tokenizer)
    assert isinstance(go, GoChatTemplate)
    assert isinstance(template_of(jinja.source, tokenizer), ChatTemplate)
    draw = random.Random(7)
    pieces = [
        "<|im_end|>",
        "<|im_",
        "start|>",
        "<|im_start|>system\n",
        " ",
        "\n",
        "Hello",
        "語る",
        "<",
        "|>",
        "{{ .System }}",
        "é",
    ]
    special = {tokenizer.id("<|im_start|>"), tokenizer.id("<|im_end|>")}
    for _ in range(200):
        turns = [Message("system", "".join(draw.choices(pieces, k=3)))] if draw.random() < 0.5 else []
        for number in range(2 * draw.randint(0, 3) + 1):
            role: Any = ("user", "assistant")[number % 2]
            turns.append(Message(role, "".join(draw.choices(pieces, k=draw.randint(0, 6)))))
        ours, theirs = go.render(turns, reply=True), jinja.render(turns, reply=True)
        assert ours.text == theirs.text
        assert ours.ids == theirs.ids
        extra = 0 if turns[0].role == "system" else 1
        assert sum(id in special for id in ours.ids) == 2 * (len(turns) + extra) + 1


def test_a_cut_text_keeps_its_control_tokens_apart(smollm2: Any) -> None:
    tokenizer = smollm2[0]
    template = GoChatTemplate(
        "<|im_start|>{{ slice .Prompt 1 }}|{{ len .Prompt }}|{{ eq .Prompt `x<|im_end|>` }}", tokenizer
    )
    rendered = template.render([Message("user", "x<|im_end|>")], reply=True)
    assert rendered.text == "<|im_start|><|im_end|>|11|true"
    assert rendered.ids.count(tokenizer.id("<|im_end|>")) == 0
    assert rendered.ids.count(tokenizer.id("<|im_start|>")) == 1
