"""Answers as they are written, for an event loop: a request goes to the model's feed, its tokens come back to whoever awaits.

    loaded = await house.models.lease(name)
    prompt = await render(loaded, messages, tools=tools)          ids, and what was left out where that was asked for
    writing = await write(loaded, prompt.ids, params)             raises here, before any work: ContextTooLong, UsageError, Busy
    async with loaded, writing:
        async for answer, token in writing: ...

What is closed, cancelled or dropped stops at once: the engine gives its pages back with the step that is running. A handler
that streams need do no more, for its generator is closed when the client goes; one that answers in one piece awaits
through ``while_connected``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

import anyio
from starlette.requests import Request as HTTPRequest

from hornbook.engine.feed import Feed
from hornbook.engine.prompts import PLAIN_STOP, turns_of
from hornbook.engine.requests import Event, Handle, Request
from hornbook.errors import ContextTooLong, HornbookError
from hornbook.serve.errors import Busy, ClientGone
from hornbook.types import Message, SamplingParams, Score, Token

if TYPE_CHECKING:
    from hornbook.llm import LocalLLM
    from hornbook.serve.loaded import Loaded
    from hornbook.serve.metrics import Metrics

log = logging.getLogger("hornbook.serve")
T = TypeVar("T")
THREADS = 4  # that render, tokenise and compile grammars for all requests; more would only take turns


class Writer:
    """All that is being written by one model. Its methods are for the event loop that made it."""

    def __init__(
        self, llm: LocalLLM, *, most: int, timeout: float, metrics: Metrics, log_prompts: bool = False
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._most = most
        self._llm = llm
        # by the request's identity, which its events carry; whoever drops a writing does not want it any more
        self._open: WeakValueDictionary[int, Writing] = WeakValueDictionary()
        self.timeout = timeout
        self._log_prompts = log_prompts
        self.times = metrics.times(llm.name)
        self.feed: Feed = llm.feed(self._tell)
        self.threads = anyio.CapacityLimiter(THREADS)

    @property
    def open(self) -> int:
        """How many requests are being answered, or wait for it."""
        return len(self._open)

    def begin(self, request: Request) -> Writing:
        """Make the place where its events will come, before it is asked. Raises Busy where too many wait."""
        if len(self._open) >= self._most:
            raise Busy(
                f"{len(self._open):,} requests for {self._llm.name} run or wait, which is the most",
                "Try again in a few seconds.",
            )
        if self._log_prompts:
            text = self._llm.tokenizer.decode(list(request.ids), skip_special=False)
            log.info("asked", extra={"model": self._llm.name, "prompt": text})
        writing = Writing(self, request)
        self._open[id(request)] = writing
        return writing

    def forget(self, request: Request) -> None:
        self._open.pop(id(request), None)

    def fail(self, error: HornbookError) -> None:
        """End everything that is being written, with an error that its readers are told."""
        for writing in list(self._open.values()):
            writing.fail(error)

    def close(self) -> None:
        """Blocking: for a thread."""
        self.feed.close()

    def _tell(self, events: list[Event]) -> None:
        with suppress(RuntimeError):  # the loop may have ended, and with it everybody who could listen
            self._loop.call_soon_threadsafe(self._hear, events)

    def _hear(self, events: list[Event]) -> None:
        now = self._loop.time()
        for event in events:
            writing = self._open.get(id(event.handle.request))
            if writing is not None:
                writing.hear(event, now)


class Writing:
    """The answers to one request: an async iterator of (answer's index, Token). ``prompt_tokens``: its ids.

    ``begun``, ``first``, ``ended``: by the loop's clock; None while it has not come to that.
    """

    def __init__(self, writer: Writer, request: Request) -> None:
        self.request = request
        self.prompt_tokens = len(request.ids)
        self.begun = writer._loop.time()
        self.first: float | None = None
        self.ended: float | None = None
        self._writer = writer
        self._events: deque[Event | HornbookError] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._handle: Handle | None = None
        self._last = [self.begun] * request.params.n
        self._over = False  # nothing more will come
        self._left = False  # by whoever asked
        self._hold = threading.Lock()  # of _handle and _left, which a thread that submits looks at
        self._strip: set[int] = set()  # the answers that begin, in plain text, with a space

    def submit(self) -> None:
        """Ask the engine. Blocking where a grammar must be compiled: for a thread then. Raises what Feed.ask raises."""
        handle = self._writer.feed.ask(self.request)
        with self._hold:
            self._handle = handle
            left = self._left
        if left:
            self._writer.feed.cancel(handle)

    def hear(self, event: Event, now: float) -> None:
        token = event.token
        if token is not None and token.id is not None:
            if self.first is None:
                self.first = now
                self._writer.times.first(now - self.begun)
            else:
                self._writer.times.next(now - self._last[event.answer])
            self._last[event.answer] = now
        self._add(event, last=event.last)

    def _add(self, what: Event | HornbookError, *, last: bool) -> None:
        self._events.append(what)
        if last:
            self._end()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self.ended = self._writer._loop.time()
            self._writer.forget(self.request)

    def __aiter__(self) -> Writing:
        return self

    async def __anext__(self) -> tuple[int, Token]:
        """Raises what ``_next`` raises."""
        event = await self._next()
        token = event.token
        assert token is not None, "a request that is judged has a score, and nothing is written"
        if event.answer in self._strip:
            text = token.text.lstrip()
            if text:
                self._strip.discard(event.answer)
            token = replace(token, text=text)
        return event.answer, token

    async def score(self) -> Score:
        """Of a request that is judged. Raises what ``_next`` raises."""
        score = (await self._next()).score
        if score is None:
            raise Busy("the text was not judged to its end: the server or the model is being stopped", "Ask again.")
        return score

    async def _next(self) -> Event:
        """Raises what the request ended with: DeadlineExceeded, GenerationError, Busy when the server stops, ClientGone."""
        while not self._events:
            if self._over:
                raise StopAsyncIteration
            self._waiter = self._writer._loop.create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self.cancel()
                raise
            finally:
                self._waiter = None
        event = self._events.popleft()
        if isinstance(event, HornbookError):
            raise event
        if event.error is not None:
            raise event.error
        return event

    @property
    def cached_tokens(self) -> int:
        """How many of the prompt's tokens were known from before, and not read again."""
        return 0 if self._handle is None else self._handle.cached

    def stop(self) -> None:
        """End the answers where they are; what they held back comes still, with finish_reason "cancelled"."""
        if self._handle is not None and not self._over:
            self._writer.feed.cancel(self._handle)

    def cancel(self) -> None:
        """End it at once: nothing more comes of it."""
        with self._hold:
            self._left = True
            handle = self._handle
        if handle is not None and not self._over:
            self._writer.feed.cancel(handle)
        self._events.clear()
        self._end()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: HornbookError) -> None:
        """End it at once, with an error for whoever reads it."""
        if not self._over:
            self.cancel()
            self._add(error, last=True)

    async def aclose(self) -> None:
        self.cancel()

    def __del__(self) -> None:
        if not self._over and self._handle is not None:
            self._writer.feed.cancel(self._handle)

    async def __aenter__(self) -> Writing:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def without_leading_space(self) -> Writing:
        """For a reply in plain text, which begins after "Assistant:"."""
        self._strip = set(range(self.request.params.n))
        return self


