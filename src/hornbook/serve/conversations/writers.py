"""What writes a reply: a model that is shown the branch, or a collection of documents that is asked the question.

Both tell a Page what comes: phases ("loading", "reading", "searching", "found", "writing"), text that is certain, thoughts. How the
reply came about is left in ``page.facts``, as the page shows it:

    model, collection           who wrote it, and from which documents
    usage                       {"prompt_tokens", "completion_tokens"}
    seconds                     {"first", "total"}: until the first token, until the end
    context                     tokens that the model can be shown
    dropped                     how many of the oldest messages the model was not shown
    finish                      "stop", or "length": cut at the most that was allowed
    thought                     what it thought before it answered
    answer                      a collection's: its Answer (serve/kb), and the nearest passages where it abstains
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import anyio.to_thread

from hornbook.engine.thinking import Thinking, opened_by
from hornbook.errors import ModelNotFound
from hornbook.serve.conversations.settings import ReplySettings, params_of
from hornbook.serve.conversations.store import Turn
from hornbook.serve.kb.asking import asked
from hornbook.serve.kb.chat import questions_of
from hornbook.serve.writing import Prompt, render, write_chat
from hornbook.types import Message

if TYPE_CHECKING:
    from hornbook.serve.app import House
    from hornbook.serve.loaded import Loaded
    from hornbook.serve.shelf import Listed

_NEAREST = 3  # passages that are kept with an answer that the documents do not have
_ROOM = 4  # one part in so many of the context is kept for the reply, where it may be so long


class Page(Protocol):
    """Where a reply is written down."""

    facts: dict[str, Any]

    def phase(self, name: str, **more: Any) -> None: ...

    def text(self, piece: str) -> None: ...

    def thought(self, piece: str) -> None: ...

    def tell(self, name: str, data: dict[str, Any]) -> None: ...


async def model_of(house: House, settings: ReplySettings) -> str:
    """The model that is asked: the one named, else the server's own, else any that writes. Raises ModelNotFound."""
    if settings.model is not None:
        return settings.model
    writing = [model.name for model in await house.models.listed() if writes(model)]
    if house.settings.model in writing:
        return house.settings.model
    if not writing:
        raise ModelNotFound("no model is here yet", f"Pull one: {house.settings.model} is small.")
    return writing[0]


def writes(model: Listed) -> bool:
    """Whether it is a language model, and not a collection that goes by a model's name."""
    return model.kind != "embedder" and not model.name.startswith("kb:")


def messages_of(settings: ReplySettings, branch: Sequence[Turn]) -> list[Message]:
    """The branch as the model is shown it: what failed before it said anything is left out, with its question."""
    system = [Message("system", settings.system)] if settings.system.strip() else []
    kept: list[Message] = []
    for turn in branch:
        if turn.role == "assistant" and not turn.content.strip():
            if kept:
                kept.pop()
            continue
        kept.append(Message(turn.role, turn.content))
    return [*system, *kept]


async def write_reply(house: House, settings: ReplySettings, branch: Sequence[Turn], page: Page) -> None:
    """Write the reply to the branch's last question."""
    if settings.collection is None:
        await from_model(house, settings, branch, page)
    else:
        await from_collection(house, settings.collection, settings.model, branch, page)


async def from_collection(house: House, name: str, model: str | None, branch: Sequence[Turn], page: Page) -> None:
    """Answer the branch's last question from a collection, with citations that hold; the system text has no say in it."""
    page.facts["collection"] = name
    page.phase("searching")
    began, first = time.monotonic(), None
    collection = await anyio.to_thread.run_sync(house.collections.get, name)
    questions = questions_of([Message(turn.role, turn.content) for turn in branch])
    nearest: list[Any] = []
    async with aclosing(asked(house, collection, questions, model=model)) as events:
        async for event in events:
            if event.name == "retrieval":
                nearest = event.data["hits"][:_NEAREST]
                page.phase("found", n=len(event.data["hits"]))
            elif event.name == "draft":
                page.tell("draft", event.data)
            elif event.name == "token":
                first = first or time.monotonic()
                page.text(event.data["text"])
            else:
                answer = {key: value for key, value in event.data.items() if key not in ("question", "answer")}
                page.facts |= {"model": answer["model"], "answer": answer}
                if answer["abstained"]:
                    answer["nearest"] = nearest
                if answer["usage"]:
                    page.facts["usage"] = answer["usage"]
                now = time.monotonic()
                page.facts["seconds"] = {"first": round((first or now) - began, 3), "total": round(now - began, 3)}


async def from_model(house: House, settings: ReplySettings, branch: Sequence[Turn], page: Page) -> None:
    """Write the reply to the branch's last question. Raises what leasing, rendering and writing raise."""
    name = await model_of(house, settings)
    page.facts["model"] = name
    if not any(running.name == name for running in house.models.running()):
        page.phase("loading", model=name)
    loaded = await house.models.lease(name, kind="llm")
    async with loaded:
        begun = time.monotonic()
        prompt, params = await _prompt(loaded, settings, branch, page)
        page.phase("reading", tokens=len(prompt.ids))
        llm = loaded.need_llm()
        thinking = Thinking(opened_by(prompt.ids, llm.tokenizer))
        count, first = 0, None
        writing = await write_chat(loaded, prompt, params)
        try:
            async with writing:
                async for _, token in writing:
                    if first is None and token.id is not None:
                        first = time.monotonic()
                        page.phase("writing")
                    count += token.id is not None
                    _say(page, thinking.push(token.text))
                    if token.finish_reason is not None:
                        page.facts["finish"] = token.finish_reason
        finally:  # stopped or failed, what was held back is text of the reply too
            _say(page, thinking.flush())
            now = time.monotonic()
            page.facts["usage"] = {"prompt_tokens": len(prompt.ids), "completion_tokens": count}
            page.facts["seconds"] = {"first": round((first or now) - begun, 3), "total": round(now - begun, 3)}


async def _prompt(loaded: Loaded, settings: ReplySettings, branch: Sequence[Turn], page: Page) -> tuple[Prompt, Any]:
    """The branch's prompt, its oldest turns left out where it is too long for an answer to fit beside it."""
    llm = loaded.need_llm()
    params = params_of(settings.sampling, loaded.parameters)
    room = max(1, min(params.max_tokens, llm.context_length // _ROOM))
    prompt = await render(loaded, messages_of(settings, branch), truncate=True, room=room)
    page.facts["context"] = llm.context_length
    if prompt.dropped:
        page.facts["dropped"] = prompt.dropped
    return prompt, replace(params, max_tokens=min(params.max_tokens, llm.context_length - len(prompt.ids)))


def _say(page: Page, split: Any) -> None:
    if split.thought:
        page.thought(split.thought)
    for piece in split.answer:
        if piece:
            page.text(str(piece))


async def measured(house: House, settings: ReplySettings, branch: Sequence[Turn], draft: str) -> dict[str, Any]:
    """How full the context is with a draft asked: {"tokens", "context", "dropped"}. Loads the model."""
    loaded = await house.models.lease(await model_of(house, settings), kind="llm")
    async with loaded:
        llm = loaded.need_llm()
        params = params_of(settings.sampling, loaded.parameters)
        asked = [*messages_of(settings, branch), Message("user", draft or " ")]
        room = max(1, min(params.max_tokens, llm.context_length // _ROOM))
        rendered = await render(loaded, asked, truncate=True, room=room)
        tokens = len(rendered.ids)
        return {"tokens": tokens, "context": llm.context_length, "dropped": rendered.dropped, "room": room}
