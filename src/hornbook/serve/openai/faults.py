"""Errors as OpenAI's API words them, whatever raised them, so that its clients raise their own classes.

    {"error": {"message": "...", "type": "invalid_request_error", "param": "messages[0].content", "code": null}}

What a body's form forbids is 400 here (FastAPI's own answer would be 422), with the field's path as ``param``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeAlias

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from hornbook.errors import ContextTooLong, DeadlineExceeded, HornbookError, ModelNotFound, UsageError
from hornbook.serve.errors import ClientGone, NotThere, message_of, status_of

# HTTP status -> OpenAI's type of error; any other 4xx is an invalid request, any other 5xx the server's
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
PASSING = (503, 507)  # no failure of the server: it is full for now, or being stopped
CLIENT_GONE = 499  # nginx's status for it
CODES = {401: "invalid_api_key", 413: "request_too_large", 429: "rate_limit_exceeded"}

ErrorBody: TypeAlias = dict[str, dict[str, str | None]]

log = logging.getLogger("hornbook.serve")


class Fault(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Failed(BaseModel):
    """OpenAI's form of an error, for the API's own description."""

    error: Fault


class RequestFault(UsageError):
    """The request is wrong, and ``param`` is where; ``code`` as OpenAI's API has it, ``status`` HTTP's."""

    def __init__(
        self, what: str, remedy: str = "", *, param: str | None = None, code: str | None = None, status: int = 400
    ) -> None:
        super().__init__(what, remedy)
        self.param, self.code, self.status = param, code, status


def error_body(message: str, status: int, *, param: str | None = None, code: str | None = None) -> ErrorBody:
    """OpenAI's body of an error with that HTTP status."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code or CODES.get(status)}}


def explained(error: HornbookError) -> tuple[int, ErrorBody]:
    """(HTTP status, body) of one of Hornbook's own errors."""
    message = message_of(error)
    if isinstance(error, RequestFault):
        return error.status, error_body(message, error.status, param=error.param, code=error.code)
    status, param, code = status_of(error), None, None
    if isinstance(error, ContextTooLong):
        code = "context_length_exceeded"
    elif isinstance(error, ModelNotFound | NotThere):
        param, code = "model", "model_not_found"
    elif isinstance(error, DeadlineExceeded):
        code = "timeout"
    return status, error_body(message, status, param=param, code=code)


def _misformed(errors: Sequence[Mapping[str, Any]]) -> ErrorBody:
    """What pydantic found, as OpenAI says it: the first fault, and how many more there are."""
    first = errors[0]
    where = ""
    for part in first["loc"][1:]:  # behind "body", "query" or "path"
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    kind, more = first["type"], f" ({len(errors) - 1} more faults)" if len(errors) > 1 else ""
    if kind == "missing":
        return error_body(f"Missing required parameter: {where or 'a JSON body'!r}{more}.", 400, param=where or None)
    if kind == "extra_forbidden":
        message = f"Unrecognized request argument supplied: {where}{more}."
        return error_body(message, 400, param=where, code="unknown_parameter")
    if not where and kind in ("model_attributes_type", "model_type", "dict_type"):
        return error_body("The body must be a JSON object, sent as application/json.", 400)
    if kind == "json_invalid":
        reason = (first.get("ctx") or {}).get("error", first["msg"])
        return error_body(f"The body is not valid JSON: {reason}.", 400)
    return error_body(f"Invalid value for {where or 'the body'!r}: {first['msg']}{more}.", 400, param=where or None)


def respond(status: int, body: ErrorBody) -> Response:
    """The response; it says how long to wait where there is a sense in trying again."""
    headers = {"Retry-After": "5"} if status in (429, 503) else {}
    return JSONResponse(body, status, headers)


class OpenAIRoute(APIRoute):
    """A route whose errors are in OpenAI's form."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return respond(400, _misformed(error.errors()))
            except HTTPException as error:
                body = error_body(str(error.detail), error.status_code)
                return JSONResponse(body, error.status_code, error.headers)
            except ClientGone:
                return Response(status_code=CLIENT_GONE)  # which nobody reads
            except HornbookError as error:
                status, body = explained(error)
                if status >= 500 and status not in PASSING:
                    log.error("%s %s: %s", request.method, request.url.path, error.what)
                return respond(status, body)
            except RecursionError:
                return respond(400, error_body("The body is nested too deeply.", 400))

        return guarded
