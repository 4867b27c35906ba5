"""A model in memory, and a lease of it: what a name's user has in hand.

Resident   the model itself, once, with what it can come to and who uses it
Loaded     one use of it, under a name that may add a system text, a template, parameters, an adapter
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.checkpoint.machine import give_back
from hornbook.checkpoint.meaning import Meaning
from hornbook.engine.prompts import with_own_turns
from hornbook.errors import ModelClosed, UnsupportedModel, UsageError
from hornbook.serve.writing import Writer
from hornbook.settings import Settings
from hornbook.text.go_chat import template_of
from hornbook.types import Message

if TYPE_CHECKING:
    from hornbook.checkpoint.store import Entry
    from hornbook.llm import LocalLLM
    from hornbook.retrieve.embed import LocalEmbedder
    from hornbook.serve.models import Models
    from hornbook.text.chat import ChatTemplate
    from hornbook.text.go_chat import GoChatTemplate


@dataclass(eq=False)
class Resident:
    """A model in memory. ``users``: leases; ``keep``: seconds that it stays when nobody has one."""

    entry: Entry
    bytes: int
    keep: float
    llm: LocalLLM | None = None
    embedder: LocalEmbedder | None = None
    writer: Writer | None = None
    users: int = 0
    used: float = 0.0  # when it was, by the loop's clock
    leaving: bool = False  # nobody new may have it
    expires: datetime | None = None
    timer: asyncio.TimerHandle | None = None
    adapters: dict[str, Path] = field(default_factory=dict)
    adapting: asyncio.Lock = field(default_factory=asyncio.Lock)
    templates: dict[str, ChatTemplate | GoChatTemplate] = field(default_factory=dict)  # of created models, by source

    def template(self, source: str) -> ChatTemplate | GoChatTemplate | None:
        """A created model's template with this model's tokenizer. Raises TemplateError."""
        if source not in self.templates and self.llm is not None:
            self.templates[source] = template_of(source, self.llm.tokenizer)
        return self.templates.get(source)

    def close(self) -> None:
        """Give its memory back. Blocking: for a thread."""
        if self.writer is not None:
            self.writer.close()
        for model in (self.llm, self.embedder):
            if model is not None:
                model.close()
        give_back()

    def stats(self) -> Any:
        if self.llm is None:
            return None
        try:
            return self.llm.stats()
        except ModelClosed:
            return None


class Loaded:
    """A model in somebody's use, with what its name asks for. It cannot be unloaded before ``release``, or the end of
    ``async with``; dropping it releases it too.

    ``system``, ``parameters`` and ``template`` are a created model's own; ``adapter`` is the name that its requests use.
    """

    def __init__(self, models: Models, resident: Resident, meaning: Meaning, keep_alive: float | None) -> None:
        self._resident: Resident | None = None
        self.name = meaning.name
        self.entry = resident.entry
        self.llm = resident.llm
        self.embedder = resident.embedder
        self.writer = resident.writer
        self.adapter = meaning.adapter[0] if meaning.adapter else None
        self.system = meaning.system
        self.parameters: Mapping[str, Any] = meaning.parameters
        self.template = None if meaning.template is None else resident.template(meaning.template)
        self.messages: Sequence[Message] = meaning.messages
        self._models = models
        self._resident = resident
        self._keep_alive = keep_alive

    def need_llm(self) -> LocalLLM:
        """Raises UsageError for an embedding model."""
        if self.llm is None:
            raise UsageError(f"{self.name} is an embedding model: it writes no text", "Choose a language model.")
        return self.llm

    def need_embedder(self) -> LocalEmbedder:
        """Raises UsageError for a language model."""
        if self.embedder is None:
            raise UsageError(f"{self.name} is a language model: it gives no embeddings", "Choose an embedding model.")
        return self.embedder

    def need_writer(self) -> Writer:
        self.need_llm()
        assert self.writer is not None
        return self.writer

    def with_own_turns(self, turns: Sequence[Message]) -> list[Message]:
        """A conversation, after what a created model says before each."""
        return with_own_turns(self.system, self.messages, turns)

    def release(self) -> None:
        """The model may go when all others have released it too. More than once does nothing."""
        resident, self._resident = self._resident, None
        if resident is not None:
            self._models.give_back(resident, self._keep_alive)

    async def __aenter__(self) -> Loaded:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        if self._resident is not None:
            self._models.soon(self.release)


def predicted(entry: Entry, settings: Settings, running: int) -> int:
    """Bytes that the model can come to, before it is loaded."""
    from hornbook.engine import forecast

    needed, _ = forecast.most(entry.path, settings, running=running)
    return needed


def load_model(entry: Entry, settings: Settings, running: int) -> LocalLLM | LocalEmbedder:
    """Raises what ``hornbook.load`` raises, and UnsupportedModel for what is neither a language model nor an embedder."""
    from hornbook.llm import LocalLLM, load
    from hornbook.retrieve.embed import LocalEmbedder

    model = load(entry.path, settings=settings, max_running=running)
    if not isinstance(model, LocalLLM | LocalEmbedder):
        model.close()
        raise UnsupportedModel(
            f"{entry.name} reads a text whole and writes another: the server runs language models and embedders",
            "Run it with: hornbook run",
        )
    model.name = entry.name
    return model
