"""What a file's configuration says, as fields of ModelConfig: checked types, named errors, and the way back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.model.config import ModelConfig

REQUIRED = object()


class Key(NamedTuple):
    """A value of their configuration that is a field of ours. Without a default it must be there."""

    theirs: str
    ours: str
    type: type
    default: Any = REQUIRED


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


def read_keys(raw: Mapping[str, Any], keys: Iterable[Key]) -> dict[str, Any]:
    """The fields of ModelConfig that ``keys`` name."""
    return {key.ours: read_key(raw, key.theirs, key.type, key.default) for key in keys}


def write_keys(config: ModelConfig, keys: Iterable[Key]) -> dict[str, Any]:
    """The inverse of ``read_keys``."""
    return {key.theirs: getattr(config, key.ours) for key in keys}


def choose(table: Mapping[Any, Any], name: str | int, what: str) -> Any:
    """``table[name]``. Raises UnsupportedModel, the nearest of the known first, where it is not there."""
    if name in table:
        return table[name]
    names = [str(known) for known in table]
    near = get_close_matches(str(name), names, n=3, cutoff=0.4)
    known = [*near, *sorted(set(names) - set(near))]
    raise UnsupportedModel(f"{what} {name!r} is not known", f"Known: {', '.join(known)}.")
