"""The endpoints of collections; the package's docstring has their forms."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import anyio
import anyio.to_thread
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from hornbook.errors import HornbookError, ModelNotFound, OfflineError, UsageError
from hornbook.retrieve.index import Mode
from hornbook.serve.errors import own_body, request_id
from hornbook.serve.kb import asking, forms, taking
from hornbook.serve.kb.addresses import check_url
from hornbook.serve.kb.catalogue import State
from hornbook.serve.kb.collections import Collection, Collections
from hornbook.serve.kb.fetch import Fetcher
from hornbook.serve.kb.ingesting import Ingesting
from hornbook.serve.kb.upload import Intake, Received, receive
from hornbook.serve.shelf import Listed
from hornbook.serve.writing import while_connected
from hornbook.types import Embedder

if TYPE_CHECKING:
    from hornbook.serve.app import House

log = logging.getLogger("hornbook.serve")
T = TypeVar("T")
SIGN_OF_LIFE = 15.0  # seconds without an event, after which a comment says that the stream lives
_LONGEST_QUESTION = 20_000  # characters
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}
# A file of somebody else's is for a person to save, and for a browser never a page of this server.
_AS_DOWNLOAD = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewCollection(Body):
    name: str | None = Field(default=None, max_length=200)
    title: str = Field(default="", max_length=200)
    description: str = Field(default="", max_length=2_000)
    embedder: str | None = Field(default=None, min_length=1, max_length=300)
    model: str | None = Field(default=None, min_length=1, max_length=300)


class Address(Body):
    url: str = Field(min_length=1, max_length=4_096)


class SearchBody(Body):
    query: str = Field(min_length=1, max_length=_LONGEST_QUESTION)
    k: int = Field(default=10, ge=1, le=100)
    mode: Mode = "hybrid"
    documents: list[str] = Field(default=[], max_length=1_000)


class AskBody(Body):
    question: str = Field(min_length=1, max_length=_LONGEST_QUESTION)
    k: int = Field(default=5, ge=1, le=50)
    strict: bool = True
    model: str | None = Field(default=None, min_length=1, max_length=300)
    stream: bool = True


def router(house: House, fetcher: Fetcher | None = None) -> APIRouter:
    """The routes under /kb. Sets ``house.collections``; takes up unfinished work when the server starts."""
    collections = Collections(house.settings.home / "collections", house.settings)
    house.collections = collections
    fetcher = fetcher or Fetcher()
    max_bytes = int(house.options.max_upload_mb * 2**20)
    max_file_bytes = int(min(house.settings.max_file_mb, house.options.max_upload_mb) * 2**20)

    @asynccontextmanager
    async def open_embedder(name: str) -> AsyncIterator[Embedder]:
        try:
            leased = await house.models.lease(name, kind="embedder")
        except ModelNotFound:
            if name != house.settings.embedder or house.settings.offline:
                raise
            # the first documents of a new home: its own embedding model is fetched, as hornbook ask does
            await anyio.to_thread.run_sync(house.models.shelf.store.ensure, name)
            leased = await house.models.lease(name, kind="embedder")
        async with leased as loaded:
            yield loaded.need_embedder()

    ingesting = Ingesting(open_embedder, lambda: house.draining)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        resuming = asyncio.create_task(_resume(collections, ingesting))
        try:
            yield
        finally:
            resuming.cancel()
            await ingesting.close()
            await anyio.to_thread.run_sync(collections.close)

    async def in_thread(work: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(work, limiter=collections.threads)

    async def named(name: str) -> Collection:
        return await in_thread(lambda: collections.get(name))

    async def described(collection: Collection) -> dict[str, Any]:
        form = await in_thread(collection.describe)
        return form | {"busy": ingesting.busy(collection.name)}

    def mend(collection: Collection) -> None:
        """Have the documents of an index that was found damaged read again."""
        if collection.is_begun_anew:
            collection.is_begun_anew = False
            ingesting.want(collection)

    def taken_response(request: Request, collection: Collection, taken: taking.Taken) -> JSONResponse:
        job = ingesting.want(collection).to_json() if taken.fresh else None
        form = taken.to_json() | {"job": job}
        if taken.documents:
            return JSONResponse(form, 202)
        first = taken.errors[0] if taken.errors else {"error": "there is no document in it", "remedy": "Send some."}
        error = UsageError(f"nothing could be taken: {first['error']}", first["remedy"])
        return JSONResponse(form | own_body(error, request_id(request)), 422)

    api = APIRouter(prefix="/kb", tags=["collections"], lifespan=lifespan)
    house.models.more.append(lambda: _as_models(collections))

    # ------------------------------------------------------------------------------------------------- collections

    @api.post("", status_code=201)
    async def create(body: NewCollection) -> dict[str, Any]:
        """Make a collection; its name is made of its title where it has none."""
        if not body.name and not body.title.strip():
            raise UsageError("a collection needs a name or a title", 'Send {"title": "My papers"}.')
        if body.embedder is not None:
            await _check_embedder(house, body.embedder)
        if body.model is not None:
            await asking.check_model(house, body.model)
        made = await in_thread(
            lambda: collections.create(
                body.name, title=body.title, description=body.description, embedder=body.embedder, model=body.model
            )
        )
        return await described(made)

    @api.get("")
    async def list_all() -> dict[str, Any]:
        """Every collection of this home."""
        found, broken = await in_thread(collections.all)
        told = [{"name": name, "what": error.what, "remedy": error.remedy} for name, error in broken.items()]
        return {"collections": [await described(one) for one in found], "broken": told}

    @api.get("/{name}")
    async def show(name: str) -> dict[str, Any]:
        """One collection."""
        return await described(await named(name))

    @api.delete("/{name}", status_code=204)
    async def delete(name: str) -> Response:
        """Delete a collection with all that is in it."""
        known = await in_thread(lambda: collections.check(name))
        await ingesting.forget(known)
        await in_thread(lambda: collections.delete(known))
        return Response(status_code=204)

    # --------------------------------------------------------------------------------------------------- documents

    @api.post("/{name}/documents", status_code=202)
    async def upload(name: str, request: Request) -> JSONResponse:
        """Put files in: multipart/form-data. A .zip is opened; what is here already is told so."""
        collection = await named(name)
        intake = Intake(
            request.headers.get("content-type", ""),
            collection.incoming,
            max_bytes=max_bytes,
            max_file_bytes=max_file_bytes,
        )
        files = await receive(intake, request.stream())
        taken = await in_thread(
            lambda: taking.take(collection, files, max_bytes=max_bytes, max_file_bytes=max_file_bytes)
        )
        return taken_response(request, collection, taken)

    @api.post("/{name}/documents/url", status_code=202)
    async def fetch(name: str, body: Address, request: Request) -> JSONResponse:
        """Put in what is at an address of the public internet."""
        collection = await named(name)
        check_url(body.url)
        if house.settings.offline:
            raise OfflineError("this server was told to stay offline", "Download it yourself and send the file.")
        path = collection.incoming / secrets.token_hex(16)
        fetched = await while_connected(request, fetcher.fetch(body.url, path, max_bytes=max_file_bytes))
        taken = taking.Taken()
        file = Received(fetched.name, fetched.path, fetched.size, fetched.sha256)
        await in_thread(lambda: taking.keep(collection, taken, file, fetched.url))
        return taken_response(request, collection, taken)

    @api.get("/{name}/documents")
    async def documents(
        name: str,
        state: State | None = None,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> dict[str, Any]:
        """The documents of a collection, in the order in which they came."""
        catalogue = (await named(name)).catalogue
        found = await in_thread(lambda: catalogue.documents(state=state, offset=offset, limit=limit))
        counts = await in_thread(catalogue.counts)
        total = counts[state] if state else sum(counts[one] for one in ("waiting", "reading", "ready", "failed"))
        return {"documents": [one.to_json() for one in found], "total": total}

    @api.get("/{name}/documents/{id}")
    async def document(name: str, id: str) -> dict[str, Any]:
        """One document: how far it is, or why it could not be read."""
        collection = await named(name)
        return (await in_thread(lambda: collection.document(id))).to_json()

    @api.delete("/{name}/documents/{id}", status_code=204)
    async def remove(name: str, id: str) -> Response:
        """Delete a document; no search finds it any more."""
        collection = await named(name)
        await in_thread(lambda: collection.remove(id))
        ingesting.want(collection)
        return Response(status_code=204)

    @api.get("/{name}/documents/{id}/file", response_class=FileResponse)
    async def file(name: str, id: str) -> FileResponse:
        """The file as it came, always as a download."""
        collection = await named(name)
        listed = await in_thread(lambda: collection.document(id))
        headers = _AS_DOWNLOAD | {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(listed.name, safe='')}"}
        path = await in_thread(lambda: collection.file_of(listed))
        return FileResponse(path, media_type="application/octet-stream", headers=headers)

    @api.get("/{name}/documents/{id}/text")
    async def text(
        name: str,
        id: str,
        start: Annotated[int, Query(ge=0, le=2**31)] = 0,
        end: Annotated[int, Query(ge=0, le=2**31)] = 0,
        around: Annotated[int, Query(ge=0, le=forms.MOST_AROUND)] = forms.AROUND,
    ) -> dict[str, Any]:
        """A passage of a document and what stands around it, as plain text."""
        if end - start > forms.MOST_AROUND:
            raise UsageError(
                f"a passage has at most {forms.MOST_AROUND:,} characters, not {end - start:,}", "Read on from its end."
            )
        collection = await named(name)

        def passage() -> dict[str, Any]:
            listed = collection.document(id)
            return forms.of_passage(listed, collection.text_of(listed), start, end, around)

        return await in_thread(passage)

    # -------------------------------------------------------------------------------------------------------- jobs

    @api.get("/{name}/jobs")
    async def jobs(name: str) -> dict[str, Any]:
        """What was and is being read, newest first."""
        collection = await named(name)
        return {"jobs": [job.to_json() for job in ingesting.jobs(collection.name)]}

    @api.get("/{name}/jobs/events")
    async def events(name: str) -> StreamingResponse:
        """The jobs and documents as they change, until nothing is left to do."""
        collection = await named(name)
        return _event_stream(ingesting.watch(collection.name))

    @api.delete("/{name}/jobs/{id}")
    async def stop(name: str, id: str) -> dict[str, Any]:
        """Stop a job; what was read stays."""
        collection = await named(name)
        return ingesting.stop(collection.name, id).to_json()

    @api.post("/{name}/reindex", status_code=202)
    async def reindex(name: str) -> dict[str, Any]:
        """Read and embed every document again; the index that there is answers until then."""
        return ingesting.want(await named(name), "reindex").to_json()

    # --------------------------------------------------------------------------------------------- search and answers

    @api.post("/{name}/search")
    async def search(name: str, body: SearchBody) -> dict[str, Any]:
        """The passages nearest to a query, its words marked."""
        collection = await named(name)
        async with await house.models.lease(await in_thread(lambda: collection.embedder), kind="embedder") as loaded:
            shelf = collection.shelf(loaded.need_embedder())

            def found() -> dict[str, Any]:
                hits = shelf.search(body.query, body.k, mode=body.mode, documents=body.documents)
                shown = forms.of_hits(hits, collection.of_hits(hits), body.query)
                return {"query": body.query, "hits": shown, "searched": collection.searched(len(shown))}

            answer = await in_thread(found)
        mend(collection)
        return answer

    @api.post("/{name}/ask", response_model=None)
    async def ask(name: str, body: AskBody, request: Request) -> dict[str, Any] | StreamingResponse:
        """Answer a question from the documents, every sentence cited, or say that they do not answer it."""
        collection = await named(name)
        answering = asking.asked(house, collection, [body.question], k=body.k, strict=body.strict, model=body.model)
        if body.stream:
            first = await anext(answering)  # what is wrong with the request is told by the status
            mend(collection)
            return _event_stream(_behind(first, answering), request)

        async def whole() -> dict[str, Any]:
            form: dict[str, Any] = {}
            async with aclosing(answering) as events:
                async for event in events:
                    if event.name == "retrieval":
                        form["hits"] = event.data["hits"]
                    elif event.name == "answer":
                        form |= event.data
            return form

        return await while_connected(request, whole())

    return api


async def _resume(collections: Collections, ingesting: Ingesting) -> None:
    found, broken = await anyio.to_thread.run_sync(collections.all)
    for collection in found:
        ingesting.resume(collection)
    for name, error in broken.items():
        log.error("a collection cannot be opened", extra={"collection": name, "error": error.what})


async def _check_embedder(house: House, name: str) -> None:
    meaning = await anyio.to_thread.run_sync(house.models.shelf.find, name)
    if meaning.entry.kind not in ("embedder", "unknown"):
        raise UsageError(f"{name} is not an embedding model", "Name one that turns text into vectors: minilm.")


def _as_models(collections: Collections) -> list[Listed]:
    """The collections as names that can be asked for: "kb:papers"."""
    found = []
    for collection in collections.all()[0]:
        form = collection.describe()
        made = datetime.fromtimestamp(form["created"], UTC).isoformat()
        found.append(Listed(f"kb:{collection.name}", "collection", form["bytes"], made, ""))
    return found


async def _behind(first: asking.Event, rest: AsyncGenerator[asking.Event, None]) -> AsyncGenerator[asking.Event, None]:
    try:
        yield first
        async for event in rest:
            yield event
    finally:
        await rest.aclose()


def _event_stream(events: AsyncGenerator[Any, None], request: Request | None = None) -> StreamingResponse:
    return StreamingResponse(_lines(events, request), media_type="text/event-stream", headers=_HEADERS)


async def _lines(events: AsyncGenerator[Any, None], request: Request | None) -> AsyncIterator[str]:
    """Server-sent events, with a comment now and then where nothing happens; an error in the middle is the last event."""
    upcoming: asyncio.Future[Any] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait([upcoming], timeout=SIGN_OF_LIFE)
            if not done:
                yield ": still here\n\n"
                continue
            try:
                name, data = upcoming.result()
            except StopAsyncIteration:
                return
            upcoming = None
            yield f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
    except HornbookError as error:
        body = own_body(error, request_id(request) if request else "")
        yield f"event: error\ndata: {json.dumps(body, ensure_ascii=False)}\n\n"
    finally:
        with anyio.CancelScope(shield=True):  # the client is gone, and what it asked for has yet to be ended
            if upcoming is not None and not upcoming.done():
                upcoming.cancel()
                await asyncio.wait([upcoming])
            await events.aclose()
