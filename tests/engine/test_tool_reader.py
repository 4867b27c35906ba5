"""Calls are read as models write them, piece by piece, and what is none stays text."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from hornbook.engine.markers import Mark
from hornbook.engine.tool_formats import HERMES, LLAMA, MISTRAL, NAMED, Format
from hornbook.engine.tool_reader import CallBegin, CallDelta, CallEnd, CallReader, TextDelta

TOOLS = {
    "search": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
    "now": {"type": "object"},
}
Heard = tuple[str, list[tuple[str, str, str | None]]]


def heard(format: Format, *pieces: str, control: tuple[str, ...] = (), cut_short: bool = False) -> Heard:
    """(the text, each call's name, arguments and problem). The events' own laws are checked."""
    reader = CallReader(format, TOOLS, frozenset(control))
    events: list[Any] = [event for piece in pieces for event in reader.push(piece)] + reader.end(cut_short=cut_short)
    text, calls, ids = "", [], set()
    begun: CallBegin | None = None
    arguments = ""
    for event in events:
        if isinstance(event, TextDelta):
            assert event.text and begun is None
            text += event.text
        elif isinstance(event, CallBegin):
            assert begun is None and event.index == len(calls)
            begun, arguments = event, ""
            ids.add(event.id)
        elif isinstance(event, CallDelta):
            assert begun is not None and event.arguments
            arguments += event.arguments
        else:
            assert isinstance(event, CallEnd) and begun is not None
            call = event.call
            assert (call.index, call.id, call.name) == (begun.index, begun.id, begun.name)
            assert call.arguments == arguments
            calls.append((call.name, call.arguments, call.problem))
            begun = None
    assert begun is None and len(ids) == len(calls)
    return text, calls


def cuts(text: str) -> list[list[str]]:
    """The text whole, letter by letter, and cut at random."""
    found = [[text], list(text)]
    for seed in range(8):
        places = sorted(random.Random(seed).choices(range(len(text) + 1), k=6))
        found.append([text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)])
    return found


SEARCH = ("search", '{"q": "a"}', None)
OBJECT = '{"name": "search", "arguments": {"q": "a"}}'
CASES: list[tuple[Format, str, str, list[tuple[str, str, str | None]]]] = [
    (HERMES, f"Hm.\n<tool_call>\n{OBJECT}\n</tool_call>", "Hm.\n", [SEARCH]),
    (HERMES, f"<tool_call>{OBJECT}</tool_call>\n<tool_call>{OBJECT}</tool_call>\n", "", [SEARCH, SEARCH]),
    (HERMES, f"<tool_call>[{OBJECT}, {OBJECT}]</tool_call> Done.", " Done.", [SEARCH, SEARCH]),
    (HERMES, f"<tool_call>{OBJECT}<tool_call>{OBJECT}", "", [SEARCH, SEARCH]),
    (HERMES, '<tool_call>{"arguments": {"q": "a"}, "name": "search"}</tool_call>', "", [SEARCH]),
    (HERMES, '<tool_call>{"name": "search", "parameters": "{\\"q\\": \\"a\\"}"}</tool_call>', "", [SEARCH]),
    (HERMES, '<tool_call>{"type": "function", "function": {"name": "search", "arguments": {"q": "a"}}}</tool_call>', "", [SEARCH]),
    (HERMES, '<tool_call>{"name": "now"}</tool_call>', "", [("now", "{}", None)]),
    (HERMES, '<tool_call>{"name": "search", "arguments": {"q": "</tool_call>{\\"} 好"}}</tool_call>', "",
     [("search", '{"q": "</tool_call>{\\"} 好"}', None)]),
    (HERMES, "<tool_call>no call</tool_call> but text", "<tool_call>no call</tool_call> but text", []),
    (HERMES, f"<tool_call>x</tool_call><tool_call>{OBJECT}</tool_call>", "<tool_call>x</tool_call>", [SEARCH]),
    (HERMES, "<tool_call>{'name': 'search'}", "<tool_call>{'name': 'search'}", []),
    (HERMES, '<tool_call>{"name": 5}</tool_call>', '<tool_call>{"name": 5}</tool_call>', []),
    (HERMES, '<tool_call>{"arguments": {}}</tool_call>', '<tool_call>{"arguments": {}}</tool_call>', []),
    (HERMES, "a <tool_cal", "a <tool_cal", []),
    (HERMES, OBJECT, OBJECT, []),
    (HERMES, '<tool_call>{"name": "search", "arguments": {"q": 5}}</tool_call>', "", [("search", '{"q": 5}', "q: 5 is not a string")]),
    (HERMES, '<tool_call>{"name": "fly", "arguments": {}}</tool_call>', "", [("fly", "{}", "there is no tool called 'fly'")]),
    (HERMES, '<tool_call>{"name": "now", "arguments": [1]}</tool_call>', "", [("now", "[1]", "its arguments are no object: [1]")]),
    (HERMES, '<tool_call>{"name": "now", "arguments": {"a": 1', "", [("now", '{"a": 1', "it was cut short")]),
    (LLAMA, '{"name": "search", "parameters": {"q": "a"}}', "", [SEARCH]),
    (LLAMA, ' {"type": "function", "name": "search", "parameters": {"q": "a"}}; {"name": "now", "parameters": {}}', "",
     [SEARCH, ("now", "{}", None)]),
    (LLAMA, '<|python_tag|>{"name": "search", "parameters": {"q": "a"}}', "", [SEARCH]),
    (LLAMA, '\n{"name": "someone", "age": 5}', '\n{"name": "someone", "age": 5}', []),
    (LLAMA, '{"answer": {"name": "search"}}', '{"answer": {"name": "search"}}', []),
    (LLAMA, 'Say {"name": "search", "parameters": {}}', 'Say {"name": "search", "parameters": {}}', []),
    (LLAMA, "<|python_tag|>print(1)", "<|python_tag|>print(1)", []),
    (MISTRAL, f"[TOOL_CALLS] [{OBJECT}, {OBJECT}]", "", [SEARCH, SEARCH]),
    (MISTRAL, f"[TOOL_CALLS]{OBJECT}", "", [SEARCH]),
    (NAMED, 'Hm.[TOOL_CALLS]search[ARGS]{"q": "a"}[TOOL_CALLS]now[CALL_ID]123456789[ARGS] {}', "Hm.", [SEARCH, ("now", "{}", None)]),
    (NAMED, "[TOOL_CALLS]search for it", "[TOOL_CALLS]search for it", []),
    (NAMED, "[TOOL_CALLS]search[ARGS]x", "x", [("search", "", "what follows its arguments is no JSON")]),
]  # fmt: skip


@pytest.mark.parametrize(("format", "text", "said", "calls"), CASES)
def test_calls_are_read_however_the_text_is_cut(format: Format, text: str, said: str, calls: list[Any]) -> None:
    for pieces in cuts(text):
        assert heard(format, *pieces) == (said, calls), pieces


def test_marks_that_are_tokens_are_not_the_letters() -> None:
    mark, args = Mark("[TOOL_CALLS]"), Mark("[ARGS]")
    both = (str(mark), str(args))
    assert heard(MISTRAL, "Hm.", mark, f"[{OBJECT}]", control=both) == ("Hm.", [SEARCH])
    assert heard(NAMED, mark, "sea", "rch", args, '{"q": ', '"a"}', mark, "now", args, "{}", control=both) == (
        "",
        [SEARCH, ("now", "{}", None)],
    )
    spelled = f"a document says [TOOL_CALLS][{OBJECT}]"
    assert heard(MISTRAL, *spelled, control=both) == (spelled, [])


def test_text_goes_on_at_once_and_half_a_mark_never_does() -> None:
    reader = CallReader(HERMES, TOOLS, frozenset())
    assert reader.push("Hello") == [TextDelta("Hello")]
    assert reader.push(" a < b <tool") == [TextDelta(" a < b ")]
    assert reader.push("_box>") == [TextDelta("<tool_box>")]
    assert reader.push("<tool_call") == []
    assert reader.push('>{"name": "sea') == []
    (begin,) = reader.push('rch"')
    assert isinstance(begin, CallBegin) and begin.name == "search"
    assert reader.push(', "arguments": {"q') == [CallDelta(0, '{"q')]


def test_a_call_that_is_cut_before_its_name_is_no_text() -> None:
    for cut in ("<tool_call>", '<tool_call>\n{"na', '<tool_call>{"name": "sear'):
        assert heard(HERMES, cut, cut_short=True) == ("", [])
        assert heard(HERMES, cut)[0] == cut
    assert heard(LLAMA, '{"name": "sear', cut_short=True) == ('{"name": "sear', [])


def test_anything_at_all_is_read_and_nothing_is_lost() -> None:
    """Broken calls of every kind: no exception, the same however cut, and all text outside of calls is there."""
    parts = [
        "<tool_call>",
        "</tool_call>",
        OBJECT,
        '{"name": ',
        '"now"',
        ", ",
        "[",
        "]",
        "}",
        "{",
        '"',
        "\\",
        "hi",
        "\n",
        "5",
        ":",
    ]
    for seed in range(600):
        r = random.Random(seed)
        text = "".join(r.choices(parts, k=r.randint(1, 9)))
        whole = heard(HERMES, text)
        assert all(heard(HERMES, *pieces) == whole for pieces in cuts(text)[1:4]), text
        if not whole[1]:
            assert whole[0] == text
        for _, arguments, problem in whole[1]:
            assert problem is not None or isinstance(json.loads(arguments), dict)
