"""POST /tokenize and /detokenize: what a text, or a conversation, is to a model. The names and forms are those of vLLM, which
llama.cpp's server shares in part; they stand outside /v1 there, and here.

    {"model", "prompt" or "content"}                  a text; ``add_special_tokens`` (true), or ``add_special``
    {"model", "messages"}                             a conversation, up to where the assistant begins
    {"model", "tokens"}                               /detokenize
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import anyio
from fastapi import APIRouter
from pydantic import Field

from hornbook.serve.openai.faults import OpenAIRoute, RequestFault
from hornbook.serve.openai.fields import Body, Flag, Text, Whole
from hornbook.serve.openai.messages import Turn, messages_of
from hornbook.serve.writing import render

if TYPE_CHECKING:
    from hornbook.serve.app import House


class TokenizeBody(Body):
    model: Text
    prompt: Text | None = None
    content: Text | None = None
    messages: Annotated[list[Turn], Field(min_length=1)] | None = None
    add_special_tokens: Flag | None = None
    add_special: Flag | None = None
    add_generation_prompt: Flag = True

    def text(self) -> str | None:
        """The text; None where there are messages. Raises RequestFault for both, and for none."""
        text = self.content if self.prompt is None else self.prompt
        if (text is None) == (self.messages is None):
            raise RequestFault("what is tokenised is a prompt, or messages", "Send one of them.", param="prompt")
        if self.messages is not None and not self.add_generation_prompt:
            what = "a conversation is rendered up to where the assistant begins"
            raise RequestFault(what, "Leave add_generation_prompt out.", param="add_generation_prompt")
        return text


class DetokenizeBody(Body):
    model: Text
    tokens: list[Whole]


def routes(house: House) -> APIRouter:
    router = APIRouter(route_class=OpenAIRoute)

    @router.post("/tokenize", response_model=None)
    async def tokenize(body: TokenizeBody) -> dict[str, Any]:
        """The tokens of a text or a conversation."""
        text = body.text()
        async with await house.models.lease(body.model) as loaded:
            model = loaded.llm or loaded.need_embedder()
            longest = loaded.llm.context_length if loaded.llm else loaded.need_embedder().max_tokens
            if text is None:
                ids = (await render(loaded, messages_of(body.messages or ()))).ids
            else:
                special = body.add_special if body.add_special_tokens is None else body.add_special_tokens
                encode = model.tokenizer.encode
                ids = await anyio.to_thread.run_sync(lambda: encode(text, add_special=special is not False))
        return {"tokens": ids, "count": len(ids), "max_model_len": longest}

    @router.post("/detokenize", response_model=None)
    async def detokenize(body: DetokenizeBody) -> dict[str, Any]:
        """The text of tokens, special ones included."""
        async with await house.models.lease(body.model) as loaded:
            tokenizer = (loaded.llm or loaded.need_embedder()).tokenizer
            text = await anyio.to_thread.run_sync(lambda: tokenizer.decode(body.tokens, skip_special=False))
        return {"prompt": text, "content": text}

    return router
