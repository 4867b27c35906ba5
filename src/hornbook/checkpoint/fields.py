"""What a file's configuration says, as fields of ModelConfig: checked types, named errors, and the way back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from hornbook.errors import ModelFileError, StoreError, UnsupportedModel
from hornbook.model.config import ModelConfig

if TYPE_CHECKING:
    from hornbook.checkpoint.rules import TensorSource

REQUIRED = object()
T = TypeVar("T")


class Part(Protocol):
    """A part of what a configuration says, read and written by one object."""

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of ModelConfig; ``fields``: those that the parts before it have read."""
        ...

    def write(self, config: ModelConfig) -> dict[str, Any]:
        """The same in their words."""
        ...


class Words(NamedTuple):
    """The type of a value that is one of some words, or of other values of one type. Where two mean the same, the first is
    the one that is written."""

    ours: Mapping[Any, Any]

    def word(self, meant: Any) -> Any:
        """How ``meant`` is written; raises ValueError where there is no word for it."""
        for word, ours in self.ours.items():
            if ours == meant:
                return word
        raise ValueError(f"there is no word for {meant}")


class Key(NamedTuple):
    """A value of their configuration that is a field of ours. Without a default, which may be a function of the fields that
    have been read, it must be there. A null says nothing, as if it were not there; or, with ``null``, it says None."""

    theirs: str
    ours: str
    type: type | Words
    default: Any = REQUIRED
    older: str = ""  # what it was called before; read where the name of today says nothing
    null: bool = False

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        if self.null and self.theirs in raw and raw[self.theirs] is None:
            return {self.ours: None}
        name = self.older if raw.get(self.theirs) is None and raw.get(self.older) is not None else self.theirs
        default = self.default(fields) if callable(self.default) else self.default
        if isinstance(self.type, Words):
            word = read_key(raw, name, type(next(iter(self.type.ours))), default)
            return {self.ours: choose(self.type.ours, word, f"the {self.ours} ({name})")}
        return {self.ours: read_key(raw, name, self.type, default)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        value = getattr(config, self.ours)
        if value is None and not self.null and not isinstance(self.type, Words):
            return {}  # as a null says nothing, neither does no key; and GGUF has no nulls
        return {self.theirs: self.type.word(value) if isinstance(self.type, Words) else value}


class Implied(NamedTuple):
    """A field that no file says and that follows from those before it: one key head for each head."""

    ours: str
    value: Callable[[Mapping[str, Any]], Any]

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {self.ours: self.value(fields)}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {}


class Twice(NamedTuple):
    """A second name for a field that a Key has read; a file in which the two differ is refused."""

    theirs: str
    ours: str
    words: Words | None = None  # in which the second is said

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        first = fields[self.ours]
        key = Key(self.theirs, self.ours, type(first) if self.words is None else self.words)
        second = first if raw.get(self.theirs) is None else key.read(raw, source, fields)[self.ours]
        if second != first:
            raise UnsupportedModel(
                f"the model's {self.ours} is {first}, but its {self.theirs} {second}",
                "Take a model in which the two are alike.",
            )
        return {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        value = getattr(config, self.ours)
        return {self.theirs: value if self.words is None else self.words.word(value)}


class Rows(NamedTuple):
    """A size that a file says by a tensor that must be there: the first of its own."""

    tensor: str
    ours: str

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        if self.tensor not in source.tensors:
            raise ModelFileError(f"the model has no tensor {self.tensor}", "The file is incomplete: fetch it again.")
        return {self.ours: int(source.tensors[self.tensor].shape[0])}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {}


class Has(NamedTuple):
    """A field that a file says by a tensor that it holds or does not."""

    tensor: str
    ours: str
    there: Any = True
    absent: Any = False

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {self.ours: self.there if self.tensor in source.tensors else self.absent}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {}


class Only(NamedTuple):
    """A value that changes what a model computes, and of which one alone is known."""

    theirs: str
    value: Any
    otherwise: str  # what the model does that says something else: "divides its scores by ..."

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        said = raw.get(self.theirs)
        if said is not None and said != self.value:
            raise UnsupportedModel(
                f"this model {self.otherwise} ({self.theirs} is {said!r:.60})",
                f"Take a model whose {self.theirs} is {self.value!r}, as the published ones are.",
            )
        return {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {}


class Also(NamedTuple):
    """A second name for a field that another Key reads."""

    theirs: str
    ours: str

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {self.theirs: getattr(config, self.ours)}


def head_width(fields: Mapping[str, Any]) -> int:
    """The width of a head where none is said: the heads divide the model's."""
    return int(fields["width"]) // max(int(fields["heads"]), 1)


# Every head has keys of its own, and the heads divide the width.
DIVIDED = Implied("head_width", head_width)
MULTI_HEAD = (Implied("kv_heads", lambda fields: fields["heads"]), DIVIDED)


def read_key(raw: Mapping[str, Any], name: str, kind: type, default: Any = REQUIRED) -> Any:
    """``raw[name]``, an int, float, bool or str as asked for. Raises ModelFileError where it is missing or of another type."""
    value = raw.get(name)
    if value is None:
        if default is REQUIRED:
            raise ModelFileError(f"the model's configuration has no {name}", "The file is incomplete: fetch it again.")
        return default
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ModelFileError(
            f"{name} of the model's configuration is {value!r:.60}, which is not of type {kind.__name__}",
            "Fetch the model again, or take another file of it.",
        )
    return value


def read_nullable(raw: Mapping[str, Any], name: str, kind: type, absent: Any) -> Any:
    """As ``read_key``, for a value whose null says something: None where it is null, ``absent`` where nothing is said."""
    return read_key(raw, name, kind, None) if name in raw else absent


def choose(table: Mapping[Any, Any], name: str | int, what: str) -> Any:
    """``table[name]``. Raises UnsupportedModel, the nearest of the known first, where it is not there."""
    if name in table:
        return table[name]
    names = [str(known) for known in table]
    near = get_close_matches(str(name), names, n=3, cutoff=0.4)
    known = [*near, *sorted(set(names) - set(near))]
    raise UnsupportedModel(f"{what} {name!r} is not known", f"Known: {', '.join(known)}.")


def read_json(path: Path, kind: type[T]) -> T | None:
    """The object (``dict``) or ``list`` in a file, None where there is no such file. Raises ModelFileError for others."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:  # the last: objects nested too deeply
        raise ModelFileError(
            f"{path} cannot be read: {error}", "Fetch the model again, or take another file of it."
        ) from error
    if not isinstance(value, kind):
        raise ModelFileError(
            f"{path} does not hold a JSON {'object' if kind is dict else 'array'}",
            "Fetch the model again, or take another file of it.",
        )
    return value


def write_json(path: Path, value: object) -> None:
    """An object as readable JSON, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror or error}", "Look at the folder's rights."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
