"""What one run of a chat template may use: steps, size and seconds. See `hornbook.text.sandbox`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain
from math import inf
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

MAX_STEPS = 1_000_000
MAX_SECONDS = 5.0
MAX_SIZE = 1 << 23  # characters and items made in one run, beside SIZE_FACTOR times what it was given
SIZE_FACTOR = 64
MAX_PARTS = 200_000  # of one value, beside those of what the run was given


class Meter:
    """What one run has used."""

    def __init__(self, given: Any) -> None:
        parts, characters = weight(given)
        self._steps = MAX_STEPS
        self._size = MAX_SIZE + SIZE_FACTOR * (parts + characters)
        self._parts = MAX_PARTS + parts
        self._deadline = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS:,} steps")
        if time.monotonic() > self._deadline:
            raise SecurityError(f"it takes more than {MAX_SECONDS:g} seconds")

    def spend(self, size: int) -> None:
        self._size -= size
        if self._size < 0:
            raise SecurityError("it makes more text than any conversation of this size needs")

    def afford(self, size: int) -> None:
        """Refuse before it is made what `spend` would refuse after."""
        if size > self._size:
            raise SecurityError("it makes more text than any conversation of this size needs")

    def weigh(self, value: Any) -> Any:
        """Pass on a value that can be printed within bounds."""
        if _inside(value) is not None:
            parts, characters = weight(value, self._parts, self._size)
            if parts > self._parts:
                raise SecurityError(f"it builds a value of more than {self._parts:,} parts")
            self.afford(characters)
        return value

    def made(self, value: Any) -> Any:
        """Pass on a value that an operation made, and charge for it."""
        if isinstance(value, (str, bytes, list, tuple, dict, set, frozenset)):
            self.spend(len(value))
        return self.weigh(value)


def weight(value: Any, most_parts: float = inf, most_characters: float = inf) -> tuple[int, int]:
    """(parts, characters) that printing a nested value meets, what occurs twice counted twice; stops beyond the most."""
    parts = characters = 0
    stack = [iter((value,))]
    while stack and parts <= most_parts and characters <= most_characters:
        for item in stack[-1]:
            parts += 1
            inside = _inside(item)
            if inside is not None:
                stack.append(inside)
                break
            if isinstance(item, (str, bytes)):
                characters += len(item)
        else:
            stack.pop()
        if len(stack) > 200:
            raise SecurityError("it nests values more than 200 deep")
    return parts, characters


def _inside(value: Any) -> Iterator[Any] | None:
    if isinstance(value, (list, tuple, set, frozenset)):
        return iter(value)
    if isinstance(value, dict):
        return chain.from_iterable(value.items())
    if isinstance(value, Namespace):
        attributes: dict[str, Any] = object.__getattribute__(value, "_Namespace__attrs")
        return iter(attributes.values())
    return None
