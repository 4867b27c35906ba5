"""Parts of a configuration that are more than a value: a flag that decides on one, an object in the model, an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hornbook.checkpoint.fields import Part, read_key
from hornbook.checkpoint.rules import TensorSource
from hornbook.model.config import ModelConfig

# What a decoder has and its encoder never.
OUTSIDE = ("shared_tokens", "tied_head", "head_bias", "logit_scale", "logit_softcap")


class Switch(NamedTuple):
    """A flag that says whether a field is what ``on`` makes of those before it, or 1."""

    theirs: str
    ours: str
    on: Callable[[Mapping[str, Any]], float]
    default: bool | Callable[[Mapping[str, Any]], bool]

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        default = self.default(fields) if callable(self.default) else self.default
        return {self.ours: self.on(fields) if read_key(raw, self.theirs, bool, default) else 1.0}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {self.theirs: getattr(config, self.ours) != 1.0}


class Inner(NamedTuple):
    """A field that is an object with fields of its own, which ``parts`` say."""

    ours: str
    type: Callable[..., Any]
    parts: tuple[Part, ...]

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {self.ours: self.type(**_read(self.parts, raw, source, {}))}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """Raises ValueError where the model has no such object."""
        return _write(self.parts, getattr(config, self.ours), self.ours)


class Encoder(NamedTuple):
    """What reads the source: like its decoder in all that was read so far, but for what ``parts`` say of the encoder."""

    parts: tuple[Part, ...]

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        alike = {name: value for name, value in fields.items() if name not in OUTSIDE}
        alike |= {"causal": False, "language_head": False}
        return {"encoder": ModelConfig(**_read(self.parts, raw, source, alike))}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """Raises ValueError where the model has no encoder."""
        return _write(self.parts, config.encoder, "encoder")


def _read(
    parts: tuple[Part, ...], raw: Mapping[str, Any], source: TensorSource, fields: dict[str, Any]
) -> dict[str, Any]:
    for part in parts:
        fields = fields | part.read(raw, source, fields)
    return fields


def _write(parts: tuple[Part, ...], inner: Any, name: str) -> dict[str, Any]:
    if inner is None:
        raise ValueError(f"it has no {name}")
    return {theirs: value for part in parts for theirs, value in part.write(inner).items()}
