"""A thousand malformed requests, made from the server's own description of itself, against a real server process.

Each is refused with a status below 500 and a reason, or answered; none fails the server, none hangs, and afterwards it
serves as before. Half are made by schemathesis (bodies and parameters that break their schema), half are requests that
would be right but for one field, which holds what parsers and tokenizers trip over.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings

pytestmark = [pytest.mark.models, pytest.mark.timeout(240)]

REQUESTS = 1000
HANG = 20.0  # seconds without a byte
NAME = "smollm2:135m"
JSON = {"Content-Type": "application/json"}
SAYS = [{"role": "user", "content": "Hi"}]

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "n"}]
CALLED = [*PARTS, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "1", "content": "r"}]
SHAPE = {"type": "object", "properties": {"a": {"enum": ["x"]}}, "required": ["a"], "additionalProperties": False}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SHAPE}}

# What is right: one place of it, or one more field, is replaced. Short answers, so that what is let through costs little.
RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"model": NAME, "messages": CALLED, "max_tokens": 1, "tools": [TOOL], "tool_choice": "auto"}),
    ("/v1/chat/completions", {"model": NAME, "messages": SAYS, "max_tokens": 1, "response_format": SCHEMA}),
    ("/v1/completions", {"model": NAME, "prompt": [1, 2], "max_tokens": 1, "logit_bias": {"5": 1}, "stop": ["x"]}),
    ("/v1/responses", {"model": NAME, "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}],
                       "max_output_tokens": 16, "tools": [{"type": "function", "name": "f", "parameters": SHAPE}]}),
    ("/v1/embeddings", {"model": "minilm", "input": ["Hi", [1]], "dimensions": 8}),
    ("/v1/rerank", {"model": "minilm", "query": "Hi", "documents": ["a", {"text": "b"}], "top_n": 1}),
    ("/api/generate", {"model": NAME, "prompt": "Hi", "system": "s", "stream": False, "options": {"num_predict": 1}}),
    ("/api/chat", {"model": NAME, "messages": SAYS, "tools": [TOOL], "format": SHAPE, "stream": False,
                   "options": {"num_predict": 1, "stop": ["x"], "num_ctx": 512, "top_k": 3, "repeat_penalty": 1.1}}),
    ("/api/embed", {"model": "minilm", "input": ["Hi"], "options": {"num_ctx": 64}}),
    ("/api/show", {"model": NAME}),
    ("/api/copy", {"source": "nobody", "destination": "other"}),
    ("/api/create", {"model": "made", "from": NAME, "template": "{{ .Prompt }}", "parameters": {"stop": ["x"]},
                     "messages": SAYS, "license": ["l"], "stream": False}),
    ("/kb", {"name": "papers", "title": "t"}),
    ("/kb/papers/search", {"query": "Hi"}),
    ("/kb/papers/ask", {"question": "Hi"}),
    ("/api/hornbook/conversations", {"title": "t", "settings": {"system": "s", "sampling": {"temperature": 1}}}),
]  # fmt: skip

LENGTHS = {"max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict", "options"}

BROKEN = [b"", b"{", b'{"model": ', b"\xff\xfe{}", b"null", b"[]", b'"x"', b"1e999", b"{}{}", b'{"a":1,}', b"\x00",
          b'{"model": "smollm2:135m", "model": 7}', b"[" * 5000, b'{"a":' * 5000, b"9" * 5000]  # fmt: skip


def _nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


ODD: list[Any] = [
    float("nan"), float("inf"), -float("inf"), -1, 0, 2**31, 2**63, 10**40, 1e308, 5e-324, True, None, "", " ",
    "\x00", "\ud800", "\udfff\ud800", "\U0010ffff", "e\u0301" * 50, "../../etc/passwd", "/etc/passwd", "C:\\x", "%00",
    "x" * 200_000, [], {}, [None], [[]], {"": ""}, {"type": None}, _nested(90), [1, "a", None], "999999999999999999999",
    [{"role": "user"}], [{"role": "user", "content": "\ud800"}], [{"role": "user", "content": None}], [[0]], [-1], [2**40],
    {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}, {"type": "object", "properties": 7},
    [{"type": "function", "function": {"name": "\x00", "parameters": {"$ref": "#/x"}}}], {"num_ctx": 10**12}, {"seed": 1.5},
    {"stop": ["\x00" * 100]}, {"0": 1e400}, {"-1": 5}, ["x"] * 200,
]  # fmt: skip


class Fuzz:
    """Sends, and keeps the books: what failed, what was refused without a reason, what took too long."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=HANG, trust_env=False)
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []

    def case(self, label: str, case: Any) -> None:
        """Send what schemathesis has made."""
        given = case.as_transport_kwargs(base_url=str(self.http.base_url))
        body = {key: given[key] for key in ("json", "data") if given.get(key) is not None}
        if isinstance(body.get("data"), (bytes, str)):
            body = {"content": body["data"]}
        headers = {name: value for name, value in given["headers"].items() if name.lower() != "user-agent"}
        method, url, query = given["method"], given["url"], given.get("params")
        self.send(label, lambda: self.http.build_request(method, url, params=query, headers=headers, **body))

    def send(self, label: str, request: Callable[[], httpx.Request]) -> None:
        try:
            made = request()
        except (ValueError, TypeError, UnicodeError, httpx.InvalidURL):
            return  # no client can send it
        began = time.monotonic()
        try:
            response = self.http.send(made, stream=True)
            with_reason = b""
            if response.status_code >= 400:
                with_reason = response.read()
            response.close()
        except httpx.HTTPError as error:
            self.faults.append(f"{label}: {type(error).__name__} after {time.monotonic() - began:.1f} s: {_told(made)}")
            return
        status = response.status_code
        self.statuses[status] += 1
        if status >= 500 and status not in (501, 507):
            self.faults.append(f"{label}: {status} {with_reason[:200]!r}: {_told(made)}")
        elif status >= 400 and made.method != "HEAD" and not _reason(with_reason):
            self.faults.append(f"{label}: {status} without a reason {with_reason[:200]!r}: {_told(made)}")