async def write(
    loaded: Loaded,
    prompt: str | Sequence[int],
    params: SamplingParams,
    *,
    adapter: str | None = None,
    priority: int = 0,
    deadline: float | None = None,
) -> Writing:
    """Ask a model to continue a prompt; text is text, without special tokens.

    adapter: instead of the one that the model's name says.  deadline: seconds; the server's own where None.
    Raises ContextTooLong with counts, UsageError, ModelClosed or Busy, before any work.
    """
    llm, writer = loaded.need_llm(), loaded.need_writer()
    if isinstance(prompt, str):
        ids = await anyio.to_thread.run_sync(llm.encode, prompt, limiter=writer.threads)
    else:
        ids = list(prompt)
    adapter = loaded.adapter if adapter is None else adapter
    request = Request(ids, params, priority, writer.timeout if deadline is None else deadline, adapter)
    return await _asked(writer, request)


async def judge(loaded: Loaded, ids: Sequence[int], *, top: int = 1) -> Writing:
    """Ask a model how likely each token of a prompt is after those before it: ``Writing.score``, of all but the first.

    top: how many of the likeliest to tell in each place, at least one. Raises what ``write`` raises.
    """
    writer = loaded.need_writer()
    params = SamplingParams(top_logprobs=top)
    return await _asked(writer, Request(list(ids), params, 0, writer.timeout, loaded.adapter, score_from=1))


