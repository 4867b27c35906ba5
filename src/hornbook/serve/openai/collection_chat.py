"""A collection of documents as a chat model: ``kb:NAME``. Its citations are the message's annotations.

A stream's last chunk with a choice has them in its delta, and the reason with them.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from hornbook.serve.kb import answer_chat
from hornbook.serve.kb.asking import Event
from hornbook.serve.openai.events import DONE, data
from hornbook.serve.openai.names import new_id
from hornbook.types import Message, SamplingParams

if TYPE_CHECKING:
    from hornbook.serve.app import House


class CollectionAnswer:
    """What a collection says to one conversation, in the API's form. ``base``: what stands before the path of a URL."""

    def __init__(self, house: House, name: str, messages: Sequence[Message], params: SamplingParams, base: str) -> None:
        self._events = answer_chat(house, name, messages, params, base=base)
        self._head = {"id": new_id("chatcmpl"), "created": int(time.time()), "model": name}

    async def begin(self) -> None:
        """Search. Raises NotThere for no such collection, and UsageError, before anything is told."""
        first = await anext(self._events)
        rest = self._events

        async def events() -> AsyncGenerator[Event, None]:
            async with aclosing(rest):
                yield first
                async for event in rest:
                    yield event

        self._events = events()

    async def aclose(self) -> None:
        """Stop the work."""
        await self._events.aclose()

    async def whole(self) -> dict[str, Any]:
        async with aclosing(self._events) as events:
            async for event in events:
                if event.name == "answer":
                    said = event.data
        message = {
            "role": "assistant", "content": said["answer"], "refusal": None, "annotations": said["annotations"],
        }  # fmt: skip
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": said["finish_reason"]}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": _usage(said["usage"])}

    async def streamed(self, with_usage: bool) -> AsyncGenerator[str, None]:
        head = {**self._head, "object": "chat.completion.chunk"}
        usage = {"usage": None} if with_usage else {}

        def chunk(delta: Mapping[str, Any], reason: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
            return data({**head, "choices": [choice], **usage})

        yield chunk({"role": "assistant", "content": "", "refusal": None})
        async with aclosing(self._events) as events:
            async for event in events:
                if event.name == "token":
                    yield chunk({"content": event.data["text"]})
                elif event.name == "answer":
                    yield chunk({"annotations": event.data["annotations"]}, event.data["finish_reason"])
                    if with_usage:
                        yield data({**head, "choices": [], "usage": _usage(event.data["usage"])})
        yield DONE


def _usage(used: Mapping[str, int]) -> dict[str, int]:
    prompt, written = used["prompt_tokens"], used["completion_tokens"]
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
