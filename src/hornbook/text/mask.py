"""Which characters of a rendered conversation the assistant wrote, for the loss.

A template may say it itself ({% generation %}). Where it does not, prefixes of the conversation tell it: what was
there before the assistant's turn, with the header that asks for a reply, and what is there after it.

    text     <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nHello<|im_end|>\\n<|im_start|>user\\n...
    before   ------------------------------------------------------>|
    after    ------------------------------------------------------------------------->|
    span                                                            |---------------|      up to the end-of-turn token

That only holds if the prefixes are prefixes. A template that rewrites earlier turns (Qwen 3 takes out what an earlier
turn thought) breaks the second; then the span ends with the first end-of-turn token, if what lies between is what the
turn says. Anything else is an error: a wrong mask trains the model on the user's words and nobody notices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hornbook.errors import TemplateError

Span = tuple[int, int]  # half-open range of characters
_REMEDY = "Train on one turn at a time, or use a template that marks the assistant's text with {% generation %}."


def assistant_spans(
    text: str, turns: Sequence[dict[str, Any]], render: Callable[[int, bool], str], stops: Sequence[Span]
) -> list[Span]:
    """The spans of ``text`` that the assistant wrote, end-of-turn tokens included.

    ``render(count, reply)`` renders the first ``count`` turns, ``stops`` are the places of end-of-turn tokens in
    ``text``, in order. Raises TemplateError where the spans cannot be told.
    """
    spans = []
    for at, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        before = render(at, True)
        if not text.startswith(before):
            raise TemplateError(
                f"the chat template rewrites what stands before message {at + 1}, so its tokens cannot be told apart",
                _REMEDY,
            )
        start = len(before)
        after = render(at + 1, False)
        if text.startswith(after) and len(after) >= start:
            ends = [stop for stop in stops if start <= stop[0] and stop[1] <= len(after)]
            spans.append((start, ends[-1][1] if ends else len(after)))
            continue
        end = next((stop for stop in stops if stop[0] >= start), None)
        if end is None or not _says(turn, text[start : end[0]]):
            raise TemplateError(
                f"the chat template rewrites message {at + 1} when others follow, so its tokens cannot be told apart",
                _REMEDY,
            )
        spans.append((start, end[1]))
    return spans


def _says(turn: dict[str, Any], segment: str) -> bool:
    """Whether a stretch of text is what this turn says, perhaps without something that stood in front."""
    content, segment = turn["content"].strip(), segment.strip()
    return not turn.get("tool_calls") and bool(segment) and (content.endswith(segment) or segment.endswith(content))
