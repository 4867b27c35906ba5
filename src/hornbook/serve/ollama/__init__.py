"""Ollama's API, so that its clients connect unchanged: /api/generate, /api/chat, /api/embed, /api/embeddings, /api/tags,
/api/show, /api/ps, /api/create, /api/copy, /api/delete, /api/pull, /api/blobs and /api/version.

Where Ollama would leave something out without a word, this says so: an option that cannot be honoured and a field that is
none are refused by name, a context too long is an error with counts unless ``"truncate": true`` asks for less, and then the
answer's ``dropped`` tells what was left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from hornbook.serve.ollama import asking, embedding, making, models

if TYPE_CHECKING:
    from hornbook.serve.app import House


def router(house: House) -> APIRouter:
    """All routes of the API."""
    schema = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    told: dict[int | str, dict[str, Any]] = {
        "4XX": {"description": "What is wrong, and what to do.", "content": {"application/json": {"schema": schema}}}
    }
    whole = APIRouter(tags=["Ollama"], responses=told)
    for room in (asking, embedding, models, making):
        whole.include_router(room.router(house))
    return whole
