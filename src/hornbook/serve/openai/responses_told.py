"""A response while it is written: the object as it stands, and the events that tell how it came so, in OpenAI's names.

    response.created, response.in_progress
    response.output_item.added                           a message                          or a call of a function
        response.content_part.added
        response.output_text.delta ...                   or response.function_call_arguments.delta ...
        response.output_text.done                        or response.function_call_arguments.done
        response.content_part.done
    response.output_item.done
    response.completed, or response.incomplete, or response.failed

What a model thinks before it answers is an item of type "reasoning", told by response.reasoning_text.delta and .done.
Text behind a call begins a message of its own, so that the output stands in the order it was said.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from hornbook.errors import HornbookError
from hornbook.serve.errors import message_of
from hornbook.serve.openai.logprobs import Spelling
from hornbook.serve.openai.names import new_id
from hornbook.serve.openai.speech import Called, Delta
from hornbook.types import Message, Token, ToolCall

Event = dict[str, Any]


class Telling:
    """``response``: the object as it stands. Each method gives the events of what has just happened.

    spelling: where the likelihoods of the text's tokens are told.
    """

    def __init__(self, head: dict[str, Any], spelling: Spelling | None) -> None:
        self.response: dict[str, Any] = {
            "id": new_id("resp"), "object": "response", "created_at": int(time.time()), "status": "in_progress",
            "background": False, "completed_at": None, "error": None, "incomplete_details": None, "output": [],
            "usage": None, **head,
        }  # fmt: skip
        self._spelling = spelling
        self._number = 0
        self._open: dict[str, Any] | None = None  # the item that is being said: the last of the output

    @property
    def output(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.response["output"]
        return found

    def begin(self) -> Iterator[Event]:
        yield self._event("response.created", response=self._snapshot())
        yield self._event("response.in_progress", response=self._snapshot())

    def hear(self, delta: Delta) -> Iterator[Event]:
        if delta.thought:
            yield from self._thought(delta.thought)
        if delta.text:
            yield from self._text(delta.text, delta.tokens)
        for called in delta.calls:
            yield from self._call(called)

    def end(self, reason: str, usage: dict[str, Any]) -> Iterator[Event]:
        """It is all said. reason: as chat completions have it."""
        cut = reason == "length"
        yield from self._close("incomplete" if cut else "completed")
        if not self.output and not cut:
            yield from self._text("", ())
            yield from self._close("completed")
        details = {"reason": "max_output_tokens"} if cut else None
        self.response |= {"status": "incomplete" if cut else "completed", "incomplete_details": details, "usage": usage}
        self.response["completed_at"] = None if cut else int(time.time())
        name = "response.incomplete" if cut else "response.completed"
        yield self._event(name, response=self._snapshot())

    def fail(self, error: HornbookError) -> Iterator[Event]:
        self.response |= {"status": "failed", "error": {"code": "server_error", "message": message_of(error)}}
        yield self._event("response.failed", response=self._snapshot())

    def turn(self) -> Message:
        """The output as the assistant's turn, for the next response."""
        texts, calls = [], []
        for item in self.output:
            if item["type"] == "message":
                texts.append(item["content"][0]["text"])
            if item["type"] != "function_call":
                continue
            try:
                arguments = json.loads(item["arguments"])
            except ValueError:  # it was cut in its middle
                arguments = None
            if isinstance(arguments, dict):
                calls.append(ToolCall(item["call_id"], item["name"], arguments))
        return Message("assistant", "\n".join(filter(None, texts)), tool_calls=tuple(calls))

    # --- items

    def _thought(self, text: str) -> Iterator[Event]:
        if self._open is None or self._open["type"] != "reasoning":
            yield from self._close("completed")
            content = [{"type": "reasoning_text", "text": ""}]
            yield from self._add({"id": new_id("rs"), "type": "reasoning", "status": "in_progress", "summary": [],
                                  "content": content})  # fmt: skip
        assert self._open is not None
        self._open["content"][0]["text"] += text
        yield self._of_part("response.reasoning_text.delta", delta=text)

    def _text(self, text: str, tokens: tuple[Token, ...]) -> Iterator[Event]:
        if self._open is None or self._open["type"] != "message":
            yield from self._close("completed")
            item: dict[str, Any] = {
                "id": new_id("msg"),
                "type": "message",
                "status": "in_progress",
                "role": "assistant",
                "content": [],
            }
            yield from self._add(item)
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item["content"] = [part]
            yield self._of_part("response.content_part.added", part=dict(part))
        assert self._open is not None
        said = self._open["content"][0]
        told = self._spelling.chat(tokens) if self._spelling is not None else []
        said["text"] += text
        said["logprobs"] = [*said["logprobs"], *told]
        if text:
            yield self._of_part("response.output_text.delta", delta=text, logprobs=told)

    def _call(self, called: Called) -> Iterator[Event]:
        if called.name:
            yield from self._close("completed")
            yield from self._add({
                "id": new_id("fc"), "type": "function_call", "status": "in_progress", "call_id": called.id,
                "name": called.name, "arguments": "",
            })  # fmt: skip
        assert self._open is not None
        if called.arguments:
            self._open["arguments"] += called.arguments
            yield self._of_item("response.function_call_arguments.delta", delta=called.arguments)

    def _add(self, item: dict[str, Any]) -> Iterator[Event]:
        self._open = item
        self.output.append(item)
        told = {**item, "content": []} if "content" in item else dict(item)
        yield self._event("response.output_item.added", output_index=len(self.output) - 1, item=told)

    def _close(self, status: str) -> Iterator[Event]:
        item = self._open
        if item is None:
            return
        if item["type"] == "message":
            part = item["content"][0]
            yield self._of_part("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
            yield self._of_part("response.content_part.done", part=dict(part))
        elif item["type"] == "reasoning":
            yield self._of_part("response.reasoning_text.done", text=item["content"][0]["text"])
        else:
            yield self._of_item("response.function_call_arguments.done", arguments=item["arguments"], name=item["name"])
        item["status"] = status
        yield self._event("response.output_item.done", output_index=len(self.output) - 1, item=dict(item))
        self._open = None

    # --- events

    def _event(self, kind: str, **fields: Any) -> Event:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    def _of_item(self, kind: str, **fields: Any) -> Event:
        assert self._open is not None
        return self._event(kind, item_id=self._open["id"], output_index=len(self.output) - 1, **fields)

    def _of_part(self, kind: str, **fields: Any) -> Event:
        return self._of_item(kind, content_index=0, **fields)

    def _snapshot(self) -> dict[str, Any]:
        return {**self.response, "output": [dict(item) for item in self.output]}
