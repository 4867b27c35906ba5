"""What every way of loading a tokenizer produces: the model of the tokenizers library, and the facts around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tokenizers import Tokenizer as Backend

from hornbook.text.detokenize import Style

# Texts by which models mark the end of a turn or of a text, where their metadata does not say it (llama.cpp's list).
END_MARKS = frozenset(
    [
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<｜end▁of▁sentence｜>",
    ]
)


@dataclass(frozen=True, slots=True)
class Parts:
    """A tokenizer taken apart. ``backend`` has no truncation and no padding; its post-processor adds BOS and EOS."""

    backend: Backend
    style: Style
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    unk_id: int | None = None
    stop_ids: frozenset[int] = frozenset()
    strips_first_space: bool = False
    tidies: bool = False
    literal: frozenset[int] = field(default_factory=frozenset)  # added tokens: their text is what they write


def stop_ids(ends: Iterable[int | None], control: dict[str, int]) -> frozenset[int]:
    """The ids that end a reply: the declared ones, and the control tokens (text -> id) that are known to mark an end.

    gpt-oss closes every channel with <|end|> and the reply with <|return|> or <|call|>: there <|end|> does not stop.
    """
    marks = {text: id for text, id in control.items() if text in END_MARKS}
    if {"<|return|>", "<|call|>", "<|end|>"} <= marks.keys():
        del marks["<|end|>"]
    return frozenset(id for id in ends if id is not None) | frozenset(marks.values())
