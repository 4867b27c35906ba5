"""A request turned away: the status, what was wrong, what to do, in the words of the API that was called."""

from __future__ import annotations

import json
from collections.abc import Sequence

Header = tuple[bytes, bytes]


class Refusal(Exception):
    """Raised by a check of the guard; ``answer`` writes it. ``code`` is a stable word for programs."""

    def __init__(self, status: int, code: str, what: str, remedy: str, headers: Sequence[Header] = ()) -> None:
        super().__init__(what)
        self.status = status
        self.code = code
        self.what = what
        self.remedy = remedy
        self.headers = tuple(headers)


def answer(refusal: Refusal, path: str, request_id: str) -> tuple[list[Header], bytes]:
    """Headers and body of a refusal: OpenAI's form below /v1, Ollama's below /api, our own elsewhere."""
    body = json.dumps(_form(refusal, path, request_id), ensure_ascii=False).encode()
    headers = [
        (b"content-type", b"application/json; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *refusal.headers,
    ]
    return headers, body


def _form(refusal: Refusal, path: str, request_id: str) -> dict[str, object]:
    sentence = f"{refusal.what}. {refusal.remedy}"
    if path.startswith("/v1/"):
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(refusal.status, "invalid_request_error")
        return {"error": {"message": sentence, "type": kind, "param": None, "code": refusal.code}}
    if path.startswith("/api/") and not path.startswith("/api/hornbook/"):
        return {"error": sentence}
    return {
        "error": {"what": refusal.what, "remedy": refusal.remedy, "code": refusal.code, "request": request_id},
    }


def printable(text: str, limit: int = 200) -> str:
    """One line for a log or an answer: control characters, line ends and what reverses text are written as escapes."""
    cut = text if len(text) <= limit else text[:limit] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
