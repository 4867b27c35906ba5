"""What training data is made of: five kinds of examples, each with the place in the file where it was read.

Text            to be continued: pre-training                            Conversation   whose assistant is imitated
Pair            a source and the target that is written for it           Labelled       a text, or two, and its class
Preference      two answers to one prompt of which one is better, or one answer that was judged
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from hornbook.types import Message


class Place(NamedTuple):
    """Where an example stands: ``line`` is from 1, and of a Parquet file the row."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}, {'row' if '.parquet' in self.file.lower() else 'line'} {self.line}"


@dataclass(frozen=True, slots=True)
class Text:
    text: str
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in an order that chat templates accept, at least one of them the assistant's. ``tools``: as OpenAI has them."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Preference:
    """``rejected`` is None where there is one answer only; ``label`` then says whether it was a good one."""

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message | None
    label: bool | None = None
    place: Place | None = None
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    source: str
    target: str
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Labelled:
    """``second``: the other text, where two are judged together (a premise and a hypothesis)."""

    text: str
    label: str
    second: str | None = None
    place: Place | None = None


Example: TypeAlias = Text | Conversation | Preference | Pair | Labelled
