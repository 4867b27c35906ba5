"""/api/embed (one text or many, unit vectors) and /api/embeddings (the older form: one text, one vector).

A text that is longer than the model reads is an error with counts; with ``"truncate": true`` its end is left out, and the
answer's ``dropped`` says how many tokens of which text.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from hornbook.errors import ContextTooLong, UsageError
from hornbook.serve import writing
from hornbook.serve.loaded import Loaded
from hornbook.serve.ollama.bodies import Embed, Embeddings, described, read
from hornbook.serve.ollama.options import seconds, wanted

if TYPE_CHECKING:
    from hornbook.retrieve.embed import LocalEmbedder
    from hornbook.serve.app import House

MOST = 2048  # texts of one request


def router(house: House) -> APIRouter:
    routes = APIRouter()

    @routes.post("/api/embed", openapi_extra=described(Embed))
    async def embed(request: Request) -> Response:
        """A vector of unit length for each text."""
        body, begun = await read(request, Embed), time.perf_counter()
        texts = [body.input] if isinstance(body.input, str) else body.input
        if len(texts) > MOST:
            raise UsageError(
                f"{len(texts):,} texts are too many; {MOST:,} is the most", "Send them in several requests."
            )
        wanted(body.options, {}, 1)  # options say how a text is written; they are checked all the same
        async with await house.models.lease(body.model, kind="embedder", keep_alive=seconds(body.keep_alive)) as loaded:
            ready = time.perf_counter()
            work = _vectors(loaded, texts, body.truncate, body.dimensions)
            vectors, tokens, dropped = await writing.while_connected(request, work)
        told: dict[str, Any] = {
            "model": body.model,
            "embeddings": vectors.tolist(),
            "total_duration": round((time.perf_counter() - begun) * 1e9),
            "load_duration": round((ready - begun) * 1e9),
            "prompt_eval_count": tokens,
        }
        if dropped:
            told["dropped"] = dropped
        return JSONResponse(told)

    @routes.post("/api/embeddings", openapi_extra=described(Embeddings))
    async def embeddings(request: Request) -> Response:
        """The vector of one text."""
        body = await read(request, Embeddings)
        wanted(body.options, {}, 1)
        async with await house.models.lease(body.model, kind="embedder", keep_alive=seconds(body.keep_alive)) as loaded:
            texts = [body.prompt] if body.prompt else []
            vectors, _, _ = await writing.while_connected(request, _vectors(loaded, texts, False, 0))
        return JSONResponse({"embedding": vectors[0].tolist() if texts else []})

    return routes


async def _vectors(
    loaded: Loaded, texts: Sequence[str], truncate: bool, dimensions: int
) -> tuple[np.ndarray[Any, Any], int, list[dict[str, int]]]:
    return await anyio.to_thread.run_sync(_embedded, loaded.need_embedder(), texts, truncate, dimensions)


def _embedded(
    embedder: LocalEmbedder, texts: Sequence[str], truncate: bool, dimensions: int
) -> tuple[np.ndarray[Any, Any], int, list[dict[str, int]]]:
    """([n, dimensions], tokens that were read, what was left out)."""
    if dimensions > embedder.dimensions:
        raise UsageError(
            f"the vectors of {embedder.name} have {embedder.dimensions} dimensions, not {dimensions}",
            "Ask for fewer, or for none.",
        )
    counts = [len(row) for row in embedder.tokenizer.encode_batch(list(texts))] if texts else []
    dropped = [
        {"index": place, "tokens": count - embedder.max_tokens}
        for place, count in enumerate(counts)
        if count > embedder.max_tokens
    ]
    if dropped and not truncate:
        place = dropped[0]["index"]
        raise ContextTooLong(
            f"input {place} has {counts[place]:,} tokens; {embedder.name} reads {embedder.max_tokens:,}",
            'Shorten it, or send "truncate": true.',
        )
    vectors = embedder.embed(list(texts))
    if dimensions:
        vectors = vectors[:, :dimensions]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors, sum(min(count, embedder.max_tokens) for count in counts), dropped
