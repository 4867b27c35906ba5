"""A page from the internet becomes a document: the whole way, with a wire that ends in this process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpcore
import httpx
from fastapi import FastAPI

from hornbook.serve import errors
from hornbook.serve.kb.fetch import Fetcher
from hornbook.serve.kb.routes import router
from hornbook.serve.options import Options
from hornbook.settings import Settings

PAGE = b"<title>Kiwis</title><script>alert(1)</script><h1>Kiwis</h1><p>The kiwi lays one egg.</p>"


class NoModels:
    """The models of a server that has none, so that a job fails and says so."""

    more: list[Any] = []

    async def lease(self, name: str, *, kind: str | None = None) -> Any:
        raise errors.Busy(f"{name} cannot be had", "Try later.")


def house_of(home: Path, **more: Any) -> Any:
    settings = Settings.load(home=home, **more)
    return SimpleNamespace(
        settings=settings, options=Options(max_upload_mb=1), models=NoModels(), draining=False, collections=None
    )


async def visit(house: Any, *urls: str) -> tuple[list[httpx.Response], list[str], dict[str, Any]]:
    """Add these URLs to a collection; -> the answers, the addresses that were connected to, the documents."""
    connected: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(PAGE) + PAGE)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)

    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34"] if host == "example.org" else ["10.0.0.7"]

    async def connect(address: str, port: int, timeout: float) -> httpcore.AsyncNetworkStream:
        connected.append(address)
        own = server.sockets[0].getsockname()[1]
        return await httpcore.AnyIOBackend().connect_tcp("127.0.0.1", own, timeout=timeout)

    app = FastAPI()
    errors.install(app)
    app.include_router(router(house, Fetcher(resolve=resolve, connect=connect)))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client,
    ):
        await client.post("/kb", json={"name": "web"})
        answers = [await client.post("/kb/web/documents/url", json={"url": url}) for url in urls]
        while (await client.get("/kb/web")).json()["busy"]:
            await asyncio.sleep(0.01)
        documents = (await client.get("/kb/web/documents")).json()
        documents["jobs"] = (await client.get("/kb/web/jobs")).json()["jobs"]
    server.close()
    return answers, connected, documents


def test_a_page_becomes_a_document_with_its_address_once(home: Path) -> None:
    (first, again), connected, documents = asyncio.run(
        visit(house_of(home), "http://example.org/birds/kiwi#egg", "http://example.org/birds/kiwi")
    )
    assert first.status_code == again.status_code == 202 and connected == ["93.184.216.34"] * 2
    (document,) = documents["documents"]
    assert (document["name"], document["url"]) == ("kiwi.html", "http://example.org/birds/kiwi")
    assert again.json()["documents"][0]["duplicate"]
    assert (home / "collections" / "web" / "files" / f"{document['id']}.html").read_bytes() == PAGE
    # what cannot be read now waits, and the job says why
    assert document["state"] == "waiting"
    assert documents["jobs"][0]["state"] == "failed" and documents["jobs"][0]["error"]["what"] == "minilm cannot be had"


def test_a_name_inside_and_an_offline_server_connect_to_nothing(home: Path) -> None:
    (inside,), connected, documents = asyncio.run(visit(house_of(home), "http://intranet.example.com/"))
    assert inside.status_code == 400 and "10.0.0.7" in inside.json()["error"]["what"]
    assert connected == [] and documents["total"] == 0
    (offline,), connected, _ = asyncio.run(visit(house_of(home / "b", offline=True), "http://example.org/"))
    assert offline.status_code == 400 and "offline" in offline.json()["error"]["what"] and connected == []
    for folder in (home, home / "b"):
        assert not list((folder / "collections" / "web" / "incoming").iterdir())
