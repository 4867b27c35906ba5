"""OpenAI's API, so that its clients connect unchanged: /v1/models, /v1/chat/completions, /v1/completions,
/v1/embeddings, /v1/responses, and /v1/rerank in the form of Jina's and Cohere's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

from hornbook.serve.openai import chat, completions, embeddings, models, rerank, responses, tokens
from hornbook.serve.openai.faults import Failed

if TYPE_CHECKING:
    from hornbook.serve.app import House


def router(house: House) -> APIRouter:
    """All routes of the API under /v1, and two that other servers have beside it."""
    failing = {
        "4XX": {"description": "The request is wrong", "model": Failed},
        "5XX": {"description": "The server cannot answer", "model": Failed},
    }
    whole = APIRouter(tags=["OpenAI"], responses=failing)  # type: ignore[arg-type]
    for room in (models, chat, completions, embeddings, responses, rerank):
        whole.include_router(room.routes(house), prefix="/v1")
    whole.include_router(tokens.routes(house))
    return whole
