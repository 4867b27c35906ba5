"""POST /v1/chat/completions: the assistant's next turn.

    messages -> a collection, where the model is "kb:NAME" (collection_chat.py)
    messages -> the model's template -> ids -> tokens -> text and calls of tools -> choices, or chunks of them

Without max_tokens an answer may fill the model's context; one that reaches its end has finish_reason "length". What a
model thinks before it answers is ``reasoning_content``, as vLLM and DeepSeek name it. A conversation that is too long is an
error with both numbers, unless ``truncation`` is "auto": then ``truncated_turns`` tells how many of its oldest turns were left out.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import Field

from hornbook.rag.prompt import REPLY_TOKENS
from hornbook.serve.kb import PREFIX as COLLECTION
from hornbook.serve.openai.collection_chat import CollectionAnswer
from hornbook.serve.openai.events import DONE, EventStream, data
from hornbook.serve.openai.faults import OpenAIRoute, RequestFault
from hornbook.serve.openai.fields import Flag, Object, Whole
from hornbook.serve.openai.logprobs import Spelling
from hornbook.serve.openai.messages import Turn, messages_of
from hornbook.serve.openai.names import new_id
from hornbook.serve.openai.sampled import Sampled, sampling
from hornbook.serve.openai.shapes import ResponseFormat, shape_of
from hornbook.serve.openai.speech import Called, Delta, Speech
from hornbook.serve.openai.tools import Choice, Tool, Wanted, wanted_tools
from hornbook.serve.writing import while_connected
from hornbook.types import SamplingParams

if TYPE_CHECKING:
    from hornbook.serve.app import House


class ChatBody(Sampled):
    refused = {
        "functions": "functions were replaced by tools",
        "function_call": "functions were replaced by tools: use tool_choice",
        "audio": "the models here write text",
        "modalities": "the models here write text",
        "web_search_options": "nothing is looked up on the web",
        "reasoning_effort": "how much a model thinks cannot be set",
        "verbosity": "how much a model says cannot be set",
        "moderation": "nothing is moderated",
    }
    idle = {"modalities": (["text"],), "reasoning_effort": ("none",), "verbosity": ("medium",)}

    messages: Annotated[list[Turn], Field(min_length=1)]
    max_completion_tokens: Annotated[Whole, Field(ge=1)] | None = None
    logprobs: Flag = False
    top_logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=128)] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: Flag | None = None
    truncation: Literal["auto", "disabled"] = "disabled"  # as responses have it
    prediction: Object | None = None  # would make an answer faster, and no other

    def limit(self) -> int | None:
        """The most tokens of an answer. Raises RequestFault where two fields name different numbers."""
        limits = {limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None}
        if len(limits) > 1:
            what = f"max_tokens is {self.max_tokens} and max_completion_tokens {self.max_completion_tokens}"
            raise RequestFault(what, "Give one of them.", param="max_completion_tokens")
        return next(iter(limits), None)

    def wanted(self) -> Wanted:
        return wanted_tools(self.tools or (), self.tool_choice, self.parallel_tool_calls)


def routes(house: House) -> APIRouter:
    router = APIRouter(route_class=OpenAIRoute)

    @router.post("/chat/completions", response_model=None)
    async def chat(body: ChatBody, request: Request) -> dict[str, Any] | EventStream:
        """The assistant's next turn in a conversation."""
        limit, with_usage, wanted = body.limit(), body.wants_usage(), body.wanted()
        shape = shape_of(body, body.response_format)
        if body.top_logprobs is not None and not body.logprobs:
            raise RequestFault("top_logprobs needs logprobs", "Set logprobs to true.", param="top_logprobs")
        messages = messages_of(body.messages)
        if body.model.startswith(COLLECTION):
            if wanted.tools or body.logprobs:
                field = "tools" if wanted.tools else "logprobs"
                what = "a collection answers in sentences that it can cite"
                raise RequestFault(f"{what}: {field} is for models", "Leave it out.", param=field)
            params = sampling(body, {"temperature": 0.0}, max_tokens=REPLY_TOKENS, shape=shape, limit=limit)
            said = CollectionAnswer(house, body.model, messages, params, str(request.base_url))
            async with AsyncExitStack() as stack:
                stack.push_async_callback(said.aclose)
                await while_connected(request, said.begin())
                if body.stream:
                    return EventStream(said.streamed(with_usage), stack.pop_all())
                return await while_connected(request, said.whole())
        async with AsyncExitStack() as stack:
            loaded = await stack.enter_async_context(await house.models.lease(body.model, kind="llm"))
            llm = loaded.need_llm()
            params = sampling(
                body, loaded.parameters, max_tokens=llm.context_length, shape=shape, limit=limit,
                logprobs=body.logprobs, top_logprobs=body.top_logprobs or 0,
            )  # fmt: skip
            speech = await stack.enter_async_context(
                await Speech.begin(loaded, messages, params, wanted, truncate=body.truncation == "auto")
            )
            answer = Answer(body, speech, params, Spelling(llm.tokenizer))
            if body.stream:
                return EventStream(answer.streamed(with_usage), stack.pop_all())
            return await while_connected(request, answer.whole())

    return router


