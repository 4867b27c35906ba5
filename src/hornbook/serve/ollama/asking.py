"""/api/generate and /api/chat: a body becomes a prompt, the prompt an answer.

    /api/generate   prompt [system, template, context]  --template-->  ids       raw: the prompt as it is, control tokens read
    /api/chat       messages [tools]                    --template-->  ids

Nothing to answer (no prompt, no messages) loads the model, or with keep_alive 0 puts it away.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from hornbook.engine.tool_calls import ToolPlan, plan_tools
from hornbook.errors import UsageError
from hornbook.serve import writing
from hornbook.serve.loaded import Loaded
from hornbook.serve.ollama.answers import Answering, Part, now
from hornbook.serve.ollama.bodies import Asking, Chat, Generate, Turn, described, read
from hornbook.serve.ollama.options import Wanted, seconds, wanted
from hornbook.text.go_chat import GoChatTemplate, template_of
from hornbook.types import Message, ToolCall

if TYPE_CHECKING:
    from hornbook.serve.app import House


def router(house: House) -> APIRouter:
    routes = APIRouter()

    @routes.post("/api/generate", openapi_extra=described(Generate))
    async def generate(request: Request) -> Response:
        """Continue a prompt."""
        body = await read(request, Generate)
        if body.raw and (body.template or body.system or body.context):
            raise UsageError("raw mode does not support template, system, or context", "Leave them out, or raw.")
        return await _answer(house, request, body, _generated, _ask_generate, empty=not body.prompt)

    @routes.post("/api/chat", openapi_extra=described(Chat))
    async def chat(request: Request) -> Response:
        """The next turn of a conversation."""
        body = await read(request, Chat)
        return await _answer(house, request, body, _said, _ask_chat, empty=not body.messages)

    return routes


async def _answer(house: House, request: Request, body: Asking, shape: Any, ask: Any, *, empty: bool) -> Response:
    begun, keep = time.perf_counter(), seconds(body.keep_alive)
    if empty and keep == 0:
        await house.models.unload(body.model)
        return _nothing(body, shape, "unload", begun, begun)
    loaded = await house.models.lease(body.model, kind="llm", keep_alive=keep)
    try:
        ready = time.perf_counter()
        if empty:
            loaded.release()
            return _nothing(body, shape, "load", begun, ready)
        answering: Answering = await ask(loaded, body, shape, begun, ready)
    except BaseException:
        loaded.release()
        raise
    if body.stream:
        return answering.response()
    return JSONResponse(await writing.while_connected(request, answering.whole()))


def _nothing(body: Asking, shape: Any, reason: str, begun: float, ready: float) -> Response:
    told = {"model": body.model, "created_at": now(), **shape(Part()), "done": True, "done_reason": reason}
    if reason == "load":
        told["load_duration"] = told["total_duration"] = round((ready - begun) * 1e9)
    return JSONResponse(told)


def _generated(part: Part) -> dict[str, Any]:
    told: dict[str, Any] = {"response": part.content}
    if part.thinking:
        told["thinking"] = part.thinking
    if part.logprobs:
        told["logprobs"] = part.logprobs
    return told


def _said(part: Part) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": part.content}
    if part.thinking:
        message["thinking"] = part.thinking
    if part.calls:
        message["tool_calls"] = part.calls
    told: dict[str, Any] = {"message": message}
    if part.logprobs:
        told["logprobs"] = part.logprobs
    return told


# ---------------------------------------------------------------------------------------------------------- generate


async def _ask_generate(loaded: Loaded, body: Generate, shape: Any, begun: float, ready: float) -> Answering:
    llm = loaded.need_llm()
    asked = wanted(body.options, loaded.parameters, llm.context_length)
    plan: ToolPlan | None = None
    if body.raw:
        prompt = await anyio.to_thread.run_sync(lambda: llm.tokenizer.encode(body.prompt, parse_special=True))
    else:
        plan, prompt = await _prompt(loaded, body, asked)
    room = asked.room(body.truncate)
    ids, lost = asked.cut(prompt, room, body.truncate)
    _check_context(body.context, llm.tokenizer.vocab_size)
    task = await writing.write(loaded, ids, asked.params(body, len(ids)))
    return Answering(
        body.model, loaded, task, plan, shape, begun, ready, {"tokens": lost} if lost else {},
        wants_context=not body.raw, wants_logprobs=body.logprobs,
    )  # fmt: skip


async def _prompt(loaded: Loaded, body: Generate, asked: Wanted) -> tuple[ToolPlan, list[int]]:
    llm = loaded.need_llm()
    if body.template:
        loaded.template = await anyio.to_thread.run_sync(template_of, body.template, llm.tokenizer)
    if body.context:
        loaded.messages = ()  # they stand in it
    plan = _plan(loaded, body, ())
    turns = [Message("user", body.prompt)]
    if body.system:
        turns.insert(0, Message("system", body.system))
    if loaded.template is None and llm.chat_template is None:  # Ollama's default for such a model is {{ .Prompt }}
        text = "\n\n".join(turn.content for turn in loaded.with_own_turns(turns))
        ids = await anyio.to_thread.run_sync(llm.encode, text)
    else:
        # what does not fit is cut here by tokens, so that the rendering must not refuse it
        ids = await anyio.to_thread.run_sync(_rendered, loaded, turns, plan)
    if body.context and llm.tokenizer.add_bos and ids[:1] == [llm.tokenizer.bos_id]:
        ids = ids[1:]
    return plan, [*body.context, *ids]


def _rendered(loaded: Loaded, turns: list[Message], plan: ToolPlan) -> list[int]:
    llm = loaded.need_llm()
    template = loaded.template or llm.chat_template
    assert template is not None
    return list(template.render(plan.messages(loaded.with_own_turns(turns)), reply=True).ids)


def _check_context(context: list[int], vocab_size: int) -> None:
    wrong = next((id for id in context if not 0 <= id < vocab_size), None)
    if wrong is not None:
        raise UsageError(
            f"context has the token id {wrong}; the vocabulary has {vocab_size:,}", "Send back what the model gave."
        )


# -------------------------------------------------------------------------------------------------------------- chat


async def _ask_chat(loaded: Loaded, body: Chat, shape: Any, begun: float, ready: float) -> Answering:
    llm = loaded.need_llm()
    asked = wanted(body.options, loaded.parameters, llm.context_length)
    plan = _plan(loaded, body, body.tools)
    prompt = await writing.render(
        loaded,
        messages_of(body.messages),
        tools=plan.template_tools,
        truncate=body.truncate,
        room=asked.room(body.truncate),
        shown=plan.messages,
        limit=asked.context,
    )
    params = asked.params(body, len(prompt.ids))
    if plan.callable:
        params = await anyio.to_thread.run_sync(plan.params, params, prompt.ids)
    task = await writing.write_chat(loaded, prompt, params)
    return Answering(
        body.model, loaded, task, plan, shape, begun, ready,
        {"messages": prompt.dropped} if prompt.dropped else {}, wants_logprobs=body.logprobs,
    )  # fmt: skip


def _plan(loaded: Loaded, body: Asking, tools: Any) -> ToolPlan:
    """The tools, and what the model's thoughts are. Raises UsageError where ``think`` cannot be done."""
    source = None if loaded.template is None else loaded.template.source
    if isinstance(loaded.template, GoChatTemplate):  # whose .Tools are jinja's tools
        source = loaded.template.source.replace(".Tools", ".tools")
    plan = plan_tools(loaded.need_llm(), tools, template=source)
    if isinstance(body.think, str):
        raise UsageError(f"think {body.think!r} is not supported", "Send true or false.")
    if body.think and plan.thinks is None:
        raise UsageError(f'"{body.model}" does not support thinking', "Leave think out, or choose a model that thinks.")
    if isinstance(loaded.template, GoChatTemplate):
        loaded.template = loaded.template.thinking(body.think)
    elif body.think is False and plan.thinks is not None:
        raise UsageError(f'the thoughts of "{body.model}" cannot be turned off', "Leave think out.")
    return plan


def messages_of(turns: list[Turn]) -> list[Message]:
    """Ollama's messages name the tool that gave a result, where templates may want the id of the call: calls are numbered, and
    each result goes to the first call of its tool that has none yet."""
    messages: list[Message] = []
    waiting: list[ToolCall] = []
    count = 0
    for turn in turns:
        calls = []
        for call in turn.tool_calls:
            calls.append(ToolCall(call.id or f"call{count:05d}", call.function.name, call.function.arguments))
            count += 1
        name, id = turn.tool_name or turn.name, turn.tool_call_id
        if turn.role == "tool" and id is None:
            found = next((call for call in waiting if name in (None, call.name)), None)
            id = None if found is None else found.id
        waiting = [*(call for call in waiting if call.id != id), *calls]
        messages.append(Message(turn.role, turn.content, name, tuple(calls), id))
    return messages
