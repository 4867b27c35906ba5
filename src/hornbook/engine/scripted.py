"""An LLM without a model, for tests that must be exact: it says what it is told to, and remembers what it was asked."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hornbook.engine.prompts import as_prompts, completion_of, plain_chat, reply_of, turns_of, with_schema
from hornbook.engine.stops import StopMatcher
from hornbook.engine.tool_calls import plan_tools
from hornbook.errors import ContextTooLong, GenerationError, ModelClosed, UsageError
from hornbook.types import Completion, FinishReason, Message, Prompt, SamplingParams, Score, Token


@dataclass(frozen=True, slots=True)
class Asked:
    """What a ScriptedLLM was asked: the prompt as text, the messages behind it if any, how to sample."""

    prompt: str
    sampling: SamplingParams
    messages: tuple[Message, ...] = ()


class ScriptedLLM:
    """An LLM that says what it is told to, in order or by a function of the prompt, and remembers what it was asked.

    Its tokens are words with the space before them, each the only one that could come. It keeps the whole contract of an LLM (stop strings, max_tokens,
    the context's length, errors), so that a test built on it is exact and no easier than the real thing. That a reply satisfies a schema is the script's
    business; the schema stands in ``asked``.
    """

    def __init__(
        self,
        replies: str | Sequence[str] | Callable[[str], str],
        *,
        name: str = "scripted",
        context_length: int = 4096,
        score: Callable[[str, str], Score] | None = None,
    ) -> None:
        self.name = name
        self.context_length = context_length
        self.asked: list[Asked] = []
        self._replies = [replies] if isinstance(replies, str) else replies
        self._given = 0
        self._score = score
        self._vocabulary: dict[str, int] = {}
        self._lock = threading.RLock()
        self._closed = False

    def generate(self, prompts: Prompt | Sequence[Prompt], sampling: SamplingParams | None = None) -> list[Completion]:
        params = sampling or SamplingParams()
        ids = [self._encode(prompt) for prompt in as_prompts(prompts)]
        for prompt in ids:
            self._check(prompt, params)
        return [
            completion_of(list(self._say(prompt, params)), len(prompt), params)
            for prompt in ids
            for _ in range(params.n)
        ]

    def stream(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Iterator[Token]:
        several = as_prompts(prompt)
        if len(several) != 1:
            raise UsageError(f"a stream continues one prompt, not {len(several)}", "Use generate() for several.")
        return self._one(self._encode(several[0]), sampling or SamplingParams())

    def chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        schema: Any = None,
        sampling: SamplingParams | None = None,
    ) -> Message:
        """What the script says, whatever the tools and the schema; calls that it spells out are taken as a model's."""
        said = reply_of(self.stream_chat(messages, schema=schema, sampling=sampling), plain=False)
        return plan_tools(self, tools).read(said.content).message if tools else said

    def stream_chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        schema: Any = None,
        sampling: SamplingParams | None = None,
    ) -> Iterator[Token]:
        turns = turns_of(messages)
        return self._one(self._encode(plain_chat(turns)), with_schema(sampling, schema), turns)

    def render(self, messages: Sequence[Message | Mapping[str, Any]]) -> str | list[int]:
        return plain_chat(turns_of(messages))

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """By the function given, which sees a context of ids as their words; else one nat a token and never greedy."""
        self._open()
        spelled = [(self._spelled(context), continuation) for context, continuation in pairs]
        if self._score is not None:
            return [self._score(*pair) for pair in spelled]
        counts = [self.count_tokens(continuation) for _, continuation in pairs]
        return [Score(-float(count), count == 0, count) for count in counts]

    def score_text(self, texts: Sequence[str]) -> list[Score]:
        """As ``score`` after no context."""
        return self.score([("", text) for text in texts])

    def count_tokens(self, text: str) -> int:
        return len(_words(text))

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> ScriptedLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        if self._closed:
            raise ModelClosed(f"{self.name} was closed", "Make another.")

    def _encode(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        with self._lock:
            return [self._vocabulary.setdefault(word, len(self._vocabulary)) for word in _words(prompt)]

    def _spelled(self, prompt: Prompt) -> str:
        if isinstance(prompt, str):
            return prompt
        with self._lock:
            words = list(self._vocabulary)
        if wrong := [id for id in prompt if not 0 <= id < len(words)]:
            raise UsageError(f"token id {wrong[0]} is out of range", "A ScriptedLLM knows the words it has seen.")
        return "".join(words[id] for id in prompt)

    def _one(self, ids: list[int], params: SamplingParams, messages: tuple[Message, ...] = ()) -> Iterator[Token]:
        self._check(ids, params)
        if params.n != 1:
            raise UsageError(f"a stream gives one answer, not {params.n}", "Use generate() for several.")
        return self._say(ids, params, messages)

    def _check(self, ids: Sequence[int], params: SamplingParams) -> None:
        self._open()
        refused = {"regex": params.regex, "grammar": params.grammar, "logit_bias": params.logit_bias}
        if named := [name for name, value in refused.items() if value]:
            raise UsageError(f"a script cannot be held to {' and '.join(named)}", "Leave it out, or load a model.")
        if len(ids) >= self.context_length:
            raise ContextTooLong(
                f"the prompt has {len(ids):,} tokens; the model's context holds {self.context_length:,}, "
                "one of which the answer needs",
                "Shorten the prompt.",
            )
        self._spelled(ids)

    def _say(self, ids: Sequence[int], params: SamplingParams, messages: tuple[Message, ...] = ()) -> Iterator[Token]:
        with self._lock:
            prompt = self._spelled(ids)
            self.asked.append(Asked(prompt, params, messages))
            reply = self._next_reply(prompt)
        stops = StopMatcher(params.stop)
        room = min(params.max_tokens, self.context_length - len(ids))
        for count, word in enumerate(_words(reply), 1):
            self._open()
            (id,) = self._encode(word)
            text = stops.push(word)
            reason: FinishReason | None = "stop" if stops.stopped else "length" if count >= room else None
            top = ((id, 0.0),) if params.top_logprobs else None
            yield Token(text + (stops.flush() if reason else ""), id, 0.0 if params.logprobs else None, reason, top)
            if reason:
                return
        yield Token(stops.flush(), finish_reason="stop")

    def _next_reply(self, prompt: str) -> str:
        if callable(self._replies):
            return self._replies(prompt)
        if self._given >= len(self._replies):
            raise GenerationError(
                f"the script has {len(self._replies)} replies and was asked for one more", f"The prompt was: {prompt!r}"
            )
        self._given += 1
        return self._replies[self._given - 1]


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)
