"""The models as Ollama's API tells them: /api/tags, /api/show, /api/ps, /api/copy, /api/delete, /api/version."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from hornbook import __version__
from hornbook.checkpoint.created import Created, plain_name
from hornbook.checkpoint.modelfile import Modelfile, written
from hornbook.engine.thinking import PAIRS
from hornbook.errors import ModelNotFound, UsageError
from hornbook.serve.ollama.bodies import Copy, Delete, Show, described, read
from hornbook.serve.shelf import Listed

if TYPE_CHECKING:
    from hornbook.checkpoint.store import Entry
    from hornbook.serve.app import House

SPOKEN = "0.13.0"  # the version of Ollama whose API this is; its clients refuse servers that seem too old
_NEVER = datetime(9999, 12, 31, tzinfo=UTC)


def router(house: House) -> APIRouter:
    routes = APIRouter()
    shelf = house.models.shelf

    @routes.head("/")
    async def running() -> Response:
        """How Ollama's clients see that somebody is there. (GET shows the page.)"""
        return PlainTextResponse("Ollama is running")

    @routes.get("/api/version")
    async def version() -> dict[str, str]:
        """The version of Ollama's API that is spoken here, and Hornbook's own."""
        return {"version": SPOKEN, "hornbook": __version__}

    @routes.get("/api/tags")
    async def tags() -> dict[str, Any]:
        """Every model that is here."""
        listed = await house.models.listed()
        models = [_listed(one) for one in listed if one.kind in ("llm", "embedder", "unknown")]
        return {"models": models}

    @routes.get("/api/ps")
    async def ps() -> dict[str, Any]:
        """The models in memory."""
        listed = {one.name: one for one in await house.models.listed()}
        models = []
        for one in house.models.running():
            about = listed.get(one.name) or Listed(one.name, one.entry.kind, one.entry.size, "", one.entry.sha256)
            told = _listed(about)
            told.pop("modified_at")
            expires = (one.expires or _NEVER).isoformat(timespec="microseconds").replace("+00:00", "Z")
            models.append(
                {**told, "size": one.bytes, "expires_at": expires, "size_vram": 0, "context_length": one.context_length}
            )
        return {"models": models}

    @routes.post("/api/show", openapi_extra=described(Show))
    async def show(request: Request) -> Response:
        """What a model is."""
        body = await read(request, Show)
        name = plain_name(body.model)
        listed = next((one for one in await house.models.listed() if one.name == name), None)
        return JSONResponse(await anyio.to_thread.run_sync(_shown, house, body, listed))

    @routes.post("/api/copy", openapi_extra=described(Copy))
    async def copy(request: Request) -> Response:
        """Give a model a second name."""
        body = await read(request, Copy)
        meaning = await anyio.to_thread.run_sync(shelf.find, body.source)
        await anyio.to_thread.run_sync(shelf.created.copy, meaning.name, body.destination)
        return Response(status_code=200)

    @routes.delete("/api/delete", openapi_extra=described(Delete))
    async def delete(request: Request) -> Response:
        """Remove a model: a created one alone, one of the store with its weights."""
        body = await read(request, Delete)
        if await anyio.to_thread.run_sync(shelf.created.find, body.model) is None:
            await _delete_stored(house, body.model)
        else:
            await anyio.to_thread.run_sync(shelf.created.remove, body.model)
        return Response(status_code=200)

    return routes


async def _delete_stored(house: House, name: str) -> None:
    shelf = house.models.shelf
    entries = {entry.name: entry for entry in await anyio.to_thread.run_sync(shelf.store.list)}
    if name not in entries:
        raise ModelNotFound(f"model '{name[:200]}' not found", "GET /api/tags lists what is here.")
    users = [made.name for made in await anyio.to_thread.run_sync(shelf.created.users, name)]
    if users:
        raise UsageError(
            f"{', '.join(users[:5])} {'is' if len(users) == 1 else 'are'} made from {name}", "Delete that first."
        )
    await house.models.unload(name)
    await anyio.to_thread.run_sync(shelf.store.remove, name)


def _listed(one: Listed) -> dict[str, Any]:
    return {
        "name": one.name,
        "model": one.name,
        "modified_at": one.modified,
        "size": one.size,
        "digest": one.digest,
        "details": _details(one),
    }


def _details(one: Listed) -> dict[str, Any]:
    return {
        "parent_model": one.parent,
        "format": one.format,
        "family": one.family,
        "families": [one.family] if one.family else [],
        "parameter_size": _size(one.parameters),
        "quantization_level": one.quantisation,
    }


def _size(parameters: int | None) -> str:
    """134515008 -> "134.5M"."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if parameters is not None and parameters >= unit:
            return f"{parameters / unit:.1f}{letter}"
    return str(parameters or "")


# -------------------------------------------------------------------------------------------------------------- show


def _shown(house: House, body: Show, listed: Listed | None) -> dict[str, Any]:
    shelf = house.models.shelf
    meaning = shelf.find(body.model)
    made: Created | None = shelf.created.find(body.model)
    said = made.modelfile if made else Modelfile(meaning.name)
    facts, template = _facts(meaning.entry, body.verbose)
    template = said.template or template
    details = _details(listed) if listed else {}
    told: dict[str, Any] = {
        "license": "\n\n".join(said.licences) or meaning.entry.licence,
        "modelfile": f"# Made by hornbook show --modelfile {meaning.name}\n{said}",
        "parameters": "\n".join(f"{name:<30} {text}" for name, text in _parameters(said)),
        "template": template,
        "details": details,
        "model_info": facts,
        "capabilities": _capabilities(meaning.entry, template),
        "modified_at": listed.modified if listed else meaning.entry.pulled or "1970-01-01T00:00:00Z",
    }
    if said.system:
        told["system"] = said.system
    if said.messages:
        told["messages"] = [{"role": role, "content": text} for role, text in said.messages]
    return told


def _parameters(said: Modelfile) -> list[tuple[str, str]]:
    return [
        (name, f'"{one}"' if isinstance(one, str) else written(one))
        for name, value in said.parameters.items()
        for one in (value if isinstance(value, tuple) else (value,))
    ]


def _facts(entry: Entry, verbose: bool) -> tuple[dict[str, Any], str]:
    """(what the weights' header says, the chat template). Lists, which are the vocabulary, only where they are asked for."""
    if entry.path.is_dir():
        from hornbook.text.chat import DEFAULT, templates_in
        from hornbook.text.files import read_json

        return _plain(read_json(entry.path / "config.json"), verbose), templates_in(entry.path).get(DEFAULT, "")
    from hornbook.checkpoint.gguf import GGUF

    with GGUF.open(entry.path) as file:
        metadata = dict(file.metadata)
    template = metadata.pop("tokenizer.chat_template", "")
    return _plain(metadata, verbose), template if isinstance(template, str) else ""


def _plain(metadata: Mapping[str, Any], verbose: bool) -> dict[str, Any]:
    told = {}
    for key, value in metadata.items():
        value = value.tolist() if hasattr(value, "tolist") else value
        told[key] = None if isinstance(value, list) and len(value) > 64 and not verbose else value
    return told


def _capabilities(entry: Entry, template: str) -> list[str]:
    if entry.kind == "embedder":
        return ["embedding"]
    thinks = any(mark in template for mark in PAIRS)
    return ["completion", *(["tools"] if template else []), *(["thinking"] if thinks else [])]
