"""What the page asks about conversations. Errors are {"error": {"what", "remedy", "request"}}.

GET    /api/hornbook/status                          the server's version, its models and adapters, the usual model
GET    /api/hornbook/conversations                   ?search=&limit=&before=&before_id=  -> [Row], newest first
POST   /api/hornbook/conversations                   {title?, settings?} -> Conversation
GET    /api/hornbook/conversations/ID                -> Conversation and its messages, of all branches
PATCH  /api/hornbook/conversations/ID                {title?, leaf?, settings?} -> Conversation
DELETE /api/hornbook/conversations/ID                -> 204; a reply that is being written is stopped
GET    /api/hornbook/conversations/ID/export         ?form=markdown|json
POST   /api/hornbook/conversations/ID/reply          {parent, question?, settings?} -> {"question", "reply"}
                                                     question: a new turn below ``parent``, and a reply to it.
                                                     none: another reply to the question ``parent``.
GET    /api/hornbook/conversations/ID/events         SSE (replies.py), taken up again with Last-Event-ID;
                                                     ``event: idle`` where nothing is being written
POST   /api/hornbook/conversations/ID/stop           -> Conversation and its messages
POST   /api/hornbook/conversations/ID/context        {leaf?, draft, settings} -> {"tokens", "context", "dropped", "room"}
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import Field

from hornbook import __version__
from hornbook.checkpoint.catalog import SHORT_NAMES
from hornbook.serve.conversations import export, writers
from hornbook.serve.conversations.replies import Event, Replies, Reply
from hornbook.serve.conversations.settings import Body, ReplySettings
from hornbook.serve.conversations.store import Conversations, Turn

if TYPE_CHECKING:
    from hornbook.serve.app import House

QUESTION = 400_000  # characters
Id = Annotated[str, Field(min_length=1, max_length=64)]


class NewConversation(Body):
    title: str = Field(default="", max_length=1000)
    settings: ReplySettings = Field(default_factory=ReplySettings)


class Changed(Body):
    title: str | None = Field(default=None, min_length=1, max_length=1000)
    leaf: Id | None = None
    settings: ReplySettings | None = None


class NewReply(Body):
    parent: Id | None = None
    question: str | None = Field(default=None, min_length=1, max_length=QUESTION)
    settings: ReplySettings = Field(default_factory=ReplySettings)


class Draft(Body):
    leaf: Id | None = None
    draft: str = Field(default="", max_length=QUESTION)
    settings: ReplySettings = Field(default_factory=ReplySettings)


def router(house: House) -> APIRouter:
    """The routes, over the conversations of this home."""
    store = Conversations(house.folder / "conversations.sqlite")
    replies = Replies(store)
    house.conversations = store

    async def close() -> None:
        await replies.close()
        store.close()

    house.on_close(close)
    routes = APIRouter(prefix="/api/hornbook", tags=["page: conversations"])

    async def whole(id: str) -> dict[str, Any]:
        known = await in_thread(store.get, id)
        turns = await in_thread(store.messages, id)
        writing = replies.of(id)
        if writing is not None:  # it is further on than what was kept last
            turns = [writing.now if turn.id == writing.turn.id else turn for turn in turns]
        return {**known.to_json(), "messages": [turn.to_json() for turn in turns], "writing": writing is not None}

    @routes.get("/status")
    async def status() -> dict[str, Any]:
        return await describe(house)

    @routes.get("/conversations")
    async def listed(
        search: Annotated[str, Query(max_length=500)] = "",
        limit: Annotated[int, Query(ge=1, le=1001)] = 50,
        before: float | None = None,
        before_id: Annotated[str, Query(max_length=64)] = "",
    ) -> list[dict[str, Any]]:
        rows = await in_thread(
            lambda: store.listed(limit=limit, before=None if before is None else (before, before_id), search=search)
        )
        return [
            {
                "id": row.id,
                "title": row.title,
                "updated": row.updated,
                "writing": row.writing,
                "snippet": row.snippet or None,
            }
            for row in rows
        ]

    @routes.post("/conversations", status_code=201)
    async def create(body: NewConversation) -> dict[str, Any]:
        made = await in_thread(lambda: store.create(body.title, body.settings.model_dump(exclude_none=True)))
        return {**made.to_json(), "messages": [], "writing": False}

    @routes.get("/conversations/{id}")
    async def get(id: str) -> dict[str, Any]:
        return await whole(id)

    @routes.patch("/conversations/{id}")
    async def change(id: str, body: Changed) -> Any:
        settings = None if body.settings is None else body.settings.model_dump(exclude_none=True)
        await in_thread(lambda: store.change(id, title=body.title, leaf=body.leaf, settings=settings))
        return (await in_thread(store.get, id)).to_json()

    @routes.delete("/conversations/{id}", status_code=204)
    async def delete(id: str) -> None:
        await in_thread(store.get, id)
        await replies.stop(id)
        await in_thread(store.delete, id)

    @routes.get("/conversations/{id}/export")
    async def exported(id: str, form: Literal["markdown", "json"] = "markdown") -> Response:
        known = await in_thread(store.get, id)
        if form == "json":
            text, kind = export.as_json(known, await in_thread(store.messages, id)), "application/json"
        else:
            branch = await in_thread(store.path, known.leaf) if known.leaf else []
            text, kind = export.as_markdown(known, branch), "text/markdown; charset=utf-8"
        ending = {"markdown": "md", "json": "json"}[form]
        return Response(
            text,
            media_type=kind,
            headers={"Content-Disposition": f'attachment; filename="conversation-{known.id}.{ending}"'},
        )

    @routes.post("/conversations/{id}/reply", status_code=202)
    async def reply(id: str, body: NewReply) -> dict[str, Any]:
        asked: list[Turn] = []

        def make() -> Turn:
            settings = body.settings.model_dump(exclude_none=True)
            question, made = store.begin(id, body.parent, body.question, {})
            store.change(id, settings=settings)
            asked.extend([question] if question is not None else [])
            return made

        async def write(page: Reply) -> None:
            assert page.turn.parent is not None
            branch = await in_thread(store.path, page.turn.parent)
            await writers.write_reply(house, body.settings, branch, page)

        begun = await replies.begin(id, make, write)
        return {"question": asked[0].to_json() if asked else None, "reply": begun.now.to_json()}

    @routes.get("/conversations/{id}/events")
    async def events(
        id: str, request: Request, last_event_id: Annotated[str | None, Header(max_length=100)] = None
    ) -> StreamingResponse:
        await in_thread(store.get, id)
        return StreamingResponse(
            _sse(replies.of(id), last_event_id),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @routes.post("/conversations/{id}/stop")
    async def stop(id: str) -> dict[str, Any]:
        await replies.stop(id)
        return await whole(id)

    @routes.post("/conversations/{id}/context")
    async def context(id: str, body: Draft) -> dict[str, Any]:
        branch = await in_thread(store.path, body.leaf) if body.leaf else []
        return await writers.measured(house, body.settings, branch, body.draft)

    return routes


async def in_thread(work: Any, *values: Any) -> Any:
    return await anyio.to_thread.run_sync(work, *values)


async def _sse(reply: Reply | None, last: str | None) -> AsyncIterator[str]:
    if reply is None:
        yield "event: idle\ndata: {}\n\n"
        return
    async for event in reply.follow(last):
        yield ": \n\n" if event is None else _line(event)


def _line(event: Event) -> str:
    return f"id: {event.id}\nevent: {event.name}\ndata: {json.dumps(event.data, ensure_ascii=False)}\n\n"


async def describe(house: House) -> dict[str, Any]:
    """What the page must know before anything is asked."""
    running = {model.name for model in house.models.running()}
    models = [
        {
            "name": model.name,
            "size": model.size,
            "parameters": model.parameters,
            "quantisation": model.quantisation,
            "context": model.context_length,
            "loaded": model.name in running,
        }
        for model in await house.models.listed()
        if writers.writes(model)
    ]
    usual = house.settings.model
    short = SHORT_NAMES.get(usual)
    return {
        "version": __version__,
        "models": models,
        "adapters": await in_thread(house.models.shelf.adapters),
        "usual": usual,
        "usual_download": None if short is None else short.download,
        "offline": house.settings.offline,
        "max_upload_mb": house.options.max_upload_mb,
    }
