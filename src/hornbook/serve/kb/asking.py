"""A question to a collection, told in stages: what was found, what the model writes, what of it holds.

    find (thread) -> retrieval -> enough? -- no --> token, answer: the documents do not answer this, no model is loaded
                                          -- yes -> lease the model -> conclude (thread) -> draft, token, ... answer

The pipeline is rag/ask.py's, word for word. Its model is the server's: what it asks goes through the model's writer
(writing.py), so that it waits in the same line, is counted, has the same deadline, and ends at once when the client goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import anyio
import anyio.to_thread

from hornbook.errors import ModelNotFound, UsageError
from hornbook.rag import ask
from hornbook.serve.kb import forms
from hornbook.serve.kb.collections import Collection, Shelf
from hornbook.serve.writing import Writing, write
from hornbook.types import LLM, Answer, Message, Prompt, SamplingParams, Token

if TYPE_CHECKING:
    from hornbook.serve.app import House
    from hornbook.serve.loaded import Loaded


class Event(NamedTuple):
    """``name``: "retrieval", "draft", "token" or "answer"."""

    name: str
    data: dict[str, Any]


class Cancelled(Exception):
    """Nobody waits for the answer any more."""


class LeasedLLM:
    """A leased model as the pipeline's LLM: asked in a thread, answered by the event loop's writer."""

    def __init__(self, loaded: Loaded) -> None:
        self.name = loaded.name
        self._llm, self._loaded = loaded.need_llm(), loaded
        self.context_length = self._llm.context_length
        self._loop = asyncio.get_running_loop()
        self._writing: Writing | None = None
        self._left = False

    def stream(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Iterator[Token]:
        """For a thread. Raises Cancelled after ``cancel``, and what writing raises."""
        inbox: queue.SimpleQueue[Token | BaseException | None] = queue.SimpleQueue()
        pump = asyncio.run_coroutine_threadsafe(self._pump(prompt, sampling or SamplingParams(), inbox), self._loop)
        try:
            while (heard := inbox.get()) is not None:
                if isinstance(heard, BaseException):
                    raise heard
                yield heard
        finally:
            pump.cancel()

    async def _pump(
        self, prompt: Prompt, sampling: SamplingParams, inbox: queue.SimpleQueue[Token | BaseException | None]
    ) -> None:
        try:
            ids = prompt if isinstance(prompt, str) else list(prompt)
            self._writing = await write(self._loaded, ids, sampling)
            async with self._writing:
                if self._left:
                    raise Cancelled
                async for _, token in self._writing:
                    inbox.put(token)
            inbox.put(Cancelled() if self._left else None)
        except asyncio.CancelledError:
            inbox.put(Cancelled())
            raise
        except BaseException as error:
            inbox.put(error)

    def cancel(self) -> None:
        """In the event loop: end what is being written at once."""
        self._left = True
        if self._writing is not None:
            self._writing.cancel()

    def check(self) -> None:
        if self._left:
            raise Cancelled

    def count_tokens(self, text: str) -> int:
        return self._llm.count_tokens(text)

    def render(self, messages: Sequence[Message | Mapping[str, Any]]) -> str | list[int]:
        template = self._loaded.template
        if template is not None:
            return list(template.render([Message.of(message) for message in messages], reply=True).ids)
        return self._llm.render(messages)


def model_of(house: House, collection: Collection, named: str | None) -> str:
    """The model that writes: the one asked for, else the collection's own, else the server's."""
    return named or collection.model or house.settings.model


async def check_model(house: House, name: str) -> None:
    """Raises ModelNotFound, and UsageError for a model that writes no text, before anything is searched."""
    if name.startswith("kb:"):
        raise ModelNotFound(f"{name} is a collection and cannot write", "Name a language model.")
    meaning = await anyio.to_thread.run_sync(house.models.shelf.find, name)
    if meaning.entry.kind not in ("llm", "unknown"):
        raise UsageError(f"{name} is no language model and cannot write", "Name one that can: smollm2:135m.")


async def asked(
    house: House,
    collection: Collection,
    questions: Sequence[str],
    *,
    k: int = 5,
    strict: bool = True,
    model: str | None = None,
    sampling: SamplingParams | None = None,
) -> AsyncGenerator[Event, None]:
    """Answer the first of ``questions`` for which the documents have enough, else say of the first that they have not.

    (A question of a conversation may need the one before it to be understood: chat.py gives both ways to put it.)
    Closing the iterator stops the work. Raises UsageError, ContextTooLong, ModelNotFound, Busy, NotThere.
    """
    in_thread = functools.partial(anyio.to_thread.run_sync, limiter=house.collections.threads)
    name = model_of(house, collection, model)
    await check_model(house, name)
    began = time.perf_counter()
    embedder = await anyio.to_thread.run_sync(lambda: collection.embedder)
    async with await house.models.lease(embedder, kind="embedder") as loaded:
        shelf = collection.shelf(loaded.need_embedder())
        found = await in_thread(lambda: _find(shelf, questions, k))
        retrieved = time.perf_counter() - began
        documents = await in_thread(lambda: collection.of_hits(found.hits))
        hits = forms.of_hits(found.hits, documents, found.question)
        searched = await in_thread(lambda: collection.searched(len(hits)))
        yield Event("retrieval", {"hits": hits, "searched": searched, "answers": found.evidence.answers})

        def told(answer: Answer) -> Event:
            timings = {"retrieve": retrieved, **answer.timings, "total": time.perf_counter() - began}
            whole = replace(answer, timings=timings, model=name)
            return Event("answer", forms.of_answer(whole, documents, searched))

        if not found.evidence.answers:
            answer = ask.abstain(found)
            yield Event("token", {"text": answer.text})
            yield told(answer)
            return
        async with await house.models.lease(name, kind="llm") as writer:
            llm = LeasedLLM(writer)
            async with contextlib.aclosing(
                _concluded(found, llm, shelf, strict, sampling, house.collections.answering)
            ) as events:
                async for event in events:
                    yield told(event) if isinstance(event, Answer) else event


def _find(shelf: Shelf, questions: Sequence[str], k: int) -> ask.Found:
    first = found = ask.find(shelf, questions[0], k)
    for question in questions[1:]:
        if found.evidence.answers:
            return found
        found = ask.find(shelf, question, k)
    return found if found.evidence.answers else first


async def _concluded(
    found: ask.Found,
    llm: LeasedLLM,
    shelf: Shelf,
    strict: bool,
    sampling: SamplingParams | None,
    threads: anyio.CapacityLimiter,
) -> AsyncGenerator[Event | Answer, None]:
    """What the pipeline says from its thread, as it says it; the Answer last."""
    loop = asyncio.get_running_loop()
    inbox: asyncio.Queue[Event | Answer | BaseException] = asyncio.Queue()

    def tell(what: Event | Answer | BaseException) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(inbox.put_nowait, what)

    def saying(name: str) -> Callable[[str], None]:
        def say(text: str) -> None:
            llm.check()
            tell(Event(name, {"text": text}))

        return say

    def work() -> None:
        try:
            # LeasedLLM has what the pipeline asks of a model: to stream, to count, to render
            tell(ask.conclude(found, cast(LLM, llm), shelf, strict=strict, stream=saying("token"),
                              draft=saying("draft"), sampling=sampling))  # fmt: skip
        except BaseException as error:
            tell(error)

    thread = asyncio.ensure_future(anyio.to_thread.run_sync(work, limiter=threads))
    try:
        while True:
            what = await inbox.get()
            if isinstance(what, BaseException):
                raise what
            yield what
            if isinstance(what, Answer):
                return
    finally:
        llm.cancel()
        with anyio.CancelScope(shield=True):  # the models are leased until the thread has done with them
            await thread
