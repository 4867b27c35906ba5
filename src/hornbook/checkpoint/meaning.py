"""What the name of a model stands for: weights, and what its use adds to them. The same for the server and the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hornbook.checkpoint.created import Created, CreatedModels
from hornbook.checkpoint.manifest import Entry
from hornbook.checkpoint.modelfile import Value
from hornbook.types import Message


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name stands for. ``adapter``: (name, folder)."""

    name: str
    entry: Entry
    adapter: tuple[str, Path] | None = None
    system: str | None = None
    parameters: Mapping[str, Value] = field(default_factory=dict)
    template: str | None = None  # its source; a tokenizer is needed to make one of it
    messages: tuple[Message, ...] = ()

    @classmethod
    def of(cls, made: Created, created: CreatedModels) -> Meaning:
        """That of a created model. Raises ModelFileError where what it points at is gone or changed."""
        said, folder = made.modelfile, created.adapter(made)
        return cls(
            name=made.name,
            entry=created.entry(made),
            adapter=None
            if folder is None or made.adapter is None
            else (f"{folder} {made.adapter.sha256[:12]}", folder),
            system=said.system,
            parameters=said.parameters,
            template=said.template,
            messages=tuple(Message.of({"role": role, "content": text}) for role, text in said.messages),
        )
