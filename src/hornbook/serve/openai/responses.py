"""/v1/responses: the newer form of chat, whose output is a list of items, and which a later request may go on from.

    POST   /v1/responses                      write one; ``stream`` tells it in events
    GET    /v1/responses/{id}                 one that was stored
    GET    /v1/responses/{id}/input_items     what it was given
    DELETE /v1/responses/{id}

What is stored is kept in memory (responses_kept.py). Where ``truncation`` is "auto", ``truncated_turns`` says how many of the
oldest turns were left out of the prompt.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request

from hornbook.errors import HornbookError
from hornbook.serve.openai.events import EventStream, named
from hornbook.serve.openai.faults import OpenAIRoute
from hornbook.serve.openai.logprobs import Spelling
from hornbook.serve.openai.names import new_id
from hornbook.serve.openai.responses_body import ResponseBody, messages_of_items
from hornbook.serve.openai.responses_kept import KeptResponse, KeptResponses
from hornbook.serve.openai.responses_told import Event, Telling
from hornbook.serve.openai.sampled import sampling
from hornbook.serve.openai.speech import Speech
from hornbook.serve.writing import while_connected
from hornbook.types import Message, SamplingParams

if TYPE_CHECKING:
    from hornbook.serve.app import House


def routes(house: House) -> APIRouter:
    router, kept = APIRouter(route_class=OpenAIRoute), KeptResponses()

    @router.post("/responses", response_model=None)
    async def respond(body: ResponseBody, request: Request) -> dict[str, Any] | EventStream:
        """Write a response."""
        owner, shape, wanted = _owner(request), body.shape(), body.wanted()
        turns = messages_of_items(body.items())
        if body.previous_response_id is not None:
            before = kept.find(body.previous_response_id, owner, param="previous_response_id")
            turns = [*before.turns, *turns]
        said = [Message("system", body.instructions)] if body.instructions else []
        async with AsyncExitStack() as stack:
            loaded = await stack.enter_async_context(await house.models.lease(body.model, kind="llm"))
            llm = loaded.need_llm()
            params = sampling(
                body, loaded.parameters, max_tokens=llm.context_length, shape=shape, limit=body.max_output_tokens,
                logprobs=body.wants_likelihoods(), top_logprobs=body.top_logprobs or 0,
            )  # fmt: skip
            speech = await stack.enter_async_context(
                await Speech.begin(loaded, [*said, *turns], params, wanted, truncate=body.truncation == "auto")
            )
            head = _head(body, params)
            if speech.dropped:
                head["truncated_turns"] = speech.dropped
            telling = Telling(head, Spelling(llm.tokenizer) if body.wants_likelihoods() else None)
            answer = Answer(speech, telling, kept if body.store is not False else None, body.items(), turns, owner)
            if body.stream:
                return EventStream(answer.streamed(), stack.pop_all())
            return await while_connected(request, answer.whole())

    @router.get("/responses/{id}", response_model=None)
    async def get(id: str, request: Request) -> dict[str, Any]:
        """A response that was stored."""
        return kept.find(id, _owner(request)).told

    @router.get("/responses/{id}/input_items", response_model=None)
    async def input_items(id: str, request: Request) -> dict[str, Any]:
        """What a stored response was given, the last first."""
        items = kept.find(id, _owner(request)).items[::-1]
        ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]}
        return {"object": "list", "data": items, "has_more": False, **ends}

    @router.delete("/responses/{id}", response_model=None)
    async def delete(id: str, request: Request) -> dict[str, Any]:
        """Forget a stored response."""
        kept.remove(id, _owner(request))
        return {"id": id, "object": "response", "deleted": True}

    return router


def _owner(request: Request) -> str:
    """Whose key the request came with; "" where none is needed."""
    return str(request.scope.get("hornbook.caller") or "")


def _head(body: ResponseBody, params: SamplingParams) -> dict[str, Any]:
    """What a response says of its request."""
    format = body.text.format if body.text and body.text.format else None
    told = format.model_dump(by_alias=True, exclude_none=True) if format else {"type": "text"}
    tools = [{"parameters": None, "strict": None, **t.model_dump(exclude_none=True)} for t in body.tools or ()]
    choice = body.tool_choice
    return {
        "model": body.model,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "store": body.store is not False,
        "temperature": params.temperature,
        "text": {"format": told},
        "tool_choice": choice if choice is None or isinstance(choice, str) else choice.model_dump(),
        "tools": tools,
        "top_logprobs": params.top_logprobs,
        "top_p": params.top_p,
        "truncation": body.truncation,
        "user": body.user,
    } | ({} if choice is not None else {"tool_choice": "auto"})


@dataclass
class Answer:
    """A response under way. ``turns``: the conversation before it; ``kept``: where it is stored, if it is."""

    speech: Speech
    telling: Telling
    kept: KeptResponses | None
    items: list[dict[str, Any]]
    turns: list[Message]
    owner: str

    async def whole(self) -> dict[str, Any]:
        async for _ in self._events():
            pass  # what they tell stands in the response
        return self.telling.response

    async def streamed(self) -> AsyncGenerator[str, None]:
        for event in self.telling.begin():
            yield named(event)
        try:
            async for event in self._events():
                yield named(event)
        except HornbookError as error:
            for event in self.telling.fail(error):
                yield named(event)

    async def _events(self) -> AsyncGenerator[Event, None]:
        reason = "stop"
        async for delta in self.speech:
            for event in self.telling.hear(delta):
                yield event
            reason = delta.reason or reason
        ending = list(self.telling.end(reason, self._usage()))
        self._keep()
        for event in ending:
            yield event

    def _usage(self) -> dict[str, Any]:
        given, written = self.speech.prompt_tokens, self.speech.written
        cached = self.speech.cached_tokens
        return {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": given - cached},
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": self.speech.thought},
            "total_tokens": given + written,
        }

    def _keep(self) -> None:
        if self.kept is None:
            return
        items = [
            {"id": new_id("msg"), "type": "message"} | item | ({"content": _parts(item)} if "role" in item else {})
            for item in self.items
        ]
        turns = (*self.turns, self.telling.turn())
        self.kept.add(KeptResponse(self.telling.response, items, turns, self.owner))


def _parts(item: dict[str, Any]) -> list[dict[str, Any]]:
    """A content as parts, which the API lists."""
    content = item["content"]
    kind = "output_text" if item["role"] == "assistant" else "input_text"
    return [{"type": kind, "text": content}] if isinstance(content, str) else content
