"""Children of this process by os.fork, which answer in time or are ended."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable
from typing import Any

from hornbook.errors import HornbookError


def in_child(work: Callable[[], Any], seconds: float = 20) -> Any:
    """What ``work`` returns in the child, by way of JSON; ["error", class, words] where it raises; an error of this test where
    the child hangs or dies."""
    mine, its = os.pipe()
    child = os.fork()
    if not child:
        tell(work, its)
    os.close(its)
    return answer_of(child, mine, seconds)


def tell(work: Callable[[], Any], pipe: int) -> None:
    """The rest of the child's life."""
    try:
        try:
            answer = work()
        except HornbookError as error:
            answer = ["error", type(error).__name__, str(error)]
        os.write(pipe, json.dumps(answer).encode())
    finally:
        os._exit(0)


def answer_of(child: int, pipe: int, seconds: float = 20) -> Any:
    try:
        ready, _, _ = select.select([pipe], [], [], seconds)
        assert ready, "the child hangs"
        told = b""
        while part := os.read(pipe, 1 << 16):
            told += part
        assert told, "the child died"
        return json.loads(told)
    finally:
        os.close(pipe)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