class Answer:
    """What is said to one request, in the API's form."""

    def __init__(self, body: ChatBody, speech: Speech, params: SamplingParams, spelling: Spelling) -> None:
        self._body, self._speech, self._n, self._spelling = body, speech, params.n, spelling
        self._created = int(time.time())
        self._id = new_id("chatcmpl")

    def _head(self, kind: str) -> dict[str, Any]:
        head = {"id": self._id, "object": kind, "created": self._created, "model": self._body.model}
        return head | ({"truncated_turns": self._speech.dropped} if self._speech.dropped else {})

    def _usage(self) -> dict[str, Any]:
        prompt, written = self._speech.prompt_tokens, self._speech.written
        return {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": self._speech.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self._speech.thought},
        }

    async def whole(self) -> dict[str, Any]:
        texts, thoughts = [""] * self._n, [""] * self._n
        calls: list[list[dict[str, Any]]] = [[] for _ in range(self._n)]
        likelihoods: list[list[dict[str, Any]]] = [[] for _ in range(self._n)]
        ids: list[list[int]] = [[] for _ in range(self._n)]
        reasons = [""] * self._n
        async for delta in self._speech:
            place = delta.answer
            texts[place] += delta.text
            thoughts[place] += delta.thought
            likelihoods[place] += self._spelling.chat(delta.tokens)
            ids[place] += [token.id for token in delta.tokens if token.id is not None]
            for called in delta.calls:
                add_call(calls[place], called)
            reasons[place] = delta.reason or reasons[place]
        choices = []
        for place in range(self._n):
            message: dict[str, Any] = {"role": "assistant", "content": texts[place], "refusal": None, "annotations": []}
            if calls[place]:
                message |= {"content": texts[place] or None, "tool_calls": calls[place]}
            if thoughts[place]:
                message["reasoning_content"] = thoughts[place].rstrip()
            told = {"content": likelihoods[place], "refusal": None} if self._body.logprobs else None
            choice = {"index": place, "message": message, "logprobs": told, "finish_reason": reasons[place]}
            choices.append(choice | ({"token_ids": ids[place]} if self._body.return_token_ids else {}))
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage()}

    async def streamed(self, with_usage: bool) -> AsyncGenerator[str, None]:
        usage = {"usage": None} if with_usage else {}
        head = self._head("chat.completion.chunk")
        for place in range(self._n):
            opening = self._chunk(Delta(place)) | {"delta": {"role": "assistant", "content": "", "refusal": None}}
            yield data({**head, "choices": [opening], **usage})
        async for delta in self._speech:
            choice = self._chunk(delta)
            if choice["delta"] or choice["logprobs"] or delta.reason or self._body.return_token_ids:
                yield data({**head, "choices": [choice], **usage})
        if with_usage:
            yield data({**head, "choices": [], "usage": self._usage()})
        yield DONE

    def _chunk(self, delta: Delta) -> dict[str, Any]:
        said: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if delta.thought:
            said["reasoning_content"] = delta.thought
        if delta.calls:
            said["tool_calls"] = [chunk_of(called) for called in delta.calls]
        likelihoods = self._spelling.chat(delta.tokens) if self._body.logprobs else []
        told = {"content": likelihoods, "refusal": None} if likelihoods else None
        choice = {"index": delta.answer, "delta": said, "logprobs": told, "finish_reason": delta.reason}
        if self._body.return_token_ids:
            choice["token_ids"] = [token.id for token in delta.tokens if token.id is not None]
        return choice


def add_call(calls: list[dict[str, Any]], called: Called) -> None:
    """Add what became known of a call to a message's calls."""
    if called.index == len(calls):
        function = {"name": called.name, "arguments": called.arguments}
        calls.append({"id": called.id, "type": "function", "function": function})
    else:
        calls[called.index]["function"]["arguments"] += called.arguments


def chunk_of(called: Called) -> dict[str, Any]:
    """A piece of a call: the first has its id and name, all have what to add to the arguments."""
    if called.name:
        function = {"name": called.name, "arguments": called.arguments}
        return {"index": called.index, "id": called.id, "type": "function", "function": function}
    return {"index": called.index, "function": {"arguments": called.arguments}}