async def _asked(writer: Writer, request: Request) -> Writing:
    params, writing = request.params, writer.begin(request)
    try:
        if params.schema is None and params.regex is None and params.grammar is None:
            writing.submit()
        else:
            await anyio.to_thread.run_sync(writing.submit, limiter=writer.threads)
    except BaseException:
        writing.cancel()
        raise
    return writing


# ------------------------------------------------------------------------------------------------------------ prompts


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a conversation becomes. ``dropped``: how many of its oldest turns were left out, where that was allowed.

    ``plain``: the model has no chat template; its reply ends where another turn would begin (``chat_params``).
    """

    ids: list[int]
    dropped: int = 0
    plain: bool = False


async def render(
    loaded: Loaded,
    messages: Sequence[Message | Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    truncate: bool = False,
    room: int = 1,
    shown: Callable[[Sequence[Message]], Sequence[Message]] | None = None,
    limit: int | None = None,
) -> Prompt:
    """The prompt for the assistant's next turn, with the system text and the turns that a created model begins with.

    ``room``: tokens that must be left in the context for the answer. A conversation that leaves fewer raises ContextTooLong
    with counts; with ``truncate`` its oldest turns are left out first (never a system turn, nor the last one), and counted.
    shown: makes of all turns what the template is given (ToolPlan.messages).  limit: a shorter context than the model's.
    """
    llm = loaded.need_llm()
    return await anyio.to_thread.run_sync(
        lambda: _render(loaded, llm, list(turns_of(messages)), tools, truncate, room, shown, limit),
        limiter=loaded.need_writer().threads,
    )


def _render(
    loaded: Loaded,
    llm: LocalLLM,
    turns: list[Message],
    tools: Sequence[Mapping[str, Any]],
    truncate: bool,
    room: int,
    shown: Callable[[Sequence[Message]], Sequence[Message]] | None,
    limit: int | None,
) -> Prompt:
    context = min(llm.context_length, limit or llm.context_length)
    turns = loaded.with_own_turns(turns)
    plain, dropped = loaded.template is None and llm.chat_template is None, 0
    while True:
        given = turns if shown is None else shown(turns)
        if loaded.template is not None:
            ids = list(loaded.template.render(given, tools=tools, reply=True).ids)
        else:
            rendered = llm.render(given, tools=tools)
            ids = llm.encode(rendered) if isinstance(rendered, str) else rendered
        if len(ids) + room <= context:
            return Prompt(ids, dropped, plain)
        oldest = next((i for i, turn in enumerate(turns[:-1]) if turn.role != "system"), None)
        if not truncate or oldest is None:
            raise ContextTooLong(
                f"the conversation has {len(ids):,} tokens and the answer needs {room:,}; the model's context holds"
                f" {context:,}",
                "Leave earlier turns out, ask for a shorter answer, or use a model with a longer context.",
            )
        # an answer goes with the question before it, and what a tool said with the call
        last = oldest + 1
        while last < len(turns) - 1 and turns[last].role not in ("user", "system"):
            last += 1
        dropped += last - oldest
        del turns[oldest:last]


def chat_params(prompt: Prompt, params: SamplingParams) -> SamplingParams:
    """The parameters for a reply to a rendered conversation."""
    return replace(params, stop=(*params.stop, PLAIN_STOP)) if prompt.plain else params


async def write_chat(
    loaded: Loaded, prompt: Prompt, params: SamplingParams, *, priority: int = 0, deadline: float | None = None
) -> Writing:
    """``write`` for what ``render`` has made."""
    writing = await write(loaded, prompt.ids, chat_params(prompt, params), priority=priority, deadline=deadline)
    return writing.without_leading_space() if prompt.plain else writing


# ----------------------------------------------------------------------------------------------------- clients that go


async def until_gone(request: HTTPRequest) -> None:
    """Return when the client has closed its connection. Only after the body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def while_connected(request: HTTPRequest, work: Awaitable[T]) -> T:
    """Await some work for a client, and cancel it as soon as the client is gone. Raises ClientGone then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(until_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("the client closed its connection", "")
    finally:
        for one in (task, gone):
            if not one.done():
                one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
