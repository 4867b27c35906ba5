"""What the child of a fork puts right, so that it can go on with what its parent has loaded.

    parent   thread 1 --os.fork--> ...            child   thread 1 --> ...
             thread 2 --in a step, its lock held-->       the lock is held, and nobody will ever open it

A fork copies all memory and only the thread that asked for it. What another thread held stays held in the child, and
what it was in the middle of stays half-done. So locks that guard what is whole at any moment come from ``lock``, and
what may be half-done registers with ``in_child`` a method that puts it in order.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

Lock: TypeAlias = Any  # threading.RLock is no type: Python has two of them

_methods: dict[weakref.ref[Any], Callable[[Any], None]] = {}  # of what object, in the order they came
_locks: dict[weakref.ref[Lock], None] = {}


def in_child(method: Callable[[], None]) -> None:
    """Call a bound method in each child of a fork, as long as its object lives: before anything else runs there, all locks
    of ``lock`` open."""
    _methods[weakref.ref(method.__self__, _forgetting(_methods))] = method.__func__  # type: ignore[attr-defined]


def _forgetting(table: dict[weakref.ref[Any], Any]) -> Callable[[weakref.ref[Any]], None]:
    """A callback that still knows the table when Python's end has taken the module's names away."""

    def forget(gone: weakref.ref[Any]) -> None:
        table.pop(gone, None)

    return forget


def lock() -> Lock:
    """A lock that each child finds open, unless the very thread that forked holds it."""
    made: Lock = threading.RLock()
    _locks[weakref.ref(made, _forgetting(_locks))] = None
    return made


def is_held(lock: Lock) -> bool:
    """Whether this thread holds it."""
    held: bool = lock._is_owned()
    return held


def reopen(lock: Lock) -> bool:
    """In a child: open a lock that another thread held when the process forked; -> whether one did."""
    if lock.acquire(blocking=False):
        lock.release()
        return False
    lock._at_fork_reinit()  # as the standard library does with its own: waiting conditions keep the very lock
    return True


def _begin_child() -> None:
    for lock in [found() for found in list(_locks)]:
        if lock is not None:
            reopen(lock)
    for found, method in list(_methods.items()):
        if (its := found()) is not None:
            method(its)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_child)
