"""What goes into an LLM and what comes out, in the forms that every LLM accepts and gives.

str | ids | a list of either   -> as_prompts    -> one prompt each
messages                       -> turns_of      -> Message, checked        -> plain_chat, without a chat template
Token, Token, ...              -> completion_of -> Completion              -> reply_of -> Message
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hornbook.errors import ContextTooLong, UsageError
from hornbook.types import Completion, Message, Prompt, SamplingParams, Token, Usage


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several -> several. A list of integers is one prompt. Raises UsageError for anything else."""

    def is_id(item: Any) -> bool:
        return hasattr(item, "__index__") and getattr(item, "ndim", 0) == 0

    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, bytes | bytearray | Mapping) and isinstance(prompts, Iterable):
        items: list[Any] = list(prompts)
        if items and all(is_id(item) for item in items):
            return [[int(item) for item in items]]
        several = [item if isinstance(item, str) else _ids_of(item, is_id) for item in items]
        if all(item is not None for item in several):
            return [item for item in several if item is not None]
    raise UsageError(
        f"a prompt must be text or token ids, not {type(prompts).__name__}",
        "Give a str, a list of int, or a list of those.",
    )


def _ids_of(item: Any, is_id: Callable[[Any], bool]) -> list[int] | None:
    if isinstance(item, bytes | bytearray | Mapping) or not isinstance(item, Iterable):
        return None
    ids = list(item)
    return [int(id) for id in ids] if all(is_id(id) for id in ids) else None


def checked_ids(prompt: Sequence[int], vocab_size: int, context_length: int) -> list[int]:
    """The prompt's ids, if the model can take them and has room for at least one token more.

    Raises UsageError for no ids and for ids that are none of the vocabulary's, ContextTooLong with both numbers.
    """
    ids = [int(id) for id in prompt]
    if not ids:
        raise UsageError("the prompt is empty: there is no token to begin from", "Give at least one token.")
    if min(ids) < 0 or max(ids) >= vocab_size:
        wrong = next(id for id in ids if not 0 <= id < vocab_size)
        raise UsageError(
            f"token id {wrong} is out of range: the vocabulary has {vocab_size:,} tokens",
            "Were the ids made by another model's tokenizer?",
        )
    if len(ids) >= context_length:
        raise ContextTooLong(
            f"the prompt has {len(ids):,} tokens; the model's context holds {context_length:,}, one of which the answer needs",
            "Shorten the prompt, or use a model with a longer context.",
        )
    return ids


PLAIN_STOP = "\nUser:"


def plain_chat(messages: Sequence[Message]) -> str:
    """The rendering for a model without a chat template: named turns, ended by ``PLAIN_STOP``.

    Answer kindly.          <- system (and tool) messages as they are

    User: Hello
    Assistant:
    """
    names = {"user": "User: ", "assistant": "Assistant: "}
    lines = [names.get(m.role, "") + m.content + ("" if m.role in names else "\n") for m in messages]
    return "\n".join([*lines, "Assistant:"])


def turns_of(messages: Sequence[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    if not messages:
        raise UsageError("there is no message to answer", "Give at least one message.")
    return tuple(Message.of(message) for message in messages)


def with_own_turns(system: str | None, examples: Sequence[Message], turns: Sequence[Message]) -> list[Message]:
    """A conversation with a created model: its system text, unless the turns have another, its examples, and the turns."""
    own = [Message("system", system)] if system and not any(turn.role == "system" for turn in turns) else []
    return [*own, *examples, *turns]


def without_leading_space(tokens: Iterator[Token]) -> Iterator[Token]:
    """A plain-text reply begins after "Assistant:" with a space that is no part of it."""
    begun = False
    for token in tokens:
        text = token.text if begun else token.text.lstrip()
        begun = begun or bool(text)
        yield replace(token, text=text)


def reply_of(tokens: Iterable[Token], *, plain: bool) -> Message:
    text = "".join(token.text for token in tokens)
    return Message("assistant", text.rstrip() if plain else text)


def with_schema(params: SamplingParams | None, schema: Any) -> SamplingParams:
    """The parameters, and the schema where there is one."""
    params = params or SamplingParams()
    return params if schema is None else replace(params, schema=schema)


def completion_of(tokens: Sequence[Token], prompt_tokens: int, sampling: SamplingParams) -> Completion:
    own = [token for token in tokens if token.id is not None]
    return Completion(
        text="".join(token.text for token in tokens),
        token_ids=tuple(token.id for token in own if token.id is not None),
        finish_reason=tokens[-1].finish_reason or "stop",
        usage=Usage(prompt_tokens, len(own)),
        logprobs=tuple(token.logprob or 0.0 for token in own) if sampling.logprobs else None,
        top_logprobs=tuple(token.top_logprobs or () for token in own) if sampling.top_logprobs else None,
    )
