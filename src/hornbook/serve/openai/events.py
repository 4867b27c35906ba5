"""Server-sent events: how OpenAI's API streams an answer.

    data: {"id": ..., "choices": [...]}          one a piece
    data: {"error": {...}}                       where it fails in the middle
    data: [DONE]

What is wrong with a request is known before its response begins, and told by HTTP's status.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from hornbook.errors import HornbookError
from hornbook.serve.openai.faults import error_body, explained

log = logging.getLogger("hornbook.serve")

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
DONE = "data: [DONE]\n\n"


encoded = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode  # made once: a stream has many events


def data(value: Any) -> str:
    """An event without a name."""
    return f"data: {encoded(value)}\n\n"


def named(event: dict[str, Any]) -> str:
    """An event whose name is its type."""
    return f"event: {event['type']}\ndata: {encoded(event)}\n\n"


class EventStream(StreamingResponse):
    """A response of events. ``stack`` holds what they need: it is left when the last is sent, or the client is gone."""

    def __init__(self, events: AsyncIterator[str], stack: AsyncExitStack) -> None:
        super().__init__(_failing_in_form(events), media_type="text/event-stream", headers=HEADERS)
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._stack:
            await super().__call__(scope, receive, send)


async def _failing_in_form(events: AsyncIterator[str]) -> AsyncGenerator[str, None]:
    try:
        async for event in events:
            yield event
    except HornbookError as error:
        yield data(explained(error)[1])
    except Exception as error:
        log.exception("a stream failed")
        yield data(error_body(f"The server failed: {type(error).__name__}.", 500))
