"""That a model file is the model that its configuration describes: every name and every shape, before anything is read.

A name that the family's rules do not know, one that they miss, a shape that contradicts the configuration: each is an
error that says which.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from hornbook.checkpoint.family import AGAIN, Family
from hornbook.checkpoint.rules import Reshaped, Rule, TensorSource, expand
from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.model.config import ModelConfig

Shape = tuple[int, ...]
# Numbers without a size: an array of them has a shape, takes no memory, and may be cut, joined and moved at no cost.
_BLANK = np.dtype([])


class Fitted(NamedTuple):
    """``rules`` that fill every parameter; ``names``: of each tensor in them the file's own."""

    rules: list[Rule]
    names: Mapping[str, str]


def fit(config: ModelConfig, family: Family, source: TensorSource, shapes: Mapping[str, Shape]) -> Fitted:
    """The rules that make the parameters of ``shapes`` from the tensors of ``source``.

    Raises ModelFileError where a tensor is missing or of another shape, UnsupportedModel where there is one too many.
    """
    rules = expand(family.table(config, source.tensors), config, shapes)
    names = _their_names(rules, source, family)
    _check_names(rules, names, family.unused)
    for rule in rules:
        _check_shapes(rule, names, source, shapes)
    return Fitted(rules, names)


def _their_names(rules: list[Rule], source: TensorSource, family: Family) -> dict[str, str]:
    """The name in the rules -> the name in the file: today's spelling, and a dot in place of the prefix."""
    used = {name for rule in rules for name in rule.theirs}
    names: dict[str, str] = {}
    for name in source.tensors:
        today = name
        for old, new in family.aliases:
            today = re.sub(old, new, today)
        if today != name and (today in source.tensors or today in names):
            today = name  # a copy, which stands beside the tensor itself
        if family.prefix and today.startswith(f"{family.prefix}."):
            today = today.removeprefix(family.prefix)
        elif f".{today}" in used:
            today = f".{today}"
        if today in names:
            raise ModelFileError(f"the model has {names[today]} and {name}, which are the same tensor", AGAIN)
        names[today] = name
    return names


def _check_names(rules: list[Rule], names: Mapping[str, str], unused: tuple[str, ...]) -> None:
    used = {name for rule in rules for name in rule.theirs}
    missing = sorted(name.removeprefix(".") for name in used - names.keys())
    if missing:
        raise ModelFileError(f"the model has no {_some(missing)}", AGAIN)
    spare = re.compile("|".join(unused) or r"(?!)")
    strange = sorted(names[name] for name in names.keys() - used if not spare.fullmatch(name.removeprefix(".")))
    if strange:
        raise UnsupportedModel(
            f"the model has tensors that its architecture does not use: {_some(strange)}",
            "It is a variant that Hornbook does not know: take the plain model of this family.",
        )


def _check_shapes(rule: Rule, names: Mapping[str, str], source: TensorSource, shapes: Mapping[str, Shape]) -> None:
    """The inverse transform, on arrays without memory, says what shapes the file must have."""
    expected = rule.transform.theirs(tuple(map(_blank, (shapes[name] for name in rule.ours))))
    for name, tensor in zip(rule.theirs, expected, strict=True):
        shape = tuple(source.tensors[names[name]].shape)
        # What is reshaped anyway may come in either shape: to GGUF, which counts from the last, [n] and [1, n] are alike.
        either = isinstance(rule.transform, Reshaped) and math.prod(shape) == tensor.size
        if shape != tuple(tensor.shape) and not either:
            raise ModelFileError(
                f"{names[name]} has the shape {list(shape)}, but the configuration says {list(tensor.shape)}", AGAIN
            )


def _blank(shape: Shape) -> np.ndarray[Any, Any]:
    """An array of which only the shape counts. Vectors, which are small, are of numbers: some transforms add to them."""
    return np.empty(shape, _BLANK) if len(shape) > 1 else np.zeros(shape, np.float32)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
