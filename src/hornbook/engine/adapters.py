"""The adapters of an engine, by the names that requests use."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import NamedTuple

from hornbook.engine.executor import Executor, Floats
from hornbook.errors import UsageError


class Adapter(NamedTuple):
    number: int  # what the executor calls it; -1: none
    salt: Hashable  # keeps its pages apart, also from those of an earlier adapter with the same number


NONE = Adapter(-1, "")


class Adapters:
    """Low-rank changes of the model, of which each request may use one."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._loaded: dict[str, Adapter] = {}
        self._count = 0

    def add(self, name: str, weights: Mapping[str, tuple[Floats, Floats, float]]) -> None:
        """Raises UsageError where the name is taken, or the executor's error where it was made for another base."""
        if name in self._loaded:
            raise UsageError(f"there is an adapter called {name!r} already", "Remove it first, or choose another name.")
        number = self._executor.add_adapter(weights)
        self._count += 1
        self._loaded[name] = Adapter(number, ("adapter", self._count))

    def remove(self, name: str, in_use: Iterable[str | None]) -> None:
        """Raises UsageError where there is none of that name, or requests still use it."""
        adapter = self.find(name)
        users = sum(one == name for one in in_use)
        if users:
            raise UsageError(f"{users} requests use the adapter {name!r}", "Cancel them, or wait for their end.")
        self._executor.remove_adapter(adapter.number)
        del self._loaded[name]

    def find(self, name: str | None) -> Adapter:
        if name is None:
            return NONE
        if name not in self._loaded:
            known = ", ".join(map(repr, sorted(self._loaded))) or "none"
            raise UsageError(f"there is no adapter called {name!r}", f"Loaded are: {known}.")
        return self._loaded[name]
