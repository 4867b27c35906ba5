"""What OpenAI's API says, as Hornbook says it: the bodies of requests, and what stands in the answers.

    SamplingParams, Message, a tool -> JSON          JSON -> Completion, Message, Token, Score

Servers differ in what they leave out; what must be there and is not is a RemoteError.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from hornbook.errors import GenerationError, RemoteError, UsageError
from hornbook.types import Completion, FinishReason, Message, SamplingParams, Score, Token, ToolCall, Usage

_LENGTHS = (
    "max_model_len",
    "context_length",
    "context_window",
    "max_context_length",
)  # vLLM, OpenRouter, Groq, LM Studio
_NAMES = (  # fields that are sent where they differ from their default
    [
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
        "seed",
        "ignore_eos",
        "n",
    ]
)
_DEFAULT = SamplingParams()


@contextmanager
def _understood(answer: Any) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        said = " ".join(json.dumps(answer, ensure_ascii=False).split())[:200]
        raise RemoteError(f"the server's answer is not what the API says: {said}", "Is it an OpenAI API?") from error


# ----------------------------------------------------------------------------------------------------------- requests


def sampling(params: SamplingParams, *, chat: bool = False) -> dict[str, Any]:
    """The fields of a request. Raises UsageError for what no API has a name for."""
    for name in ("regex", "grammar"):
        if getattr(params, name) is not None:
            raise UsageError(f"OpenAI's API has no {name}", "Give a schema, or what the server has for it in extra=.")
    if params.repetition_window != _DEFAULT.repetition_window:
        raise UsageError("OpenAI's API has no repetition_window", "Leave it out, or give the server's own in extra=.")
    body: dict[str, Any] = {"max_tokens": params.max_tokens, "temperature": params.temperature}
    body |= {name: getattr(params, name) for name in _NAMES if getattr(params, name) != getattr(_DEFAULT, name)}
    if params.stop:
        body["stop"] = list(params.stop)
    if params.logit_bias:
        body["logit_bias"] = {str(id): value for id, value in dict(params.logit_bias).items()}
    if params.schema is not None:
        named = {"name": "answer", "schema": json.loads(params.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    if params.logprobs or params.top_logprobs:
        body |= {"logprobs": True} if chat else {"logprobs": max(1, params.top_logprobs)}
        if chat and params.top_logprobs:
            body["top_logprobs"] = params.top_logprobs
    return body


def message(turn: Message) -> dict[str, Any]:
    said: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.name is not None:
        said["name"] = turn.name
    if turn.tool_call_id is not None:
        said["tool_call_id"] = turn.tool_call_id
    if turn.tool_calls:
        said["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)},
            }
            for call in turn.tool_calls
        ]
    return said


def tool(described: Any) -> dict[str, Any]:
    """A tool as the API has it; the bare function ({"name", "parameters", ...}) does too."""
    if not isinstance(described, Mapping):
        raise UsageError(f"a tool is described by a dict, not {type(described).__name__}", "Give its JSON description.")
    return dict(described) if "function" in described else {"type": "function", "function": dict(described)}


# ------------------------------------------------------------------------------------------------------------ answers


def models(answer: Any) -> dict[str, int | None]:
    """Of a list of models: name -> the context's length, or None where it is not told."""
    with _understood(answer):
        listed = {}
        for entry in answer["data"]:
            said = [entry.get(name) for name in _LENGTHS]
            said.append((entry.get("meta") or {}).get("n_ctx_train"))  # llama.cpp
            listed[str(entry["id"])] = next((int(length) for length in said if length), None)
        return listed


def completions(answer: Any, params: SamplingParams) -> list[Completion]:
    """The answers to one prompt, of either endpoint."""
    with _understood(answer):
        choices = sorted(answer["choices"], key=lambda choice: choice.get("index", 0))
        if len(choices) != params.n:
            raise ValueError(len(choices))
        usage = answer.get("usage") or {}
        found = []
        for choice in choices:
            text = _text(choice["message"].get("content") or "" if "message" in choice else choice["text"])
            values = _logprobs(choice)
            ids = tuple(int(id) for id in choice.get("token_ids") or ())
            count = len(ids) or len(values)
            if params.n == 1:
                count = int(usage.get("completion_tokens", count))
            found.append(
                Completion(
                    text=text,
                    token_ids=ids,
                    finish_reason=_reason(choice.get("finish_reason") or "stop"),
                    usage=Usage(int(usage.get("prompt_tokens", 0)), count),
                    logprobs=tuple(values) if params.logprobs and values else None,
                )
            )
        return found


