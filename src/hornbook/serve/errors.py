"""Errors on the wire: which status a HornbookError has, and the body in the form of the API that was asked.

    /v1/...    {"error": {"message", "type", "param", "code"}}      OpenAI's
    /api/...   {"error": "message"}                                Ollama's
    elsewhere  {"error": {"what", "remedy", "request"}}            our own

What nobody expected is a 500 that names the request, whose traceback is in the log and nowhere else.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from hornbook.errors import (
    ContextTooLong,
    DeadlineExceeded,
    HornbookError,
    ModelClosed,
    ModelNotFound,
    OfflineError,
    RemoteRefused,
    TemplateError,
    UsageError,
)

log = logging.getLogger("hornbook.serve")


class Busy(HornbookError):
    """The server cannot take the request now: it is being stopped, or too many wait already. Later it may."""


class ClientGone(HornbookError):
    """Nobody waits for the answer any more."""


class NoRoom(HornbookError):
    """A model does not fit in the memory that models may take, even without those that nobody uses."""


class NotThere(UsageError):
    """What the request names does not exist."""


class AlreadyThere(UsageError):
    """What the request would make exists."""


class TooLarge(UsageError):
    """The request carries more than this server takes."""


_STATUS: tuple[tuple[type[HornbookError], int], ...] = (
    (ModelNotFound, 404),
    (NotThere, 404),
    (AlreadyThere, 409),
    (TooLarge, 413),
    (ModelClosed, 503),
    (Busy, 503),
    (ClientGone, 499),  # as nginx calls it; seen in the log alone
    (NoRoom, 507),
    (ContextTooLong, 400),
    (UsageError, 400),
    (TemplateError, 400),
    (OfflineError, 400),
    (DeadlineExceeded, 504),
)


_CODES: dict[type[HornbookError], str] = {
    ModelNotFound: "model_not_found",
    ContextTooLong: "context_length_exceeded",
}  # OpenAI's


def status_of(error: HornbookError) -> int:
    """HTTP's status for an error; 500 where it is the server's own trouble (a damaged model, a full disk)."""
    if isinstance(error, RemoteRefused) and 400 <= error.status < 500:
        return error.status
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def message_of(error: HornbookError) -> str:
    """What was wrong and what to do, in one line."""
    return f"{error.what}. {error.remedy}" if error.remedy else error.what


def openai_body(error: HornbookError, *, status: int | None = None, param: str | None = None) -> dict[str, Any]:
    """The error as OpenAI's API tells it; also the data of an event in the middle of a stream."""
    status = status or status_of(error)
    code = _CODES.get(type(error))
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message_of(error), "type": kind, "param": param, "code": code}}


def ollama_body(error: HornbookError) -> dict[str, Any]:
    return {"error": message_of(error)}


def own_body(error: HornbookError, request_id: str) -> dict[str, Any]:
    return {"error": {"what": error.what, "remedy": error.remedy, "request": request_id}}


def request_id(request: Request) -> str:
    """What the log calls this request; also in its answer's X-Request-Id."""
    return str(request.scope.get("hornbook.request", ""))


def response_of(
    request: Request, error: HornbookError, status: int | None = None, param: str | None = None
) -> JSONResponse:
    """The error as an answer to this request."""
    status = status or status_of(error)
    path = request.url.path
    if path.startswith("/v1/") or path == "/v1":
        body = openai_body(error, status=status, param=param)
    elif path.startswith("/api/") and not path.startswith("/api/hornbook/"):
        body = ollama_body(error)
    else:
        body = own_body(error, request_id(request))
    headers = {"Retry-After": "5"} if status == 503 else None
    return JSONResponse(body, status, headers)


def install(app: FastAPI) -> None:
    """Every way of failing becomes an answer with a reason."""

    @app.exception_handler(HornbookError)
    async def named(request: Request, error: HornbookError) -> JSONResponse:
        status = status_of(error)
        if status >= 500 and status not in (503, 507):
            log.error("%s", error.what, exc_info=error, extra={"request": request_id(request)})
        return response_of(request, error, status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        what, param = _first(error)
        return response_of(request, UsageError(what), 400, param)

    @app.exception_handler(ValueError)
    async def unwritable(request: Request, error: ValueError) -> JSONResponse:
        """JSON can write 1e999, and Python reads NaN: numbers that an answer, which repeats them, cannot hold."""
        if not str(error).startswith("Out of range float values"):
            raise error
        what = "the request holds a number that is infinite or none"
        return response_of(request, UsageError(what, "Send numbers of 64 bits."), 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        what = {
            404: f"there is nothing at {request.url.path}",
            405: f"{request.url.path} does not take {request.method}",
        }.get(error.status_code, str(error.detail))
        response = response_of(request, UsageError(what), error.status_code)
        response.headers.update(error.headers or {})
        return response


def unexpected(request: Request, error: Exception) -> JSONResponse:
    """A defect of ours, or a failing machine: logged in full, told in a line."""
    log.error("unexpected %s", type(error).__name__, exc_info=error, extra={"request": request_id(request)})
    what = f"the server failed ({type(error).__name__}); request {request_id(request)} in its log"
    return response_of(request, HornbookError(what, "This is a defect of Hornbook: please report it."), 500)


def _first(error: RequestValidationError) -> tuple[str, str]:
    """(what is wrong with the first field that is wrong, its name), without the value: it may be a prompt."""
    problem = error.errors()[0]
    place = [str(part) for part in problem["loc"] if part != "body"]
    name = ".".join(place) or "the body"
    return f"{name}: {problem['msg']}", name
