"""One tensor under several names: old files hold a table of tokens once more for each part that uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from hornbook.checkpoint.rules import TensorSource
from hornbook.errors import UnsupportedModel
from hornbook.model.config import ModelConfig

ROWS = 1024  # that are compared at a time


class Tied(NamedTuple):
    """``tied_head``: whether the file holds no ``head``, or in it a copy of the table, which has one of the names ``tables``."""

    head: str
    tables: tuple[str, ...]

    def read(self, raw: Mapping[str, Any], source: TensorSource, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"tied_head": is_copy(source, self.head, original_of(source, self.tables))}

    def write(self, config: ModelConfig) -> dict[str, Any]:
        return {}


def original_of(source: TensorSource, names: Sequence[str]) -> str:
    """The first of ``names`` that the file holds: old files hold one tensor under several names, or under any of them.

    Raises UnsupportedModel where another is no copy of it.
    """
    held = [name for name in names if name in source.tensors] or [names[0]]
    for name in held[1:]:
        if not is_copy(source, name, held[0]):
            raise UnsupportedModel(
                f"{name} is not a copy of {held[0]}, though the configuration says that they are one",
                "It is a variant that Hornbook does not know: take the plain model of this family.",
            )
    return held[0]


def is_copy(source: TensorSource, name: str, original: str) -> bool:
    """Whether the file holds no tensor ``name``, or holds in it what it holds in ``original``."""
    if name not in source.tensors or original not in source.tensors:
        return name not in source.tensors
    first, second = source.tensor(original), source.tensor(name)
    if first.shape != second.shape:
        return False
    # Some rows at a time: the first that differ are enough.
    return all(np.array_equal(first[i : i + ROWS], second[i : i + ROWS]) for i in range(0, len(first), ROWS))