def _told(request: httpx.Request) -> str:
    return f"{request.url.raw_path[:120]!r} {request.headers.get('content-type')} {request.content[:300]!r}"


def _reason(body: bytes) -> bool:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return bool(error if isinstance(error, str) else error.get("message") or error.get("what"))


def _broken(fuzz: Fuzz, spec: dict[str, Any], count: int) -> None:
    """``count`` requests in all that schemathesis makes of the description, as many for each route."""
    from schemathesis.generation import GenerationMode

    operations = [found.ok() for found in schemathesis.openapi.from_dict(spec).get_all_operations()]
    operations = [one for one in operations if one.body or one.query or one.path_parameters]
    each = -(-count // len(operations))
    for operation in operations:
        # A route that takes any string can be sent nothing malformed; then any string it is.
        mode = GenerationMode.NEGATIVE if operation.body or operation.query else GenerationMode.POSITIVE
        _each_case(
            operation.as_strategy(generation_mode=mode),
            each,
            lambda case, label=operation.label: fuzz.case(label, case),
        )  # type: ignore[misc]


def _each_case(strategy: Any, count: int, send: Callable[[Any], None]) -> None:
    @seed(5)
    @settings(
        max_examples=count, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def one(case: Any) -> None:
        send(case)

    one()


def _fields(spec: dict[str, Any], path: str) -> list[str]:
    """The names of a body's fields, from its schema."""
    pattern = next(one for one in spec["paths"] if one.replace("{name}", "papers") == path)
    (media,) = spec["paths"][pattern]["post"]["requestBody"]["content"].values()
    schema = media["schema"]
    if "$ref" in schema:
        schema = spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return sorted(schema["properties"])


Place = tuple[str | int, ...]


def _places(value: Any, above: Place = ()) -> Iterator[Place]:
    """Where the parts of a body are, the inner ones too."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*above, key)
        yield from _places(part, (*above, key))


def _nearly_right(spec: dict[str, Any], count: int) -> Iterator[tuple[str, bytes]]:
    """``count`` (path, body): broken JSON, and right requests with something odd at one place."""
    choose = random.Random(5)
    for _ in range(count // 5):
        yield choose.choice(RIGHT)[0], choose.choice(BROKEN)
    for _ in range(count - count // 5):
        path, right = choose.choice(RIGHT)
        added: list[Place] = [(name,) for name in _fields(spec, path)]
        place = choose.choice(sorted({*_places(right), *added}, key=str))
        body = copy.deepcopy(right)
        inner: Any = body
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = choose.choice(ODD)
        if place[-1] in LENGTHS:  # a great length is no fault: the answer is let begin, and its client goes
            body["stream"] = True
        yield path, json.dumps(body).encode()


def test_a_thousand_malformed_requests_are_refused_with_a_reason(fresh_server: Any) -> None:
    server = fresh_server("--rate", "10000")
    spec = server.get("/openapi.json").json()
    assert server.post("/kb", {"name": "papers"}).status_code == 201
    fuzz = Fuzz(server.url)
    _broken(fuzz, spec, REQUESTS // 2)
    for path, body in _nearly_right(spec, REQUESTS // 2):
        fuzz.send(f"POST {path}", partial(fuzz.http.build_request, "POST", path, content=body, headers=JSON))

    sent = sum(fuzz.statuses.values())
    faults = "\n".join(fuzz.faults[:40])
    assert not fuzz.faults, f"{len(fuzz.faults)} of {sent}:\n{faults}"
    assert sent >= 0.9 * REQUESTS, "too few could be sent"
    refused = sum(count for status, count in fuzz.statuses.items() if 400 <= status < 500)
    assert refused >= 0.7 * sent, f"the requests are not malformed enough: {fuzz.statuses}"

    health = server.get("/health").json()
    assert health["status"] == "ok" and health["open"] <= 1
    answer = server.post("/v1/chat/completions", {"model": NAME, "messages": SAYS, "max_tokens": 2})
    assert answer.status_code == 200, answer.text
    assert not any("unexpected" in line for line in server.log)
