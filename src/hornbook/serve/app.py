"""The application: one House that every room of the server shares, and the routes of the rooms.

request -> Front (number, log, count, drain) -> guard's layers -> router -> room's handler -> house.models ...
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import isawaitable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hornbook import __version__
from hornbook.serve import adapters, errors, guard, kb, ollama, openai, shelves, web
from hornbook.serve.conversations import routes as conversations
from hornbook.serve.errors import Busy
from hornbook.serve.metrics import CONTENT_TYPE, Metrics
from hornbook.serve.models import Models
from hornbook.serve.options import Options
from hornbook.settings import Settings

log = logging.getLogger("hornbook.serve")
ALWAYS = ("/health", "/metrics")  # answered also while the server stops


@dataclass
class House:
    """What the rooms of one server share. ``keys``, ``collections``, ``conversations``: set by their rooms."""

    settings: Settings
    options: Options
    metrics: Metrics
    models: Models
    keys: Any = None
    collections: Any = None
    conversations: Any = None
    draining: bool = False
    open: int = 0  # requests being answered
    closing: list[Callable[[], Any]] = field(default_factory=list)  # what the rooms do when the server ends

    @property
    def folder(self) -> Path:
        """Where the server keeps what it must find again."""
        return self.settings.home / "server"

    def on_close(self, work: Callable[[], Any]) -> None:
        """Do this when the server ends, before its models go; what is awaitable is awaited."""
        self.closing.append(work)


def create_app(options: Options, settings: Settings, paths: tuple[Path, ...] = ()) -> FastAPI:
    """The server's application. ``paths``: models that are no part of the store. No model is loaded yet."""
    metrics = Metrics()
    house = House(settings, options, metrics, Models(settings, options, metrics, paths=paths))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for work in reversed(house.closing):
            try:
                done = work()
                if isawaitable(done):
                    await done
            except Exception:  # one room's trouble leaves the others to close in order
                log.exception("a room could not be closed")
        await house.models.close()

    app = FastAPI(title="Hornbook", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.hornbook = house
    errors.install(app)
    app.include_router(_basics(house))
    app.include_router(adapters.router(house))
    app.include_router(openai.router(house))
    app.include_router(ollama.router(house))
    app.include_router(conversations.router(house))
    app.include_router(kb.router(house))
    app.include_router(shelves.router(house))
    app.include_router(web.router(house))
    guard.install(app, house)
    app.add_middleware(Front, house=house)
    return app


def _basics(house: House) -> APIRouter:
    router = APIRouter()

    @router.get("/health", tags=["server"])
    async def health() -> JSONResponse:
        """Whether the server takes requests. Models are loaded when they are asked for."""
        state = "draining" if house.draining else "ok"
        loaded = [running.name for running in house.models.running()]
        body = {"status": state, "version": __version__, "loaded": loaded, "open": house.open}
        return JSONResponse(body, 503 if house.draining else 200)

    @router.get("/metrics", tags=["server"])
    async def metrics() -> Response:
        """Everything that the server counts, for Prometheus."""
        return Response(house.metrics.text(), media_type=CONTENT_TYPE)

    return router


class Front:
    """The outermost layer: numbers, counts and logs requests, refuses new ones while the server stops, and turns what nobody
    expected into an answer. In plain ASGI, so that a handler sees its client go."""

    def __init__(self, app: ASGIApp, house: House) -> None:
        self.app = app
        self.house = house

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        house, begun, status = self.house, time.perf_counter(), 0
        number = uuid.uuid4().hex[:16]
        scope["hornbook.request"] = number

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message.get("headers", ())
                if not any(name == b"x-request-id" for name, _ in headers):
                    message["headers"] = [*headers, (b"x-request-id", number.encode())]
            await send(message)

        request = Request(scope)
        house.open += 1
        house.metrics.open.inc()
        try:
            if house.draining and scope["path"] not in ALWAYS:
                busy = Busy("the server is being stopped", "Ask again when it runs.")
                await errors.response_of(request, busy)(scope, receive, sending)
            else:
                await self.app(scope, receive, sending)
        except asyncio.CancelledError:
            status = status or 499
            raise
        except Exception as error:
            response = errors.unexpected(request, error)
            if status:  # it had begun to answer: the connection is cut, which a client can tell from an end
                raise
            await response(scope, receive, sending)
        finally:
            house.open -= 1
            house.metrics.open.dec()
            house.metrics.requests.labels(_route(scope), str(status or 499)).inc()
            if scope["path"] not in ALWAYS:
                ms = round(1000 * (time.perf_counter() - begun), 1)
                told = {
                    "request": number,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status or 499,
                    "ms": ms,
                }
                log.info("answered", extra=told | scope.get("hornbook.log", {}))


def _route(scope: Scope) -> str:
    """The path with its parameters by name, so that what is counted has few labels."""
    if "route" not in scope:
        return "other"
    path = str(scope["path"])
    for name, value in scope.get("path_params", {}).items():
        path = path.replace(str(value), f"{{{name}}}") if value else path
    return path
