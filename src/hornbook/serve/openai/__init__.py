"""OpenAI's API, so that its clients connect unchanged: /v1/models, /v1/chat/completions, /v1/completions,
/v1/embeddings, /v1/responses, and /v1/rerank in the form of Jina's and Cohere's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

from hornbook.serve.openai import chat, completions, embeddings, models, rerank, responses

if TYPE_CHECKING:
    from hornbook.serve.app import House


def router(house: House) -> APIRouter:
    """All routes of the API, under /v1."""
    whole = APIRouter(prefix="/v1", tags=["OpenAI"])
    for room in (models, chat, completions, embeddings, responses, rerank):
        whole.include_router(room.routes(house))
    return whole