def piece(event: dict[str, Any]) -> Token | None:
    """One event of a stream, of either endpoint; None where it says nothing of the answer (usage, a role)."""
    with _understood(event):
        choices = event.get("choices")
        if not choices:
            return None
        choice = choices[0]
        delta = choice.get("delta")
        text = _text((choice.get("text") if delta is None else delta.get("content")) or "")
        ids: list[Any] = list(choice.get("token_ids") or ())
        values = _logprobs(choice)
        reason = choice.get("finish_reason")
        if not text and not ids and not values and reason is None:
            return None
        return Token(
            text,
            int(ids[0]) if len(ids) == 1 else None,
            values[0] if len(values) == 1 else None,
            None if reason is None else _reason(reason),
        )


def reply(answer: Any) -> Message:
    with _understood(answer):
        choice = answer["choices"][0]
        said = choice["message"]
        _reason(choice.get("finish_reason") or "stop")
        calls = tuple(_call(call, number) for number, call in enumerate(said.get("tool_calls") or ()))
        return Message("assistant", _text(said.get("content") or ""), tool_calls=calls)


def _text(said: Any) -> str:
    if not isinstance(said, str):
        raise TypeError(said)
    return said


def _call(call: Mapping[str, Any], number: int) -> ToolCall:
    function = call["function"]
    written = function.get("arguments") or "{}"
    try:
        arguments = json.loads(written) if isinstance(written, str) else written
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise GenerationError(
            f"the model called {function['name']} with what is no JSON object: {str(written)[:100]!r}", "Ask again."
        )
    return ToolCall(str(call.get("id") or f"call_{number}"), str(function["name"]), arguments)


def _logprobs(choice: Mapping[str, Any]) -> list[float]:
    said = choice.get("logprobs") or {}
    if "content" in said:  # chat
        return [float(token["logprob"]) for token in said["content"] or ()]
    return [float(value) for value in said.get("token_logprobs") or () if value is not None]


def _reason(said: str) -> FinishReason:
    if said == "content_filter":
        raise RemoteError("the server held the answer back: content_filter", "Ask in another way.")
    return cast(FinishReason, {"length": "length", "abort": "cancelled", "cancelled": "cancelled"}.get(said, "stop"))


def score(answer: Any, text: str, start: int) -> Score | None:
    """The likelihood of text[start:], of an answer that echoes ``text`` and adds one token; None where it is not told.

    A token belongs to the continuation if it ends behind ``start``, or begins there: one that holds a part of a character
    alone is told with no length.
    """
    with _understood(answer):
        said = answer["choices"][0].get("logprobs") or {}
        tokens, values, offsets = (said.get(name) or [] for name in ("tokens", "token_logprobs", "text_offset"))
        if not len(tokens) == len(values) == len(offsets) or not offsets or offsets[0] != 0:
            return None
        end = len(text)
        ends = [*offsets[1:], end]
        own = [i for i, offset in enumerate(offsets) if (ends[i] > start or offset >= start) and offset < end]
        if not own or any(values[i] is None for i in own):
            return None
        best = said["top_logprobs"]
        greedy = all(values[i] >= max(best[i].values()) - 1e-9 for i in own)
        return Score(sum(float(values[i]) for i in own), greedy, len(own))


def score_of_ids(answer: Any, count: int, start: int) -> Score | None:
    """The likelihood of ids[start:] of ``count`` ids, of an answer that echoes them; None where it is not told."""
    with _understood(answer):
        said = answer["choices"][0].get("logprobs") or {}
        values, best = said.get("token_logprobs") or [], said.get("top_logprobs") or []
        own = range(start, count)
        if min(len(values), len(best)) < count or any(values[i] is None for i in own):
            return None
        greedy = all(values[i] >= max(best[i].values()) - 1e-9 for i in own)
        return Score(sum(float(values[i]) for i in own), greedy, len(own))
