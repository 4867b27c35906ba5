"""POST /v1/rerank: passages in the order of how well they fit a query, in the form that Jina's and Cohere's APIs share.

The score is the cosine of the query's vector and the passage's, by an embedding model: there is no cross-encoder yet. A
passage longer than the model reads is read in windows, each beginning where the last one ended, and has the score of the
best of them, so that no part of it is left unread.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field

from hornbook.errors import ContextTooLong
from hornbook.serve.openai.faults import OpenAIRoute
from hornbook.serve.openai.fields import Body, Flag, Text, Whole
from hornbook.serve.openai.names import new_id
from hornbook.serve.writing import while_connected

if TYPE_CHECKING:
    from hornbook.retrieve.embed import LocalEmbedder
    from hornbook.serve.app import House


class TextObject(Body):
    text: Text


class RerankBody(Body):
    refused = {
        "max_tokens_per_doc": "every part of a document is read",
        "max_chunks_per_doc": "every part of a document is read",
        "rank_fields": "documents are texts here",
        "overfetch": "all documents are scored",
    }

    model: Text
    query: Annotated[Text, Field(min_length=1)]
    documents: Annotated[list[Text | TextObject], Field(min_length=1, max_length=2048)]
    top_n: Annotated[Whole, Field(ge=1)] | None = None
    return_documents: Flag = True

    def texts(self) -> list[str]:
        return [one if isinstance(one, str) else one.text for one in self.documents]


def routes(house: House) -> APIRouter:
    router = APIRouter(route_class=OpenAIRoute)

    @router.post("/rerank", response_model=None)
    async def rerank(body: RerankBody, request: Request) -> dict[str, Any]:
        """Order passages by how well they fit a query."""
        texts = body.texts()
        async with AsyncExitStack() as stack:
            loaded = await stack.enter_async_context(await house.models.lease(body.model, kind="embedder"))
            embedder = loaded.need_embedder()
            work = anyio.to_thread.run_sync(_scored, embedder, body.query, texts, abandon_on_cancel=True)
            scores, tokens = await while_connected(request, work)
        order = sorted(range(len(texts)), key=lambda place: -scores[place])[: body.top_n]
        results = [
            {"index": place, "relevance_score": scores[place]}
            | ({"document": {"text": texts[place]}} if body.return_documents else {})
            for place in order
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"id": new_id("rerank"), "object": "list", "model": body.model, "results": results, "usage": usage}

    return router


def _scored(embedder: LocalEmbedder, query: str, texts: list[str]) -> tuple[list[float], int]:
    """(each text's score, how many tokens were read). Raises ContextTooLong for a query that the model cannot read whole."""
    (asked,) = embedder.rows([query], kind="query")
    if len(asked) > embedder.max_tokens:
        what = f"the query has {len(asked):,} tokens; {embedder.name} reads {embedder.max_tokens:,}"
        raise ContextTooLong(what, "Ask more shortly.")
    windows, owners = [], []
    for place, row in enumerate(embedder.rows(texts)):
        several = [row] if len(row) <= embedder.max_tokens else embedder.rows(_windows(embedder, texts[place]))
        windows += several
        owners += [place] * len(several)
    vectors = embedder.embed_rows([asked, *windows])
    best = np.full(len(texts), -np.inf)
    np.maximum.at(best, owners, vectors[1:] @ vectors[0])
    return [float(score) for score in best], len(asked) + sum(map(len, windows))


def _windows(embedder: LocalEmbedder, text: str) -> list[list[int]]:
    """The ids of a text, cut into pieces that the model reads whole."""
    ids = embedder.tokenizer.encode(text, add_special=False)
    (empty,) = embedder.rows([[]])  # what stands around every text
    size = embedder.max_tokens - len(empty)
    return [ids[begin : begin + size] for begin in range(0, len(ids), size)]
