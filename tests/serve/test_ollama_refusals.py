"""What Ollama's API cannot do here is refused by its name, a context too long is told with counts, and nothing hangs."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

MODEL = "smollm2:135m"


def post(server: Any, path: str, body: Any, status: int = 400) -> str:
    answer = server.post(path, body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    return str(answer.json()["error"])


@pytest.mark.parametrize(
    ("path", "more", "word"),
    [
        ("generate", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("generate", {"prompt": "x", "images": ["aGk="]}, "images"),
        ("chat", {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "images"),
        ("generate", {"prompt": "x", "options": {"mirostat": 2}}, "mirostat"),
        ("generate", {"prompt": "x", "options": {"num_gpu": "all"}}, "num_gpu"),
        ("generate", {"prompt": "x", "options": {"use_mmap": 3}}, "use_mmap"),
        ("generate", {"prompt": "x", "options": {"penalize_newline": False}}, "penalize_newline"),
        ("generate", {"prompt": "x", "options": {"colour": 1}}, "colour"),
        ("generate", {"prompt": "x", "options": {"temperature": -1}}, "temperature"),
        ("generate", {"prompt": "x", "options": {"top_k": "many"}}, "top_k"),
        ("generate", {"prompt": "x", "options": {"stop": [""]}}, "stop"),
        ("generate", {"prompt": "x", "options": {"repeat_last_n": -2}}, "repeat_last_n"),
        ("generate", {"prompt": "x", "options": []}, "options"),
        ("generate", {"prompt": "x", "format": "yaml"}, "format"),
        ("generate", {"prompt": "x", "format": {"type": "nonsense"}}, "schema"),
        ("generate", {"prompt": "x", "keep_alive": "a while"}, "keep_alive"),
        ("generate", {"prompt": "x", "raw": True, "system": "y"}, "raw mode"),
        ("generate", {"prompt": "x", "template": "{{ .Nothing }}"}, ".Nothing"),
        ("generate", {"prompt": "x", "context": [10**9]}, "1000000000"),
        ("generate", {"prompt": "x", "context": [-1]}, "-1"),
        ("generate", {"prompt": "x", "think": "high"}, "think"),
        ("generate", {"prompt": 5}, "prompt"),
        ("generate", {"prompt": "x", "speed": 11}, "speed"),
        ("chat", {"messages": [{"role": "judge", "content": "x"}]}, "role"),
        ("chat", {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}, "tools[0]"),
        ("embed", {"input": ["x"]}, "not an embedding model"),
        ("create", {"from": "smollm2:135m", "model": "q", "quantize": "q4_0"}, "quantize"),
        ("create", {"from": "/etc/passwd", "model": "q", "stream": False}, "not a path"),
        ("create", {"model": "q", "modelfile": "FROM smollm2:135m\nFORM"}, "line 2"),
        ("create", {"model": "q", "modelfile": "FROM smollm2:135m\nADAPTER /etc", "stream": False}, "ADAPTER"),
        ("create", {"model": "q"}, "neither 'from' or 'files'"),
        ("create", {"model": "../q", "from": "smollm2:135m", "stream": False}, "name"),
        ("create", {"model": "q", "files": {"a/../x.gguf": "sha256:0"}}, "digest"),
        ("create", {"model": "q", "files": {"x.gguf": "sha256:" + "0" * 64}}, "no blob"),
        ("pull", {"insecure": True}, "insecure"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_its_name(
    server: Any, path: str, more: dict[str, Any], word: str
) -> None:
    status = 404 if word == "not a path" else 400
    assert word in post(server, f"/api/{path}", {"model": MODEL, **more}, status)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model": ""}', b'{"model": "\xff"}', b'{"model": {}}'])
@pytest.mark.parametrize("path", ["generate", "chat", "embed", "show", "create", "pull"])
def test_a_body_that_is_none_is_an_error_with_a_reason(server: Any, path: str, body: bytes) -> None:
    with server.client() as http:
        answer = http.post(f"/api/{path}", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


@pytest.mark.parametrize("path", ["generate", "chat", "embed", "show"])
def test_a_model_that_is_not_here_is_a_404(server: Any, path: str) -> None:
    body = {"model": "nobody", "input": "x"} if path == "embed" else {"model": "nobody"}
    assert "nobody" in post(server, f"/api/{path}", body, 404)


def test_json_is_read_whatever_the_client_calls_it(server: Any) -> None:
    with server.client() as http:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = http.post("/api/show", content=json.dumps({"name": MODEL}), headers=form)
    assert answer.json()["details"]["family"] == "llama"


def test_a_server_is_seen_to_run(server: Any) -> None:
    with server.client() as http:
        assert http.head("/").status_code == 200
        assert http.get("/").status_code == 200
        assert http.get("/api/version").json()["version"].count(".") == 2


# ------------------------------------------------------------------------------------------------------------ context


def test_a_prompt_too_long_is_told_with_counts_or_cut_and_reported(server: Any) -> None:
    body = {
        "model": MODEL,
        "prompt": "word " * 300,
        "stream": False,
        "options": {"num_ctx": 128, "num_predict": 4, "num_keep": 10},
    }
    told = post(server, "/api/generate", body)
    assert "128" in told
    assert "tokens" in told
    cut = server.post("/api/generate", {**body, "truncate": True}).json()
    assert cut["prompt_eval_count"] == 124
    assert cut["dropped"] == {"tokens": int(told.split("has ")[1].split()[0]) - 124}
    assert len(cut["context"]) == 124 + cut["eval_count"]


def test_a_conversation_too_long_is_told_with_counts_or_loses_its_oldest_turns(server: Any) -> None:
    turns = [{"role": "system", "content": "Be kind."}]
    for number in range(10):
        turns += [
            {"role": "user", "content": f"Question {number}: " + "why " * 10},
            {"role": "assistant", "content": "Because."},
        ]
    turns.append({"role": "user", "content": "And now?"})
    body = {"model": MODEL, "messages": turns, "stream": False, "options": {"num_ctx": 128, "num_predict": 8}}
    assert "128" in post(server, "/api/chat", body)
    cut = server.post("/api/chat", {**body, "truncate": True}).json()
    assert cut["dropped"]["messages"] >= 10
    assert cut["prompt_eval_count"] <= 120


# -------------------------------------------------------------------------------------------------------------- leaving


def test_a_client_that_goes_frees_its_place(server: Any) -> None:
    body = {
        "model": MODEL,
        "prompt": "Count.",
        "options": {"num_predict": 4000, "temperature": 0, "stop": ["\0never"]},
        "format": {"type": "array", "items": {"type": "integer"}, "minItems": 3000},
    }
    before = server.metric("hornbook_requests_open")
    with server.client() as http, http.stream("POST", "/api/generate", json=body) as answer:
        assert next(answer.iter_lines())
    begun = time.monotonic()
    while server.metric("hornbook_requests_open") > before:
        assert time.monotonic() - begun < 5
        time.sleep(0.05)
    with pytest.raises(httpx.ReadTimeout), server.client() as http:
        http.post("/api/generate", json={**body, "stream": False}, timeout=0.3)
    begun = time.monotonic()
    while server.metric("hornbook_requests_open") > before:
        assert time.monotonic() - begun < 5
        time.sleep(0.05)
