"""What a model thinks before it answers, split from the answer while both still come.

    <think>The user greets me.</think>

    Hello!                                  -> thought "The user greets me.", answer "Hello!"

A thought stands at the beginning of a reply and nowhere else, so that an answer may speak of the marks. Many templates write
the opening mark themselves, at the end of the prompt: ``opened_by`` finds it there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from hornbook.engine.markers import Mark, cut
from hornbook.text.tokenizer import Tokenizer

# DeepSeek-R1, QwQ, Qwen3, SmolLM3 and most others; Magistral; Seed-OSS.
PAIRS = {"<think>": "</think>", "[THINK]": "[/THINK]", "<seed:think>": "</seed:think>"}
MARKS = frozenset([*PAIRS, *PAIRS.values()])
_TAIL = 16  # tokens of a prompt's end in which its last mark stands whole


class Split(NamedTuple):
    """What is certain now: text of the thought, and pieces (text, Mark) of the answer."""

    thought: str
    answer: tuple[str, ...]


NOTHING = Split("", ())


class Thinking:
    """One reply, piece by piece. ``opened``: the mark that the prompt ends with, where it has opened the thought.
    ``control``: the marks that are control tokens, of which only the token counts."""

    def __init__(self, opened: str | None = None, control: Collection[str] = ()) -> None:
        self._opens = [mark for mark in PAIRS if mark not in control]
        self._control = control
        self._close = "" if opened is None else PAIRS[opened]  # of the thought, once one was opened
        self._held = ""
        self._at_border = opened is not None  # white space behind a mark belongs to neither side
        self.is_done = False  # what comes now is the answer

    def push(self, piece: str) -> Split:
        """Take text or a Mark. A Mark that is none of a thought's goes on with the answer."""
        if self.is_done:
            return Split("", self._answer(piece))
        if isinstance(piece, Mark):
            return self._mark(piece)
        self._held += piece
        return self._inside() if self._close else self._beginning()

    def flush(self) -> Split:
        """The reply is over: release what was held back."""
        held, self._held = self._held, ""
        thinks = bool(self._close) and not self.is_done
        return Split(self._trimmed(held), ()) if thinks else Split("", (held,) if held else ())

    def _mark(self, mark: Mark) -> Split:
        held, self._held = self._held, ""
        if self._close:
            if mark == self._close:
                self.is_done = self._at_border = True
            return Split(self._trimmed(held) if held else "", ())
        if mark in PAIRS and not held.strip():
            self._open(str(mark))
            return NOTHING
        self.is_done = True
        return Split("", (held, mark) if held else (mark,))

    def _beginning(self) -> Split:
        """Does the reply begin with a thought?"""
        text = self._held.lstrip()
        for mark in self._opens:
            if text.startswith(mark):
                self._open(mark)
                self._held = text[len(mark) :]
                return self._inside()
        if any(mark.startswith(text) for mark in self._opens):  # nothing but white space, too
            return NOTHING
        held, self._held = self._held, ""
        self.is_done = True
        return Split("", (held,))

    def _inside(self) -> Split:
        before, mark, after = cut(self._held, [] if self._close in self._control else [self._close])
        thought = self._trimmed(before)
        if not mark:
            self._held = after
            return Split(thought, ())
        self._held = ""
        self.is_done = self._at_border = True
        return Split(thought, self._answer(after))

    def _open(self, mark: str) -> None:
        self._close, self._at_border = PAIRS[mark], True

    def _answer(self, piece: str) -> tuple[str, ...]:
        text = piece if isinstance(piece, Mark) else self._trimmed(piece)
        return (text,) if text else ()

    def _trimmed(self, text: str) -> str:
        if self._at_border:
            text = text.lstrip()
            self._at_border = not text
        return text


def opened_by(prompt: str | Sequence[int] | None, tokenizer: Tokenizer | None) -> str | None:
    """The mark of a thought that a prompt ends with, None where it opens none."""
    if prompt is None or (tokenizer is None and not isinstance(prompt, str)):
        return None
    if isinstance(prompt, str):
        tail = prompt
    else:
        assert tokenizer is not None
        tail = tokenizer.decode(list(prompt)[-_TAIL:], skip_special=False)
    return next((mark for mark in PAIRS if tail.rstrip().endswith(mark)), None)
