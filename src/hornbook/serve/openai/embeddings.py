"""POST /v1/embeddings: texts to vectors of unit length.

    input            a text, a list of texts, a list of ids, or a list of those lists (ids of the model's own tokenizer)
    encoding_format  "float", or "base64": float32, little-endian
    dimensions       the model's own number; vectors of these models do not bear to be cut
    input_type       "query" or "passage" ("document" is the same), for models that tell them apart; else "passage"

A text longer than the model reads is an error with both numbers: nothing is embedded without its end.
"""

from __future__ import annotations

import base64
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import anyio
import numpy as np
from fastapi import APIRouter, Request
from pydantic import Field

from hornbook.errors import ContextTooLong
from hornbook.serve.openai.faults import OpenAIRoute, RequestFault
from hornbook.serve.openai.fields import Body, Text, Whole
from hornbook.serve.writing import while_connected

if TYPE_CHECKING:
    from hornbook.retrieve.embed import LocalEmbedder
    from hornbook.serve.app import House

MOST_INPUTS = 2048  # the API's own

Kind: TypeAlias = Literal["query", "passage"]
Ids = Annotated[list[Whole], Field(min_length=1)]


class EmbeddingBody(Body):
    model: Text
    input: Text | Ids | Annotated[list[Text], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[Whole, Field(ge=1)] | None = None
    input_type: Literal["query", "passage", "document"] | None = None
    user: Text | None = None

    def inputs(self) -> list[str] | list[list[int]]:
        """Raises RequestFault for too many, and for one that says nothing."""
        given: Any = self.input
        several = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        if len(several) > MOST_INPUTS:
            what = f"{len(several):,} inputs are more than {MOST_INPUTS:,}"
            raise RequestFault(what, "Send them in several requests.", param="input")
        for place, one in enumerate(several):
            if not one:
                raise RequestFault(f"input {place} is empty", "Leave it out.", param=f"input[{place}]")
        return several


def routes(house: House) -> APIRouter:
    router = APIRouter(route_class=OpenAIRoute)

    @router.post("/embeddings", response_model=None)
    async def embed(body: EmbeddingBody, request: Request) -> dict[str, Any]:
        """Texts to vectors."""
        inputs = body.inputs()
        async with AsyncExitStack() as stack:
            loaded = await stack.enter_async_context(await house.models.lease(body.model, kind="embedder"))
            embedder = loaded.need_embedder()
            if body.dimensions not in (None, embedder.dimensions):
                what = f"{embedder.name} makes vectors of {embedder.dimensions} numbers, which do not bear to be cut"
                raise RequestFault(what, "Leave dimensions out.", param="dimensions", code="unsupported_parameter")
            kind: Kind = "query" if body.input_type == "query" else "passage"
            work = anyio.to_thread.run_sync(_embedded, embedder, inputs, kind, abandon_on_cancel=True)
            vectors, tokens = await while_connected(request, work)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": written(vector, body.encoding_format)}
                for index, vector in enumerate(vectors)
            ],
            "model": body.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    return router


def written(vector: np.ndarray[Any, np.dtype[np.float32]], encoding: str) -> str | list[float]:
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return [float(value) for value in vector]


def _embedded(
    embedder: LocalEmbedder, inputs: list[str] | list[list[int]], kind: Kind
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
    """(vectors [n, dimensions], how many tokens were read). Raises ContextTooLong with both numbers."""
    rows = embedder.rows(inputs, kind=kind)
    for place, row in enumerate(rows):
        if len(row) > embedder.max_tokens:
            what = f"input {place} has {len(row):,} tokens; {embedder.name} reads {embedder.max_tokens:,}"
            raise ContextTooLong(what, "Split it into passages.")
    return embedder.embed_rows(rows), sum(map(len, rows))
