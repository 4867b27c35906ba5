"""GET /v1/models and /v1/models/{id}: what a client may name as its model.

Beside OpenAI's fields stand ``kind`` ("llm", "embedder", ...) and ``context_length`` in tokens, where it is known.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import anyio
from fastapi import APIRouter

from hornbook.serve.openai.faults import OpenAIRoute

if TYPE_CHECKING:
    from hornbook.serve.app import House
    from hornbook.serve.shelf import Listed


def routes(house: House) -> APIRouter:
    router = APIRouter(route_class=OpenAIRoute)

    @router.get("/models", response_model=None)
    async def listed() -> dict[str, Any]:
        """All models."""
        return {"object": "list", "data": [_told(one) for one in await house.models.listed()]}

    @router.get("/models/{name:path}", response_model=None)
    async def one(name: str) -> dict[str, Any]:
        """One model; any name that can be asked for, an adapter's too."""
        for listed in await house.models.listed():
            if listed.name == name:
                return _told(listed)
        meaning = await anyio.to_thread.run_sync(house.models.shelf.find, name)
        for listed in await house.models.listed():
            if listed.name == meaning.entry.name:
                return {**_told(listed), "id": name, "parent": listed.name}
        return {"id": name, "object": "model", "created": 0, "owned_by": "local", "kind": meaning.entry.kind}

    return router


def _told(model: Listed) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": model.name, "object": "model", "created": _seconds(model.modified), "owned_by": "local",
        "kind": model.kind,
    }  # fmt: skip
    if model.context_length:
        told["context_length"] = model.context_length
    if model.parent:
        told["parent"] = model.parent
    return told


def _seconds(written: str) -> int:
    """Unix time of a time in ISO 8601; 0 where there is none."""
    try:
        return int(datetime.fromisoformat(written).timestamp())
    except ValueError:
        return 0
