"""A reply while it comes: thoughts, text and calls of tools told apart, token by token.

    stream = plan.stream(prompt)                     # plan: engine/tool_calls.py; one stream an answer
    for token in tokens:
        for event in stream.push(token):             # ThinkingDelta; of engine/tool_reader.py: TextDelta, CallBegin,
            ...                                      #     CallDelta, CallEnd
    stream.reply                                     # Reply: content, thinking, calls, what ended it

No part of a mark is ever shown as text, and text that is none goes on at once. The last token, which has a ``finish_reason``,
releases what was held back; where a stream breaks off without one, ``end()`` does. Only what the model wrote is ever read here:
a call that stands in a document, a message or a tool's result is text of the prompt, and never a call.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from hornbook.engine.markers import Mark, pieces
from hornbook.engine.thinking import Thinking
from hornbook.engine.tool_formats import Format
from hornbook.engine.tool_reader import Call, CallEnd, CallEvent, CallReader, TextDelta
from hornbook.types import Message, Token, ToolCall


@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    text: str


StreamEvent: TypeAlias = "ThinkingDelta | CallEvent"


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply. ``finish_reason``: "tool_calls" where it ended of itself and calls tools, else the last token's."""

    content: str
    thinking: str
    calls: tuple[Call, ...]
    finish_reason: str

    @property
    def message(self) -> Message:
        """The reply as a turn of the conversation. A call whose arguments are no object, which none can run, is left as text."""
        calls = tuple(ToolCall(c.id, c.name, c.value) for c in self.calls if c.value is not None)
        broken = [f'{{"name": {json.dumps(c.name)}, "arguments": {c.arguments}' for c in self.calls if c.value is None]
        return Message("assistant", "\n".join(filter(None, [self.content, *broken])), tool_calls=calls)


class ReplyStream:
    """One reply. ``format``: None where no call is to be looked for; tools: the schema of each tool's arguments.

    marks: the marks that are control tokens, by id. opened: the mark of a thought that the prompt ends with.
    """

    def __init__(
        self,
        format: Format | None,
        tools: Mapping[str, Any],
        *,
        marks: Mapping[int, Mark] | None = None,
        opened: str | None = None,
    ) -> None:
        self._marks = marks or {}
        control = frozenset(map(str, self._marks.values()))
        self._thinking = Thinking(opened, control)
        self._calls = None if format is None else CallReader(format, tools, control)
        self._said: list[str] = []
        self._thought: list[str] = []
        self._ended: list[Call] = []
        self._reason: str | None = None
        self._open = True

    def push(self, token: Token) -> list[StreamEvent]:
        """Take the next token; return what is certain now."""
        events = [event for piece in pieces(token, self._marks) for event in self._piece(piece)]
        if token.finish_reason is not None:
            self._reason = token.finish_reason
            events += self.end()
        return self._noted(events)

    def end(self) -> list[StreamEvent]:
        """There is no more: release what was held back. A second time does nothing."""
        if not self._open:
            return []
        self._open = False
        split = self._thinking.flush()
        events = self._split(split.thought, split.answer)
        if self._calls is not None:
            events += self._calls.end(cut_short=self._reason not in (None, "stop"))
        return self._noted(events) if self._reason is None else events

    def events(self, tokens: Iterable[Token]) -> Iterator[StreamEvent]:
        """The same for a whole iterator of tokens."""
        for token in tokens:
            yield from self.push(token)
        yield from self.end()

    @property
    def reply(self) -> Reply:
        """What was said so far."""
        content = "".join(self._said)
        reason = self._reason or "stop"
        return Reply(
            content.strip() if self._ended else content,
            "".join(self._thought).rstrip(),
            tuple(self._ended),
            "tool_calls" if self._ended and reason == "stop" else reason,
        )

    def _piece(self, piece: str) -> list[StreamEvent]:
        return self._split(*self._thinking.push(piece))

    def _split(self, thought: str, answer: tuple[str, ...]) -> list[StreamEvent]:
        events: list[StreamEvent] = [ThinkingDelta(thought)] if thought else []
        for piece in answer:
            if self._calls is not None:
                events += self._calls.push(piece)
            elif not isinstance(piece, Mark):
                events.append(TextDelta(piece))
        return events

    def _noted(self, events: list[StreamEvent]) -> list[StreamEvent]:
        for event in events:
            if isinstance(event, TextDelta):
                self._said.append(event.text)
            elif isinstance(event, ThinkingDelta):
                self._thought.append(event.text)
            elif isinstance(event, CallEnd):
                self._ended.append(event.call)
        return events
