"""The page: plain files beside this one, sent as they are, with a policy that lets a browser load nothing else.

Each file has an ETag by its content; vendored libraries, whose folders hold their version, may be kept for ever, the rest
is asked after each time. No inline script or style, no frame around it, no other origin: what a model or a document says
can name an address, and the browser will still not fetch it.
"""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

if TYPE_CHECKING:
    from hornbook.serve.app import House

ROOT = Path(__file__).parent

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
# Debian's and Windows' tables of types differ, and a module of another type is not run.
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".html": "text/html",
          ".svg": "image/svg+xml", ".woff2": "font/woff2", ".json": "application/json"}  # fmt: skip
_SENT = {*_TYPES, ""}  # "": LICENSE


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page as it is sent."""

    body: bytes
    etag: str
    media_type: str
    forever: bool

    @classmethod
    def read(cls, path: Path) -> Asset:
        body = path.read_bytes()
        kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain"
        if kind.startswith("text/"):
            kind += "; charset=utf-8"
        return cls(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"', kind, "vendor" in path.relative_to(ROOT).parts)

    def response(self, request: Request) -> Response:
        headers = {
            "ETag": self.etag,
            "Cache-Control": "public, max-age=31536000, immutable" if self.forever else "no-cache",
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if self.etag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers, media_type=self.media_type)


def assets() -> dict[str, Path]:
    """The page's files by their address. Nothing else can be asked for, so no address reaches the file system."""
    return {
        path.relative_to(ROOT).as_posix(): path
        for path in sorted(ROOT.rglob("*"))
        if path.is_file() and path.suffix in _SENT and "__pycache__" not in path.parts
    }


def router(house: House) -> APIRouter:
    """``/`` and the files that it names."""
    routes = APIRouter(include_in_schema=False)
    known = assets()
    read: dict[str, tuple[float, Asset]] = {}

    def asset(name: str) -> Asset:
        if name not in known:
            raise HTTPException(404)
        changed = known[name].stat().st_mtime
        if name not in read or read[name][0] != changed:
            read[name] = changed, Asset.read(known[name])
        return read[name][1]

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return asset("index.html").response(request)

    def send(folder: str) -> None:
        @routes.api_route(f"/{folder}/{{name:path}}", methods=["GET", "HEAD"])
        async def file(name: str, request: Request) -> Response:
            return asset(f"{folder}/{name}").response(request)

    for folder in sorted({name.split("/")[0] for name in known if "/" in name}):
        send(folder)

    @routes.api_route("/docs", methods=["GET", "HEAD"])
    async def docs(request: Request) -> Response:
        return asset("docs.html").response(request)

    @routes.api_route("/icon.svg", methods=["GET", "HEAD"])
    async def icon(request: Request) -> Response:
        return asset("icon.svg").response(request)

    @routes.get("/favicon.ico")
    async def favicon(request: Request) -> Response:
        return asset("icon.svg").response(request)

    return routes
