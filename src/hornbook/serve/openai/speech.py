"""A turn of the assistant as it is said: thoughts, text, and calls of tools, told apart while they come.

    messages, tools -> plan, render, write -> tokens -> Delta ... Delta(reason)

Chat completions and responses both tell their clients what is said here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import anyio

from hornbook.engine.tool_calls import ToolPlan, plan_tools
from hornbook.engine.tool_reader import CallBegin, CallDelta, CallEnd, TextDelta
from hornbook.engine.tool_stream import ReplyStream, StreamEvent, ThinkingDelta
from hornbook.errors import UsageError
from hornbook.serve.errors import Busy
from hornbook.serve.loaded import Loaded
from hornbook.serve.openai.faults import RequestFault
from hornbook.serve.openai.tools import Wanted
from hornbook.serve.writing import Prompt, Writing, render, write_chat
from hornbook.types import Message, SamplingParams, Token

SHARE = 4  # where old turns may be left out, the answer gets a part in so many of the context, if it wants that much


@dataclass(frozen=True, slots=True)
class Called:
    """What became known of call number ``index``: at first its id and name, then pieces of its arguments, JSON text."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """What was said next in one of the answers. ``reason``, with the last of an answer: why it ends there."""

    answer: int
    text: str = ""
    thought: str = ""
    calls: tuple[Called, ...] = ()
    reason: str | None = None
    tokens: tuple[Token, ...] = ()


class Speech:
    """All answers to one conversation, as an async iterator. ``written``: their tokens so far, ``thought``: of thoughts."""

    def __init__(self, writing: Writing, plan: ToolPlan, prompt: Prompt, n: int) -> None:
        self._writing = writing
        self._streams: list[ReplyStream] = [plan.stream(prompt.ids) for _ in range(n)]
        self.dropped = prompt.dropped  # turns that were left out of the prompt
        self.prompt_tokens = writing.prompt_tokens
        self.written = self.thought = 0

    @classmethod
    async def begin(
        cls,
        loaded: Loaded,
        messages: Sequence[Message],
        params: SamplingParams,
        wanted: Wanted,
        *,
        truncate: bool = False,
    ) -> Speech:
        """Plan, render and ask. Raises ContextTooLong, UsageError or Busy, before any work.

        truncate: leave out the oldest turns of a conversation that is too long.
        """
        llm, threads = loaded.need_llm(), loaded.need_writer().threads

        def planned() -> ToolPlan:
            source = loaded.template.source if loaded.template is not None else None
            return plan_tools(llm, wanted.tools, choice=wanted.choice, parallel=wanted.parallel, template=source)

        try:  # only grammars take their time
            plan = await anyio.to_thread.run_sync(planned, limiter=threads) if wanted.tools else planned()
        except UsageError as error:
            raise RequestFault(error.what, error.remedy, param="tools") from error
        room = min(params.max_tokens, llm.context_length // SHARE) if truncate else 1
        prompt = await render(
            loaded, messages, tools=plan.template_tools, truncate=truncate, room=room, shown=plan.messages
        )
        if plan.callable:
            params = await anyio.to_thread.run_sync(plan.params, params, prompt.ids, limiter=threads)
        return cls(await write_chat(loaded, prompt, params), plan, prompt, params.n)

    @property
    def cached_tokens(self) -> int:
        """How many of the prompt's tokens were known from before, and not read again."""
        return self._writing.cached_tokens

    async def __aenter__(self) -> Speech:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writing.cancel()

    async def __aiter__(self) -> AsyncIterator[Delta]:
        async for answer, token in self._writing:
            self.written += token.id is not None
            reason, stream = reason_of(token), self._streams[answer]
            delta = delta_of(answer, token, stream.push(token), stream.reply.finish_reason if reason else None)
            self.thought += bool(delta.thought)
            yield delta


def delta_of(answer: int, token: Token, events: Sequence[StreamEvent], reason: str | None) -> Delta:
    """What a token has made certain, as one Delta."""
    if not events:
        return Delta(answer, reason=reason, tokens=(token,))
    text = thought = ""
    calls: list[Called] = []
    for event in events:
        if isinstance(event, TextDelta):
            text += event.text
        elif isinstance(event, ThinkingDelta):
            thought += event.text
        elif isinstance(event, CallBegin):
            calls.append(Called(event.index, event.id, event.name))
        elif isinstance(event, CallDelta):
            calls.append(Called(event.index, arguments=event.arguments))
        else:
            assert isinstance(event, CallEnd)  # whose arguments were all told
    return Delta(answer, text, thought, tuple(calls), reason, (token,))


def reason_of(token: Token) -> str | None:
    """Why an answer ends. Raises Busy where the server ended it: that is no end of its own."""
    if token.finish_reason == "cancelled":
        raise Busy("the answer was cancelled before its end: the server or the model is being stopped", "Ask again.")
    return token.finish_reason
