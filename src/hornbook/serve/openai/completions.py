"""POST /v1/completions: text goes on where a prompt ends.

    prompt   a text, a list of texts, a list of ids, or a list of those lists; all of them are written side by side
    n        answers to each: choice number ``prompt * n + answer``
    best_of  so many are written, and the n likeliest of them (mean log-probability of a token) are told
    echo     the prompt's text stands before each answer; with logprobs, how likely each of its tokens is

A text is text: a special token spelled in it is its characters. Ids carry special tokens.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import anyio
from fastapi import APIRouter, Request
from pydantic import Field

from hornbook.serve.openai.events import DONE, EventStream, data
from hornbook.serve.openai.faults import OpenAIRoute, RequestFault
from hornbook.serve.openai.fields import Flag, Text, Whole
from hornbook.serve.openai.logprobs import Spelling, joined
from hornbook.serve.openai.names import new_id
from hornbook.serve.openai.sampled import Sampled, sampling
from hornbook.serve.openai.shapes import shape_of
from hornbook.serve.openai.speech import reason_of
from hornbook.serve.writing import Writing, judge, while_connected, write
from hornbook.types import SamplingParams, Token

if TYPE_CHECKING:
    from hornbook.serve.app import House
    from hornbook.serve.loaded import Loaded

USUAL_TOKENS = 16  # the API's default
MOST_PROMPTS = 256  # of one request
MOST_ANSWERS = 1024  # prompts times best_of

Ids = Annotated[list[Whole], Field(min_length=1)]


class CompletionBody(Sampled):
    refused = {"suffix": "the models here continue a text and do not fill a gap in it"}
    idle = {"suffix": ("",)}

    prompt: Text | Ids | Annotated[list[Text], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)]
    best_of: Annotated[Whole, Field(ge=1, le=128)] | None = None
    echo: Flag = False
    logprobs: Annotated[Whole, Field(ge=0, le=20)] | None = None

    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else list(self.prompt)

    def checked(self) -> None:
        """Raise RequestFault for fields that do not go together."""
        n, best_of = self.n or 1, self.best_of or self.n or 1
        if best_of < n:
            raise RequestFault(f"best_of ({best_of}) is less than n ({n})", "Raise it.", param="best_of")
        if best_of > n and self.stream:
            what = "the best answers are known when all are written, and cannot be streamed"
            raise RequestFault(what, "Leave best_of or stream out.", param="best_of")
        prompts = len(self.prompts())
        if prompts > MOST_PROMPTS or prompts * best_of > MOST_ANSWERS:
            what = f"{prompts:,} prompts with {best_of} answers each are too many at once"
            what += f": {MOST_PROMPTS} prompts and {MOST_ANSWERS:,} answers are the most"
            raise RequestFault(what, "Send fewer prompts.", param="prompt")


class Asked:
    """A request under way: its prompts, and what is being written for each."""

    def __init__(self, body: CompletionBody, loaded: Loaded, echoes: Sequence[str]) -> None:
        self.body = body
        self.echoes = echoes  # what stands before each prompt's answers
        self.told: list[dict[str, Any]] = []  # how likely each prompt's tokens are, where it is echoed with likelihoods
        self.writings: list[Writing] = []
        self.spelling = Spelling(loaded.need_llm().tokenizer)
        self.head = {
            "id": new_id("cmpl"), "object": "text_completion", "created": int(time.time()), "model": body.model,
        }  # fmt: skip

    def usage(self, written: int) -> dict[str, int]:
        prompt = sum(writing.prompt_tokens for writing in self.writings)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    def choice(
        self, index: int, tokens: Sequence[Token], *, place: int | None = None, offset: int = 0, reason: str | None
    ) -> dict[str, Any]:
        """A choice, or a piece of one that begins ``offset`` characters into its text; ``place``: of the prompt, where the
        choice begins with its echo."""
        body, told = self.body, None
        echo = "" if place is None else self.echoes[place]
        if body.logprobs is not None:
            told = self.spelling.completions(tokens, offset + len(echo), top=body.logprobs > 0)
            if place is not None and self.told:
                told = joined(self.told[place], told)
        text = echo + "".join(token.text for token in tokens)
        choice = {"index": index, "text": text, "logprobs": told, "finish_reason": reason}
        if body.return_token_ids:
            choice["token_ids"] = [token.id for token in tokens if token.id is not None]
        return choice


def routes(house: House) -> APIRouter:
    router = APIRouter(route_class=OpenAIRoute)

    @router.post("/completions", response_model=None)
    async def complete(body: CompletionBody, request: Request) -> dict[str, Any] | EventStream:
        """Continue a text."""
        body.checked()
        with_usage, shape = body.wants_usage(), shape_of(body)
        async with AsyncExitStack() as stack:
            loaded = await stack.enter_async_context(await house.models.lease(body.model, kind="llm"))
            llm = loaded.need_llm()
            params = sampling(
                body, loaded.parameters, max_tokens=USUAL_TOKENS, shape=shape, limit=body.max_tokens,
                logprobs=body.logprobs is not None or (body.best_of or 0) > (body.n or 1),
                top_logprobs=body.logprobs or 0,
            )  # fmt: skip
            params = replace(params, n=body.best_of or params.n)
            prompts = body.prompts()
            echoes = await anyio.to_thread.run_sync(_echoes, llm, prompts) if body.echo else [""] * len(prompts)
            asked = Asked(body, loaded, echoes)
            for prompt in prompts:
                asked.writings.append(await stack.enter_async_context(await write(loaded, prompt, params)))
            if body.echo and body.logprobs is not None:
                await while_connected(request, _judge(asked, loaded))
            if body.stream:
                return EventStream(_streamed(asked, params, with_usage), stack.pop_all())
            return await while_connected(request, _whole(asked, params))

    return router


def _echoes(llm: Any, prompts: Sequence[str | list[int]]) -> list[str]:
    return [
        prompt if isinstance(prompt, str) else llm.tokenizer.decode(prompt, skip_special=False) for prompt in prompts
    ]


async def _judge(asked: Asked, loaded: Loaded) -> None:
    """Find how likely the tokens of the prompts are, side by side."""
    top = asked.body.logprobs or 0

    async def told(prompt: str | list[int], ids: Sequence[int]) -> dict[str, Any]:
        async with await judge(loaded, ids, top=max(1, top)) as judging:
            score = await judging.score()
        return asked.spelling.prompt(ids, score, top=top, as_text=isinstance(prompt, str))

    several = zip(asked.body.prompts(), asked.writings, strict=True)
    asked.told = await asyncio.gather(*(told(prompt, writing.request.ids) for prompt, writing in several))


async def _answers(writing: Writing, n: int) -> list[list[Token]]:
    answers: list[list[Token]] = [[] for _ in range(n)]
    async for answer, token in writing:
        answers[answer].append(token)
    return answers


async def _whole(asked: Asked, params: SamplingParams) -> dict[str, Any]:
    body, choices, written = asked.body, [], 0
    n = body.n or 1
    several = await asyncio.gather(*(_answers(writing, params.n) for writing in asked.writings))
    for place, answers in enumerate(several):
        written += sum(token.id is not None for tokens in answers for token in tokens)
        if n < len(answers):
            answers = sorted(answers, key=_likelihood, reverse=True)[:n]
        for number, tokens in enumerate(answers):
            reason = reason_of(tokens[-1])
            choices.append(asked.choice(place * n + number, tokens, place=place, reason=reason))
    return {**asked.head, "choices": choices, "usage": asked.usage(written)}


def _likelihood(tokens: Sequence[Token]) -> float:
    """Mean log-probability of a token; the end of the answer counts as one."""
    values = [token.logprob for token in tokens if token.logprob is not None]
    return math.fsum(values) / len(values) if values else -math.inf


async def _streamed(asked: Asked, params: SamplingParams, with_usage: bool) -> AsyncGenerator[str, None]:
    written = 0
    usage = {"usage": None} if with_usage else {}
    offsets: dict[int, int] = {}
    async for place, answer, token in merged(asked.writings):
        index = place * params.n + answer
        first = place if index not in offsets else None
        offsets.setdefault(index, 0)
        written += token.id is not None
        reason = reason_of(token)
        choice = asked.choice(index, [token], place=first, offset=offsets[index], reason=reason)
        offsets[index] += len(choice["text"])
        if choice["text"] or reason or choice["logprobs"] or asked.body.return_token_ids:
            yield data({**asked.head, "choices": [choice], **usage})
    if with_usage:
        yield data({**asked.head, "choices": [], "usage": asked.usage(written)})
    yield DONE


async def merged(writings: Sequence[Writing]) -> AsyncIterator[tuple[int, int, Token]]:
    """(which writing, which of its answers, token) of all of them, as they come. Raises what the first to fail raises."""
    if len(writings) == 1:
        async for answer, token in writings[0]:
            yield 0, answer, token
        return
    queue: asyncio.Queue[tuple[int, int, Token] | BaseException | None] = asyncio.Queue()

    async def read(place: int) -> None:
        try:
            async for answer, token in writings[place]:
                queue.put_nowait((place, answer, token))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(read(place)) for place in range(len(writings))]
    try:
        going = len(tasks)
        while going:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                going -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
