"""An LLM that runs on a server: whatever speaks OpenAI's API, its weights and its tokenizer on the other side.

    generate, stream     /completions, or /chat/completions with each prompt as a message (chat_only)
    chat, stream_chat    /chat/completions, by the server's own template
    score                /completions with echo; a server that does not tell the prompt's likelihoods is an error
    count_tokens         /tokenize; where there is none, an estimate (``counts_exactly`` is false then)

``load("http://localhost:8000/v1#MODEL")`` makes one. What of SamplingParams is the default is not sent, but for what
servers have other defaults for; a parameter that OpenAI's API lacks (top_k, ...) is sent by the name that vLLM gave it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from hornbook.engine import openai
from hornbook.engine.each import as_they_come, in_order, together
from hornbook.engine.pairing import whole_of, windows
from hornbook.engine.prompts import as_prompts, plain_chat, turns_of, with_schema
from hornbook.engine.wire import Events, Wire, checked_url, is_loopback
from hornbook.errors import OfflineError, RemoteError, RemoteRefused, UsageError
from hornbook.forking import lock
from hornbook.settings import Settings
from hornbook.types import Completion, Message, Prompt, SamplingParams, Score, Token

ASSUMED_CONTEXT = 8192  # tokens, of a server that does not say
BYTES_PER_TOKEN = 3  # of UTF-8, for the estimate: English has four or five, Chinese about three, code fewer

log = logging.getLogger(__name__)


def is_remote(source: str) -> bool:
    return source.startswith(("http://", "https://"))


class RemoteLLM:
    """A model of a server, used like one that runs here. Safe to use from several threads.

    base_url        up to and with /v1; ``#MODEL`` at its end names the model, which else is the server's only one
    context_length  where the server does not tell its own; else 8,192 are assumed, and that is logged
    chat_only       the server has no /completions: a prompt goes as a user's message
    parallel        how many prompts of one ``generate`` are sent at once
    timeout         seconds that the server may be silent; ``retries`` while it is busy (429), broken (5xx) or away
    extra           goes into every request as it is: {"return_token_ids": True} makes vLLM tell the ids

    The key is ``api_key``, else HORNBOOK_API_KEY; OPENAI_API_KEY goes to api.openai.com and to OPENAI_BASE_URL alone.
    Raises UsageError, OfflineError (the setting, for another machine), RemoteError, RemoteRefused.
    """

    def __init__(
        self,
        base_url: str,
        model: str = "",
        *,
        api_key: str | None = None,
        context_length: int | None = None,
        chat_only: bool = False,
        parallel: int = 8,
        timeout: float = 600.0,
        retries: int = 3,
        extra: Mapping[str, Any] | None = None,
        settings: Settings | None = None,
    ) -> None:
        base_url, _, named = base_url.partition("#")
        base_url = checked_url(base_url)
        if (settings or Settings.load()).offline and not is_loopback(base_url):
            raise OfflineError(
                f"{base_url} is another machine, and Hornbook was told to stay offline", "Unset HORNBOOK_OFFLINE."
            )
        self.extra = dict(extra or {})
        self.chat_only = chat_only
        self.parallel = max(1, parallel)
        self._wire = Wire(
            base_url, key=_key(base_url) if api_key is None else api_key, timeout=timeout, retries=retries
        )
        self._lock = lock()
        self._tokenizes: bool | None = None  # None: not asked yet
        try:
            self.name, length = self._describe(model or named)
        except BaseException:
            self._wire.close()
            raise
        if context_length is None and length is None:
            log.warning("%s does not say how long its context is; %d tokens are assumed", base_url, ASSUMED_CONTEXT)
        self.context_length = context_length or length or ASSUMED_CONTEXT

    def __repr__(self) -> str:
        return f"RemoteLLM({self._wire.base_url!r}, {self.name!r})"

    def _describe(self, model: str) -> tuple[str, int | None]:
        """(the model's name, its context as the server tells it)."""
        try:
            listed = openai.models(self._wire.get("/models"))
        except RemoteRefused as error:
            if error.status not in (404, 405) or not model:
                raise
            return model, None  # a server without a list
        if not model:
            if len(listed) != 1:
                raise UsageError(
                    f"{self._wire.base_url} has {len(listed)} models: {', '.join(sorted(listed)[:20])}",
                    f"Name one: {self._wire.base_url}#MODEL",
                )
            (model,) = listed
        return model, listed.get(model)

    # --- text

    def generate(self, prompts: Prompt | Sequence[Prompt], sampling: SamplingParams | None = None) -> list[Completion]:
        """Continue each prompt; the completions in their order, ``n`` a prompt. Tokens' ids are () where the server
        does not tell them, and logprobs None; top_logprobs are None, for servers tell words and not ids. Raises ContextTooLong, RemoteRefused, RemoteError, ModelClosed."""
        each = self.generate_each(as_prompts(prompts), sampling)
        return [completion for answer in in_order(each) for completion in answer]

    def generate_each(
        self, prompts: Sequence[Prompt], sampling: SamplingParams | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """As ``generate``; (place of the prompt, its completions) as soon as the server has sent them."""
        params = sampling or SamplingParams()
        return as_they_come(lambda prompt: self._complete(prompt, params), prompts, self.parallel)

    def _complete(self, prompt: Prompt, params: SamplingParams) -> list[Completion]:
        path, body = self._request(prompt, params)
        return openai.completions(self._wire.post(path, body), params)

    def stream(self, prompt: Prompt, sampling: SamplingParams | None = None) -> Iterator[Token]:
        """Continue one prompt, piece by piece as the server sends them: a piece may be several tokens. The server has
        accepted the prompt when this returns. Closing the iterator, or dropping it, closes the connection."""
        several = as_prompts(prompt)
        if len(several) != 1:
            raise UsageError(f"a stream continues one prompt, not {len(several)}", "Use generate() for several.")
        return self._streamed(*self._request(several[0], sampling or SamplingParams()))

    def _request(self, prompt: Prompt, params: SamplingParams) -> tuple[str, dict[str, Any]]:
        if self.chat_only:
            if not isinstance(prompt, str):
                raise UsageError("a server of chats alone takes no token ids", "Give the prompt as text.")
            return self._chat_request((Message("user", prompt),), params)
        given = prompt if isinstance(prompt, str) else [int(id) for id in prompt]
        return "/completions", {"model": self.name, "prompt": given, **openai.sampling(params), **self.extra}

    def _streamed(self, path: str, body: dict[str, Any]) -> RemoteStream:
        if body.get("n", 1) > 1:
            raise UsageError(f"a stream gives one answer, not {body['n']}", "Use generate() for several.")
        return RemoteStream(self._wire.stream(path, {**body, "stream": True}), self._wire.base_url)

    # --- chat

    def chat(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        *,
        tools: Sequence[Any] = (),
        schema: Any = None,
        sampling: SamplingParams | None = None,
    ) -> Message:
        """The assistant's next turn, by the server's template. ``tools``: as OpenAI's API describes them; the calls
        that the model asks for are the message's ``tool_calls``. ``schema``: of an answer in JSON."""
        if sampling is not None and sampling.n != 1:
            raise UsageError(f"a turn of a conversation is one answer, not {sampling.n}", "Use generate() for several.")
        params = with_schema(replace(sampling or SamplingParams(), logprobs=False, top_logprobs=0), schema)
        return openai.reply(self._wire.post(*self._chat_request(turns_of(messages), params, tools)))

    def stream_chat(
        self, messages: Sequence[Message | Mapping[str, Any]], *, sampling: SamplingParams | None = None
    ) -> Iterator[Token]:
        """The assistant's next turn, piece by piece."""
        return self._streamed(*self._chat_request(turns_of(messages), sampling or SamplingParams()))

    def _chat_request(
        self, turns: Sequence[Message], params: SamplingParams, tools: Sequence[Any] = ()
    ) -> tuple[str, dict[str, Any]]:
        body = {"model": self.name, "messages": [openai.message(turn) for turn in turns]}
        body |= openai.sampling(params, chat=True)
        if tools:
            body["tools"] = [openai.tool(tool) for tool in tools]
        return "/chat/completions", {**body, **self.extra}

    def render(self, messages: Sequence[Message | Mapping[str, Any]]) -> str | list[int]:
        """The prompt for the assistant's next turn: ids by the server's template where /tokenize takes messages, else
        plain text, which is not what ``chat`` sends."""
        turns = turns_of(messages)
        asked = {"messages": [openai.message(turn) for turn in turns], "add_generation_prompt": True}
        ids = self._tokenized(asked)
        return plain_chat(turns) if ids is None else ids

    # --- counting and judging

    @property
    def counts_exactly(self) -> bool:
        """Does the server count, or is ``count_tokens`` an estimate of a token for every three bytes?"""
        self.count_tokens("a")
        return bool(self._tokenizes)

    def count_tokens(self, text: str) -> int:
        """How many tokens the text has, as the server's /tokenize counts them; else the estimate."""
        if not text:
            return 0
        ids = self._tokenized(_text(text, special=False))
        return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN) if ids is None else len(ids)

    def _tokenized(self, asked: Mapping[str, Any]) -> list[int] | None:
        """What /tokenize answers; None where the server has none, which is asked once, or takes no such request."""
        if self._tokenizes is False:
            return None
        root = self._wire.base_url.removesuffix("/v1")
        try:
            told = self._wire.post(f"{root}/tokenize", {"model": self.name, **asked})
            ids = [int(id) for id in told["tokens"]]
        except RemoteRefused as error:
            if error.status in (404, 405, 501):
                with self._lock:
                    self._tokenizes = False
                return None
            if "messages" in asked:
                return None
            raise
        except (KeyError, TypeError, ValueError):
            return None
        with self._lock:
            self._tokenizes = True
        return None if "messages" in asked and not ids else ids

    def score(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        """How likely each continuation is after its context, as LocalLLM.score counts it; after ids, it is tokenised by
        the server's /tokenize.

        Raises UsageError for an empty context, whose first token no server judges; RemoteError where the server does
        not tell the likelihoods of a prompt.
        """
        return in_order(self.score_each(pairs))

    def score_each(self, pairs: Sequence[tuple[Prompt, str]]) -> Iterator[tuple[int, Score]]:
        """As ``score``; (place of the pair, its score) as soon as the server has sent it."""
        for context, continuation in pairs:
            if continuation and not (context.rstrip() if isinstance(context, str) else len(context)):
                raise UsageError(
                    "a server does not judge the first token of a text", "Give a context of at least a word."
                )
        return as_they_come(lambda pair: self._score(*pair), pairs, self.parallel)

    def score_text(self, texts: Sequence[str]) -> list[Score]:
        """How likely each whole text is, as LocalLLM.score_text counts it.

        Raises UsageError where the server's /tokenize begins no text with a token of its own: the first token of a text
        cannot be judged then. RemoteError where it does not tell the likelihoods of a prompt.
        """
        cut = []
        for text in texts:
            bare, whole = (self._ids(text, special=special) for special in (False, True))
            begun = len(whole) - len(bare)
            if bare and (begun < 1 or whole[begun:] != bare):
                raise UsageError(
                    f"{self._wire.base_url} does not judge the first token of a text",
                    "Load the model here to judge it.",
                )
            cut.append(windows(whole[:begun], bare, self.context_length - 2) if bare else [])
        every = [window for several in cut for window in several]
        each = as_they_come(lambda asked: self._score_ids(*asked), every, self.parallel)
        return [whole_of(parts) for parts in in_order(together([len(several) for several in cut], each))]

    def _score(self, context: Prompt, continuation: str) -> Score:
        if not continuation:
            return Score(0.0, True, 0)
        if not isinstance(context, str):
            before = [int(id) for id in context]
            return self._score_ids([*before, *self._ids(continuation, special=False)], len(before))
        score = openai.score(self._echoed(context + continuation), context + continuation, len(context.rstrip()))
        return self._told(score)

    def _score_ids(self, ids: list[int], start: int) -> Score:
        return self._told(openai.score_of_ids(self._echoed(ids), len(ids), start))

    def _echoed(self, prompt: str | list[int]) -> Any:
        body = {"model": self.name, "prompt": prompt, "echo": True, "logprobs": 1}
        return self._wire.post("/completions", {**body, "max_tokens": 1, "temperature": 0, **self.extra})

    def _told(self, score: Score | None) -> Score:
        if score is None:
            raise RemoteError(
                f"{self._wire.base_url} does not tell the likelihoods of a prompt (echo with logprobs)",
                "Load the model here to score with it, or use a server that does, such as vLLM.",
            )
        return score

    def _ids(self, text: str, *, special: bool) -> list[int]:
        """By the server's /tokenize. Raises RemoteError where there is none."""
        ids = self._tokenized(_text(text, special=special))
        if ids is None:
            raise RemoteError(
                f"{self._wire.base_url} has no /tokenize, which ids and whole texts are judged with",
                "Load the model here to score with it, or use a server that has one, such as vLLM.",
            )
        return ids

    # --- the end

    def close(self) -> None:
        """Close the connections. Streams that are open end with ModelClosed, and so does any later use."""
        self._wire.close()

    def __enter__(self) -> RemoteLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RemoteStream(Iterator[Token]):
    """The pieces of one answer; the last has a finish_reason. Closing it closes the connection."""

    def __init__(self, events: Events, where: str) -> None:
        self._events = events
        self._where = where
        self._ended = False

    def __next__(self) -> Token:
        if self._ended:
            raise StopIteration
        for event in self._events:
            token = openai.piece(event)
            if token is not None:
                if token.finish_reason is not None:
                    self.close()
                return token
        self._ended = True
        if self._events.done:  # servers there are that end without a reason
            return Token("", finish_reason="stop")
        raise RemoteError(f"{self._where} broke off in the middle of its answer", "Try again.")

    def close(self) -> None:
        self._ended = True
        self._events.close()


def _text(text: str, *, special: bool) -> dict[str, Any]:
    """What /tokenize is asked, by the names of vLLM and those of llama.cpp."""
    return {"prompt": text, "content": text, "add_special_tokens": special, "add_special": special}


def _key(base_url: str) -> str:
    """The key for that address: HORNBOOK_API_KEY, or OPENAI_API_KEY where it is meant for it."""
    if key := os.environ.get("HORNBOOK_API_KEY"):
        return key
    meant = {"api.openai.com", urlsplit(os.environ.get("OPENAI_BASE_URL", "")).hostname}
    return os.environ.get("OPENAI_API_KEY", "") if urlsplit(base_url).hostname in meant else ""
