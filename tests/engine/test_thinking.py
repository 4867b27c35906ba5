"""A thought is told apart from the answer, wherever the text is cut, and an answer may speak of the marks."""

from __future__ import annotations

import random

import pytest

from hornbook.engine.markers import Mark
from hornbook.engine.thinking import Thinking, opened_by


def split(*pieces: str, opened: str | None = None, control: tuple[str, ...] = ()) -> tuple[str, str]:
    """(thought, answer): control tokens that went on with the answer are spelled <<...>>."""
    thinking = Thinking(opened, control)
    parts = [thinking.push(piece) for piece in pieces] + [thinking.flush()]
    answer = [f"<<{piece}>>" if isinstance(piece, Mark) else piece for part in parts for piece in part.answer]
    return "".join(part.thought for part in parts), "".join(answer)


CASES = [
    ("<think>\nHm, 好.\n</think>\n\nHello\n", None, "Hm, 好.\n", "Hello\n"),
    ("Hm.</think>Hello", "<think>", "Hm.", "Hello"),
    ("\n<think></think>Hello", None, "", "Hello"),
    ("  Hello <think>no</think>", None, "", "  Hello <think>no</think>"),
    ("<think>a</think>b <think>c</think>", None, "a", "b <think>c</think>"),
    ("<think>a </thin b", None, "a </thin b", ""),
    ("<thinking>", None, "", "<thinking>"),
    ("<thi", None, "", "<thi"),
    ("\n ", None, "", "\n "),
    ("[THINK]a</think>[/THINK]b", None, "a</think>", "b"),
    ("", "<think>", "", ""),
]


@pytest.mark.parametrize(("text", "opened", "thought", "answer"), CASES)
def test_a_thought_is_told_from_its_answer_however_the_text_is_cut(
    text: str, opened: str | None, thought: str, answer: str
) -> None:
    assert split(text, opened=opened) == (thought, answer)
    assert split(*text, opened=opened) == (thought, answer)
    for seed in range(5):
        r = random.Random(seed)
        cuts = sorted(r.choices(range(len(text) + 1), k=3))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert split(*pieces, opened=opened) == (thought, answer)


def test_text_goes_on_at_once_where_no_mark_can_begin() -> None:
    thinking = Thinking()
    assert thinking.push("Hel").answer == ("Hel",)
    assert thinking.push("<thi").answer == ("<thi",)
    inside = Thinking("<think>")
    assert inside.push("Hm <").thought == "Hm "
    assert inside.push("b").thought == "<b"


def test_where_marks_are_tokens_their_letters_are_letters() -> None:
    open_, close = Mark("[THINK]"), Mark("[/THINK]")
    both = (str(open_), str(close))
    pieces = [open_, "a [/THINK] b", close, "\nHi", close]
    assert split(*pieces, control=both) == ("a [/THINK] b", "Hi<<[/THINK]>>")
    assert split("[THINK]a[/THINK]b", control=both) == ("", "[THINK]a[/THINK]b")
    assert split("<thi", Mark("[TOOL_CALLS]"), "x") == ("", "<thi<<[TOOL_CALLS]>>x")
    assert split("a", Mark("[ARGS]"), "b", opened="[THINK]", control=both) == ("ab", "")


def test_a_prompt_may_open_the_thought() -> None:
    assert opened_by("...<|im_start|>assistant\n<think>\n", None) == "<think>"
    assert opened_by("<think>\n\n</think>\n\n", None) is None
    assert opened_by(None, None) is None and opened_by([1, 2], None) is None
