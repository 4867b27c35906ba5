"""Adapters over HTTP: which there are, and put into a model's memory or out of it while it answers.

GET    /v1/adapters          {"object": "list", "data": [{"id", "object": "adapter", "loaded": [model, ...]}]}
POST   /v1/adapters          {"name", "model"} -> loaded now, so that what is wrong with it is told now, not to a first user
DELETE /v1/adapters/{name}   out of every model's memory; its folder stays

An adapter is a folder of HOME/adapters. A request for ``MODEL:NAME`` loads it where it is not loaded yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from hornbook.serve.app import House


class Add(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100)
    model: str = Field(min_length=1, max_length=300)


def router(house: House) -> APIRouter:
    routes = APIRouter(prefix="/v1/adapters", tags=["adapters"])
    models = house.models

    @routes.get("")
    async def listed() -> dict[str, Any]:
        """The adapters that models can be asked with."""
        names = await anyio.to_thread.run_sync(models.shelf.adapters)
        return {"object": "list", "data": [_told(name) for name in names]}

    @routes.post("", status_code=201)
    async def add(body: Add) -> dict[str, Any]:
        """Load an adapter into a model, which is loaded too where it is not."""
        await anyio.to_thread.run_sync(models.shelf.need_adapter, body.name)
        async with await models.lease(f"{body.model}:{body.name}", kind="llm"):
            return _told(body.name)

    @routes.delete("/{name}")
    async def remove(name: str) -> dict[str, Any]:
        """Forget an adapter in all models; refused while requests use it."""
        await anyio.to_thread.run_sync(models.shelf.need_adapter, name)
        return {"id": name, "object": "adapter", "unloaded": await models.forget_adapter(name)}

    def _told(name: str) -> dict[str, Any]:
        return {"id": name, "object": "adapter", "loaded": models.with_adapter(name)}

    return routes
