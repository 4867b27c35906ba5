"""One example at a time: every shape is cleaned in all its texts, or refused whole with the reason; the account adds up."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from hornbook.data.account import SHOWN, Ledger
from hornbook.data.cleaning import Cleaning, clean
from hornbook.data.contamination import Contamination
from hornbook.data.duplicates import similarity
from hornbook.data.example import Conversation, Example, Labelled, Pair, Place, Preference, Text
from hornbook.data.quality import Quality
from hornbook.data.read import Source, read
from hornbook.data.texts import rewritten, row, texts
from hornbook.types import Message, ToolCall

CALL = Message(
    "assistant", "", tool_calls=(ToolCall("c1", "mail", {"to": "a@b.org", "deep": [{"x": "8.8.8.8"}], "n": 3}),)
)
EXAMPLES: list[Example] = [
    Text("Plain text."),
    Conversation((Message("system", "Be kind."), Message("user", "Mail a@b.org"), CALL, Message("tool", "sent", "mail", tool_call_id="c1"),
                  Message("assistant", "Done.")), ({"type": "function", "function": {"name": "mail", "description": "x@y.org"}},)),
    Preference((Message("user", "Hi"),), Message("assistant", "Hello."), Message("assistant", "What?")),
    Preference((Message("user", "Hi"),), Message("assistant", "Hello."), None, True),
    Pair("ein Haus", "a house"),
    Labelled("A good film.", "good"),
    Labelled("It rains.", "entails", "The street is wet."),
]  # fmt: skip
QUESTION = "A train leaves the station at noon and travels west at sixty miles an hour for three hours"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: type(e).__name__)
def test_what_is_written_is_read_again_as_it_was(example: Example, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row(example)) + "\n", "utf-8")
    found = next(iter(read([Source(str(path))])))
    assert row(found) == row(example) and type(found) is type(example)


def test_all_texts_are_changed_and_nothing_else() -> None:
    chat = EXAMPLES[1]
    assert texts(chat) == ["Be kind.", "Mail a@b.org", "a@b.org", "8.8.8.8", "sent", "Done."]
    found = clean(chat, Cleaning())
    assert isinstance(found.example, Conversation) and isinstance(chat, Conversation)
    assert found.example.messages[1].content == "Mail [EMAIL]"
    assert found.example.messages[2].tool_calls[0].arguments == {"to": "[EMAIL]", "deep": [{"x": "[IP]"}], "n": 3}
    assert found.example.tools == chat.tools, "what a tool is called and does is no text of the conversation's"
    assert found.changes == {"private.EMAIL": 2, "private.IP": 1}
    assert [message.role for message in found.example.messages] == [message.role for message in chat.messages]
    for example in EXAMPLES:
        assert rewritten(example, lambda text: text) == example


def test_each_reason_is_told() -> None:
    table = Contamination.of({"trains": [[QUESTION]]})
    cleaning = Cleaning(languages=["en"], quality=Quality(["gopher.bullets"]), contamination=table)
    german = "Der Ausschuss tagte am Dienstag erneut, um über den Haushalt zu beraten."
    told = {
        clean(Text("\x00\ufeff"), cleaning).reason: "empty",
        clean(Text(german), cleaning).reason: "language.de",
        clean(Text("- one\n- two\n- three"), cleaning).reason: "quality.gopher.bullets",
        clean(Conversation((Message("user", f"{QUESTION}?"), Message("assistant", "180"))), cleaning).reason: "contamination.trains",
        clean(Preference((), Message("assistant", "cafe\u0301"), Message("assistant", "café")), cleaning).reason: "empty",
    }  # fmt: skip
    assert all(found == wanted for found, wanted in told.items()), told
    assert clean(Text("- one"), Cleaning(quality=None)).reason == ""


def test_short_answers_and_translations_are_not_judged_as_web_pages() -> None:
    cleaning = Cleaning(languages=["en"], unknown=True, quality=Quality())
    assert clean(Conversation((Message("user", "2+2?"), Message("assistant", "4"))), cleaning).example is not None
    assert clean(
        Pair("Der Ausschuss tagte am Dienstag erneut im Rathaus.", "The committee met again."), cleaning
    ).example
    assert clean(Text("4"), cleaning).reason == "quality.gopher.words"
    assert clean(Text("Hello"), Cleaning(languages=["en"], unknown=False)).reason == "language.unknown"


def test_keys_tell_labels_apart_and_signatures_do_not_see_marks() -> None:
    one, other = clean(Labelled("A film.", "good"), Cleaning()), clean(Labelled("A film.", "bad"), Cleaning())
    assert one.key != other.key and len(one.key) == 16
    assert clean(Text("A  FILM."), Cleaning()).key == clean(Text("a film."), Cleaning()).key
    assert clean(Text("a@b.org wrote"), Cleaning()).key != clean(Text("c@d.org wrote"), Cleaning()).key
    assert clean(Text("a"), Cleaning(near=None)).signature is None


def test_what_the_system_says_makes_no_two_conversations_alike() -> None:
    rules = Message("system", " ".join(f"rule{i}" for i in range(300)))
    chats = [
        Conversation((rules, Message("user", f"What is {n}?"), Message("assistant", n * 9))) for n in ("one", "two")
    ]
    one, other = (clean(chat, Cleaning()) for chat in chats)
    assert one.signature is not None and other.signature is not None
    assert float(similarity(one.signature, other.signature)) < 0.5


def test_the_account_adds_up_is_read_again_and_escapes_what_it_shows() -> None:
    ledger = Ledger()
    for i in range(6):
        ledger.came(10, "en")
        if i % 2:
            ledger.went(
                "quality.<b>", 10, place=Place("a.jsonl", i), detail="<i>", excerpt="<script>alert(1)</script>" * 20
            )
        else:
            ledger.stayed("train", 10, tokens=3)
    ledger.change(Counter({"private.EMAIL": 2}))
    ledger.skipped(Place("a.jsonl", 9), "not JSON")
    said = ledger.as_dict()
    assert said["read"]["examples"] == said["kept"]["train"]["examples"] + said["gone"]["quality.<b>"]["examples"]
    assert len(said["gone"]["quality.<b>"]["samples"]) == SHOWN == 3
    assert said["kept"]["train"] == {"examples": 3, "characters": 30, "tokens": 9}
    assert said["changes"] == {"private.EMAIL": {"examples": 1, "times": 2}}
    assert Ledger.of(json.loads(json.dumps(said))).as_dict() == said
    page = ledger.page("A <corpus>")
    assert (
        "<script>" not in page
        and "&lt;script&gt;" in page
        and "A &lt;corpus&gt;" in page
        and "Malformed lines: 1" in page
    )
    assert ledger.rows()[0] == ("read", "6", "100.0%", "60") and len(ledger.rows()) == 3
