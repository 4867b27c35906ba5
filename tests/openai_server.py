"""Loopback servers that speak OpenAI's API: one with an LLM behind it, and one that plays what a test gives it to play."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hornbook.errors import ContextTooLong, HornbookError
from hornbook.types import Completion, Message, SamplingParams

Answer = Callable[["Handler"], None]


class Server(ThreadingHTTPServer):
    """Remembers its requests: (method, path, headers, body). ``gone``: a client left in the middle of an answer."""

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.gone = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.asked]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.body = json.loads(body) if body else None
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.command, self.path, headers, self.body))
        try:
            self.server.answer(self)
        except OSError:
            self.server.gone.set()

    def give(self, status: int, body: Any, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def fail(self, status: int, message: str, code: str = "", **headers: str) -> None:
        self.give(status, {"error": {"message": message, "code": code, "type": "invalid_request_error"}}, **headers)

    def pieces(self, pieces: Sequence[bytes], pause: float = 0.0) -> None:
        """The body of a stream, in pieces as given; the connection's end is its end."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()
            time.sleep(pause)


@contextmanager
def serving(answer: Answer) -> Iterator[Server]:
    server = Server(answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Play:
    """Answers in their order, the last one again and again; the list of models is always there."""

    answers: list[Answer]
    models: Any = field(default_factory=lambda: {"data": [{"id": "toy", "max_model_len": 256}]})

    def __call__(self, handler: Handler) -> None:
        if handler.path.endswith("/models"):
            handler.give(200, self.models)
            return
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        answer(handler)


def event(text: str = "", reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": reason, **more}
    return b"data: " + json.dumps({"choices": [choice]}, ensure_ascii=False).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"

# ------------------------------------------------------------------------------------------------- an LLM behind it


class Behind:
    """The API over an LLM of Hornbook's: what a good server does. ``tokenizer``: it has /tokenize and echo."""

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.tokenizer = getattr(llm, "tokenizer", None)

    def __call__(self, handler: Handler) -> None:
        try:
            route = {
                "/v1/models": self._models,
                "/tokenize": self._tokenize,
                "/v1/completions": self._completions,
                "/v1/chat/completions": self._chat,
            }.get(handler.path)
            if route is None or (route == self._tokenize and self.tokenizer is None):
                handler.fail(404, "Not Found")
            else:
                route(handler)
        except ContextTooLong as error:
            handler.fail(400, error.what, "context_length_exceeded")
        except (HornbookError, ValueError) as error:
            handler.fail(400, str(error))

    def _models(self, handler: Handler) -> None:
        handler.give(200, {"data": [{"id": self.llm.name, "max_model_len": self.llm.context_length}]})

    def _tokenize(self, handler: Handler) -> None:
        if "messages" in handler.body:
            ids = self.llm.render([Message.of(message) for message in handler.body["messages"]])
        else:
            ids = self.tokenizer.encode(
                handler.body["prompt"], add_special=handler.body.get("add_special_tokens", True)
            )
        handler.give(200, {"tokens": ids, "count": len(ids)})

    def _completions(self, handler: Handler) -> None:
        body = handler.body
        if body.get("echo"):
            handler.give(200, self._echoed(body["prompt"]))
            return
        params = _params(body, bool(body.get("logprobs")))
        if body.get("stream"):
            self._stream(handler, self.llm.stream(body["prompt"], params), chat=False)
            return
        choices = []
        for index, completion in enumerate(self.llm.generate(body["prompt"], params)):
            choices.append(_choice(index, completion, body) | {"text": completion.text})
        handler.give(200, {"choices": choices, "usage": _usage(completion)})

    def _chat(self, handler: Handler) -> None:
        body = handler.body
        turns = [Message.of(message) for message in body["messages"]]
        tokens = self.llm.stream_chat(turns, sampling=_params(body, bool(body.get("logprobs"))))
        if body.get("stream"):
            self._stream(handler, tokens, chat=True)
            return
        said = list(tokens)
        message = {"role": "assistant", "content": "".join(token.text for token in said)}
        handler.give(200, {"choices": [{"index": 0, "message": message, "finish_reason": said[-1].finish_reason}]})

    def _stream(self, handler: Handler, tokens: Any, *, chat: bool) -> None:
        handler.pieces([b": welcome\n\n"])
        with contextlib.closing(tokens):
            for token in tokens:
                choice: dict[str, Any] = {"index": 0, "finish_reason": token.finish_reason}
                choice |= {"delta": {"content": token.text}} if chat else {"text": token.text}
                if handler.body.get("return_token_ids"):
                    choice["token_ids"] = [] if token.id is None else [token.id]
                if token.logprob is not None:
                    choice["logprobs"] = {"token_logprobs": [token.logprob]}
                handler.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
                handler.wfile.flush()
        handler.wfile.write(DONE)

    def _echoed(self, prompt: str | list[int]) -> dict[str, Any]:
        """The likelihood of each token of the prompt after those before it; and one token more, as a server adds it."""
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        text = prompt if isinstance(prompt, str) else self.tokenizer.decode(ids)
        ends = [len(self.tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]
        starts = [0, *ends[:-1]]
        parts = [text[start:end] for start, end in zip(starts, ends, strict=True)]
        if isinstance(prompt, str):
            scores = self.llm.score([(text[:start], part) for start, part in zip(starts[1:], parts[1:], strict=True)])
        else:
            scores = self.llm.score_ids([(ids[: end + 1], end) for end in range(1, len(ids))])
        values = [None, *(score.logprob for score in scores)]
        best = [None, *({"?": score.logprob + (0.0 if score.is_greedy else 1.0)} for score in scores)]
        told = {
            "tokens": [*parts, "."], "token_logprobs": [*values, -1.0],
            "text_offset": [*starts, len(text)], "top_logprobs": [*best, {".": -1.0}],
        }  # fmt: skip
        return {"choices": [{"index": 0, "text": text + ".", "finish_reason": "length", "logprobs": told}]}


def _params(body: dict[str, Any], logprobs: bool) -> SamplingParams:
    names = [
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "seed",
        "stop",
        "ignore_eos",
        "n",
    ]
    return SamplingParams(logprobs=logprobs, **{name: body[name] for name in names if name in body})


def _choice(index: int, completion: Completion, body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": completion.finish_reason}
    if body.get("return_token_ids"):
        choice["token_ids"] = completion.token_ids
    if completion.logprobs is not None:
        choice["logprobs"] = {"token_logprobs": completion.logprobs}
    return choice


def _usage(completion: Completion) -> dict[str, int]:
    usage = completion.usage
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
