"""What every way of loading a tokenizer produces: the model of the tokenizers library, and the facts around it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import processors

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
    """A tokenizer taken apart. ``backend`` has no truncation and no padding; its post-processor adds BOS and EOS.

    marks: the id of each role (bos, eos, unk, sep, pad, cls, mask) that the source names; a model without BOS and EOS of
    its own begins a text with cls and ends it with sep. names: tokens that the backend knows by another text.
    metadata: ``tokenizer.*`` of GGUF, where the source is such or says the same. files: what another program needs of
    the source word for word.
    """

    backend: Backend
    style: Style
    marks: Mapping[str, int] = field(default_factory=dict)
    stop_ids: frozenset[int] = frozenset()
    strips_first_space: bool = False
    tidies: bool = False
    literal: frozenset[int] = field(default_factory=frozenset)  # added tokens: their text is what they write
    names: Mapping[int, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] | None = None
    scores: np.ndarray | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def bos_id(self) -> int | None:
        return self.marks.get("bos", self.marks.get("cls"))

    @property
    def eos_id(self) -> int | None:
        return self.marks.get("eos", self.marks.get("sep"))


def surround(
    backend: Backend, first: str | None, last: str | None, between: Sequence[str] = (), *, second_type: int = 0
) -> processors.PostProcessor | None:
    """What puts tokens around a text; None where nothing is put. The tokens must be in the vocabulary.

    between: what stands between two texts, by default what ends one and begins another. second_type: the token type of
    the second text.
    """
    ends = [token for token in (first, last) if token is not None]
    if not ends:
        return None
    gap = list(between) or [token for token in (last, first) if token is not None]
    single = [*([f"{first}:0"] if first else []), "$A:0", *([f"{last}:0"] if last else [])]
    pair = [
        *([f"{first}:0"] if first else []),
        *["$A:0", *(f"{token}:0" for token in gap), f"$B:{second_type}"],
        *([f"{last}:{second_type}"] if last else []),
    ]
    ids = [(token, backend.token_to_id(token)) for token in dict.fromkeys([*ends, *gap])]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def stop_ids(ends: Iterable[int | None], control: dict[str, int]) -> frozenset[int]:
    """The ids that end a reply: the declared ones, and the control tokens (text -> id) that are known to mark an end.

    gpt-oss closes every channel with <|end|> and the reply with <|return|> or <|call|>: there <|end|> does not stop.
    """
    marks = {text: id for text, id in control.items() if text in END_MARKS}
    if {"<|return|>", "<|call|>", "<|end|>"} <= marks.keys():
        del marks["<|end|>"]
    return frozenset(id for id in ends if id is not None) | frozenset(marks.values())
