"""Answers as Ollama's API gives them: one JSON object, or one a line (NDJSON) while they come.

{"model": "smollm2:135m", "created_at": ..., "response": "The", "done": false}
{"model": "smollm2:135m", "created_at": ..., "response": "", "done": true, "done_reason": "stop", "total_duration": ns, ...}

Durations are in nanoseconds. An error after the first line is a last line {"error": "..."}.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from fastapi.responses import StreamingResponse

from hornbook.engine.tool_calls import ToolPlan
from hornbook.engine.tool_reader import CallEnd, TextDelta
from hornbook.engine.tool_stream import StreamEvent, ThinkingDelta
from hornbook.errors import HornbookError
from hornbook.serve.errors import ollama_body
from hornbook.serve.loaded import Loaded
from hornbook.serve.writing import Writing
from hornbook.types import Token

NDJSON = "application/x-ndjson"


def now() -> str:
    """As Go writes a time."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def line(data: dict[str, Any]) -> str:
    return json.dumps(data, ensure_ascii=False) + "\n"


@dataclass
class Part:
    """What one step of an answer adds to it."""

    content: str = ""
    thinking: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.content or self.thinking or self.calls or self.logprobs)

    def add(self, other: Part) -> None:
        self.content += other.content
        self.thinking += other.thinking
        self.calls += other.calls
        self.logprobs += other.logprobs


@dataclass
class Answering:
    """One answer under way, and what is told at its end.

    plan: None where the text is given as the model writes it.  shape: puts a part into the fields of the route.
    dropped: what a truncation left out.
    """

    name: str
    loaded: Loaded
    writing: Writing
    plan: ToolPlan | None
    shape: Callable[[Part], dict[str, Any]]
    begun: float  # time.perf_counter() when the request came, and when the model was there
    ready: float
    dropped: dict[str, int]
    wants_context: bool = False
    wants_logprobs: bool = False

    async def parts(self) -> AsyncIterator[tuple[Part, str | None]]:
        """(what is new, None), and at last what was held back with the reason of the end."""
        stream = self.plan.stream(self.writing.request.ids) if self.plan is not None else None
        reason: str | None = None
        self.said: list[int] = []
        async for _, token in self.writing:
            if token.id is not None:
                self.said.append(token.id)
            part = Part(token.text) if stream is None else _part(stream.push(token))
            if self.wants_logprobs and token.id is not None:
                part.logprobs.append(self._logprob(token))
            reason = token.finish_reason
            if reason is None and part:
                yield part, None
            elif reason is not None:
                yield part, "length" if reason == "length" else "stop"

    async def lines(self) -> AsyncIterator[str]:
        """The answer's lines; it is over, and the model given back, when the iterator is."""
        try:
            async for part, reason in self.parts():
                if reason is None:
                    yield line({**self._head(), **self.shape(part), "done": False})
                    continue
                if part:
                    yield line({**self._head(), **self.shape(part), "done": False})
                yield line({**self._head(), **self.shape(Part()), **self._end(reason)})
        except HornbookError as error:
            yield line(ollama_body(error))
        finally:
            self.close()

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        try:
            said, ended = Part(), "stop"
            async for part, reason in self.parts():
                said.add(part)
                ended = reason or ended
            if said.calls:
                said.content = said.content.strip()
            said.thinking = said.thinking.rstrip()
            return {**self._head(), **self.shape(said), **self._end(ended)}
        finally:
            self.close()

    def response(self) -> StreamingResponse:
        return StreamingResponse(self.lines(), media_type=NDJSON, headers={"X-Accel-Buffering": "no"})

    def close(self) -> None:
        self.writing.cancel()
        self.loaded.release()

    def _head(self) -> dict[str, Any]:
        return {"model": self.name, "created_at": now()}

    def _end(self, reason: str) -> dict[str, Any]:
        writing = self.writing
        first = writing.first or writing.ended or writing.begun
        told: dict[str, Any] = {
            "done": True,
            "done_reason": reason,
            "total_duration": _ns(time.perf_counter() - self.begun),
            "load_duration": _ns(self.ready - self.begun),
            "prompt_eval_count": writing.prompt_tokens,
            "prompt_eval_duration": _ns(first - writing.begun),
            "eval_count": len(self.said),
            "eval_duration": _ns((writing.ended or first) - first),
        }
        if self.wants_context:
            told["context"] = [*writing.request.ids, *self.said]
        if self.dropped:
            told["dropped"] = self.dropped
        return told

    def _logprob(self, token: Token) -> dict[str, Any]:
        assert token.id is not None
        own = self._token(token.id, token.logprob or 0.0)
        if token.top_logprobs is not None:
            own["top_logprobs"] = [self._token(id, logprob) for id, logprob in token.top_logprobs]
        return own

    def _token(self, id: int, logprob: float) -> dict[str, Any]:
        text = self.loaded.need_llm().tokenizer.decode([id], skip_special=False)
        return {"token": text, "logprob": max(logprob, -1e9), "bytes": list(text.encode())}


def _part(events: list[StreamEvent]) -> Part:
    part = Part()
    for event in events:
        if isinstance(event, TextDelta):
            part.content += event.text
        elif isinstance(event, ThinkingDelta):
            part.thinking += event.text
        elif isinstance(event, CallEnd):
            call = event.call
            if call.value is None:  # its arguments are no object, so that nobody could run it
                part.content += f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}'
                continue
            part.calls.append(
                {"id": call.id, "function": {"index": call.index, "name": call.name, "arguments": dict(call.value)}}
            )
    return part


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
