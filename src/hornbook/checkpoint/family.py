"""How one architecture is written in one format: a row of data that is read in both directions.

    config.json or GGUF metadata  --read_config-->  ModelConfig  --write_config-->  the same again
    names of tensors              --maps-->         parameters   --maps-->          the same again

``keys`` are what a file says, part by part (see ``fields``), each of which may look at what those before it have read;
``shape`` is what all models of the family have and no file says; ``read`` and ``write`` are for what no part can say.
A family that a model does not fit is found out: what is written is read again and must be the same configuration.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from hornbook.checkpoint.fields import Part, read_key
from hornbook.checkpoint.rules import Table, TensorSource, override
from hornbook.errors import HornbookError, ModelFileError, UnsupportedModel
from hornbook.model.config import MAX_LAYERS, ModelConfig

Fields = dict[str, Any]
AGAIN = "Fetch the model again, or take another file of it."
MAX_LABELS = 1 << 20  # a file that says more is damaged
# What no file need say of a model for it to compute the same.
UNSAID = ("dropout", "attention_dropout", "pooling", "classifier")


class Family(NamedTuple):
    name: str  # config.json's model_type, or GGUF's general.architecture
    keys: tuple[Part, ...]
    maps: Table | Callable[[ModelConfig], Table]
    shape: Mapping[str, Any] = {}
    read: Callable[[Mapping[str, Any], TensorSource, Fields], Fields] = lambda raw, source, fields: {}
    write: Callable[[ModelConfig], dict[str, Any]] = lambda config: {}
    heads: Mapping[
        str, Mapping[str, Any]
    ] = {}  # classes of transformers: the fields that each implies; the usual first
    prefix: str = ""  # what stands before the names that begin with a dot, in a model with a head
    unused: tuple[str, ...] = ()  # regular expressions of names that hold nothing of ours
    aliases: tuple[tuple[str, str], ...] = ()  # (regular expression, replacement): older names for the same tensors
    older: tuple[tuple[str, Table], ...] = ()  # (regular expression, the maps of a file that has a tensor so named)
    twin: str | Callable[[ModelConfig], str | None] | None = None  # the family's name in the other format

    def read_config(self, raw: Mapping[str, Any], source: TensorSource) -> ModelConfig:
        """The model's configuration; raises ModelFileError or UnsupportedModel, whatever the file says."""
        try:
            said: Fields = dict(self.shape)
            for part in self.keys:
                said |= part.read(raw, source, said)
                if said.get("layers", 0) > MAX_LAYERS:  # before anything is made for each of them
                    raise ModelFileError(
                        f"the model has {said['layers']:,} layers", f"It may have {MAX_LAYERS:,} at most."
                    )
            said |= self._head(raw)
            return ModelConfig(**said | self.read(raw, source, said))
        except HornbookError:
            raise
        except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
            raise ModelFileError(f"the model's configuration cannot be understood: {error}", AGAIN) from error

    def write_config(self, config: ModelConfig, source: TensorSource) -> dict[str, Any]:
        """What a file says of ``config``; ``source``: the tensors that stand beside it.

        Raises UnsupportedModel where this family has no words for it.
        """
        try:
            raw = self._class(config) | self.write(config)
            for part in self.keys:
                raw = part.write(config) | raw
            again = self.read_config(raw, source)
        except (HornbookError, ValueError, AssertionError) as error:
            what = error.what if isinstance(error, HornbookError) else str(error)
            raise UnsupportedModel(
                f"the model cannot be written as {self.name}: {what}", "Take the format that it came from."
            ) from error
        lost = _unlike(again, config)
        if lost:
            raise UnsupportedModel(
                f"the model cannot be written as {self.name}, which has no words for its {', '.join(lost)} "
                f"({', '.join(f'{getattr(config, name)} would be read as {getattr(again, name)}' for name in lost[:1])})",
                "Take the format that it came from.",
            )
        return raw

    def table(self, config: ModelConfig, names: Iterable[str] = ()) -> Table:
        """The maps; ``names``: of the tensors of a file that is read."""
        maps = self.maps(config) if callable(self.maps) else self.maps
        for pattern, changes in self.older:
            if any(re.fullmatch(pattern, name) for name in names):
                maps = override(maps, *changes)
        return maps

    def twin_of(self, config: ModelConfig) -> str | None:
        """The name of the family in the other format that this model is written as; None: that format has none."""
        return self.twin(config) if callable(self.twin) else self.twin

    # ------------------------------------------------------------------------------------- transformers' classes

    def _head(self, raw: Mapping[str, Any]) -> Fields:
        """The fields that the class named in ``architectures`` implies, the first known one's where none is named."""
        if not self.heads:
            return {}
        named = [name for name in raw.get("architectures") or [] if isinstance(name, str)]
        if named and named[0] not in self.heads:
            raise UnsupportedModel(f"the model is a {named[0]}", f"Known of this family: {', '.join(self.heads)}.")
        head = dict(self.heads[named[0] if named else next(iter(self.heads))])
        if head.get("classifier") is not None:
            head["classifier"] = replace(head["classifier"], labels=_labels(raw))
        return head

    def _class(self, config: ModelConfig) -> dict[str, Any]:
        if not self.heads:
            return {}
        labels = () if config.classifier is None else config.classifier.labels
        plain = (
            config if config.classifier is None else replace(config, classifier=replace(config.classifier, labels=()))
        )
        for name, implied in self.heads.items():
            if all(getattr(plain, field) == value for field, value in implied.items()):
                said: dict[str, Any] = {"architectures": [name]}
                if labels:
                    said |= {"id2label": {str(i): label for i, label in enumerate(labels)}}
                    said |= {"label2id": {label: i for i, label in enumerate(labels)}}
                return said
        raise ValueError(f"none of {', '.join(self.heads)} has such a head")


def _unlike(one: ModelConfig, other: ModelConfig) -> list[str]:
    """The fields, of those that a file must say, in which two configurations differ."""
    names = [f.name for f in fields(ModelConfig) if f.name not in UNSAID]
    differ = [name for name in names if getattr(one, name) != getattr(other, name)]
    if one.encoder is not None and other.encoder is not None and not _unlike(one.encoder, other.encoder):
        return [name for name in differ if name != "encoder"]
    return differ


def _labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the labels, in order: ``id2label``, or as many as ``num_labels`` says, two where nothing is said."""
    named = raw.get("id2label")
    if named is None or named == {}:
        count = read_key(raw, "num_labels", int, 2)
        if not 1 <= count <= MAX_LABELS:
            raise ModelFileError(f"the model has {count:,} labels (num_labels)", f"It may have 1 to {MAX_LABELS:,}.")
        return tuple(f"LABEL_{i}" for i in range(count))
    if not isinstance(named, Mapping) or len(named) > MAX_LABELS:
        raise ModelFileError(f"id2label is {named!r:.60}, not an object of at most {MAX_LABELS:,} labels", AGAIN)
    labels = {str(number): label for number, label in named.items()}
    for i in range(len(named)):
        if not isinstance(labels.get(str(i)), str):
            said = f"the label {labels[str(i)]!r:.60} for {i}" if str(i) in labels else f"no label for {i}"
            raise ModelFileError(f"id2label has {said} of its {len(named)}", "It must have a text for each from 0.")
    return tuple(labels[str(i)] for i in range(len(named)))
