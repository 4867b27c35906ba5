"""A server's life: ready at once, refusals with a reason, and an end that lets answers finish."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from serving import BODY, MODEL, Server, Start, Streaming, make_home


def serve(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to refuse."""
    return subprocess.run(
        [sys.executable, "-m", "hornbook", "serve", *arguments],
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
        env={**os.environ, "HORNBOOK_HOME": str(home), "HORNBOOK_OFFLINE": "1"},
    )  # fmt: skip


def test_it_is_ready_in_four_seconds_with_no_model_loaded(fresh_server: Start) -> None:
    server = fresh_server()
    health = server.get("/health")
    used = psutil.Process(server.process.pid).cpu_times()
    # as long as it takes where nothing else runs; on a busy machine everything is late
    seconds = used.user + used.system
    assert health.status_code == 200 and seconds < 4, f"{seconds:.1f} s"
    told = health.json()
    assert told["status"] == "ok" and told["loaded"] == []
    assert server.metric("hornbook_resident_bytes") < 200e6, "something large was imported"


def test_told_to_open_the_page_it_gives_its_address_to_the_browser(fresh_server: Start, tmp_path: Path) -> None:
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{opened}"\n')
    browser.chmod(0o755)
    server = fresh_server("--open", environment={"BROWSER": f"{browser} %s"})
    until = time.monotonic() + 10
    while not (opened.exists() and opened.read_text()):
        assert time.monotonic() < until, "no browser was asked"
        time.sleep(0.05)
    assert opened.read_text().strip().rstrip("/") == server.url


def test_what_it_counts(server: Server) -> None:
    body = {**BODY, "stream": False, "max_tokens": 5, "prompt": "The quick brown fox jumps over the lazy dog. " * 20}
    asked = {"model": MODEL}

    def now(name: str) -> float:
        return server.metric(name, **asked)

    names = [
        "hornbook_time_to_first_token_seconds_count", "hornbook_inter_token_seconds_count",
        "hornbook_new_tokens_total", "hornbook_prompt_tokens_total", "hornbook_cache_hit_tokens_total",
    ]  # fmt: skip
    before = [now(name) for name in names]
    for _ in range(2):
        answer = server.post("/v1/completions", body)
        assert answer.status_code == 200 and answer.headers["x-request-id"]
    usage = answer.json()["usage"]
    first, following, new, read, hits = (now(name) - was for name, was in zip(names, before, strict=True))
    assert (first, new, read) == (2, 2 * usage["completion_tokens"], 2 * usage["prompt_tokens"])
    assert following == new - first
    assert hits >= usage["prompt_tokens"] - 32, "the second time, the prompt was known"
    assert now("hornbook_queue_requests") == now("hornbook_running_answers") == 0
    assert now("hornbook_model_bytes") > 1e8
    assert server.metric("hornbook_requests_total", path="/v1/completions", status="200") >= 2
    assert server.get("/nothing/here").status_code == 404


def test_the_log_is_json_and_keeps_prompts_to_itself(fresh_server: Start) -> None:
    quiet, open_server = fresh_server(), fresh_server("--log-prompts")
    for server in (quiet, open_server):
        server.post("/v1/completions", {**BODY, "stream": False, "prompt": "my secret 秘密", "max_tokens": 2})
        server.post("/v1/completions", {"model": MODEL, "prompt": {"my secret 秘密": 1}})
        assert server.stop() == 0
        lines = [json.loads(line) for line in server.log]
        answered = [line for line in lines if line["message"] == "answered"]
        assert [(line["path"], line["status"]) for line in answered] == [
            ("/v1/completions", 200),
            ("/v1/completions", 400),
        ]
        assert all(line["request"] and line["ms"] > 0 and line["time"].endswith("Z") for line in answered)
    assert "秘密" not in "\n".join(quiet.log)
    assert [line["prompt"] for line in lines if line["message"] == "asked"] == ["my secret 秘密"]


def test_two_servers_of_one_port_or_one_home_are_told(server: Server, tmp_path: Path) -> None:
    second = serve(server.home, "--port", "0")
    assert second.returncode == 2 and "another server uses" in second.stderr and server.url in second.stderr
    assert str(server.process.pid) in second.stderr and not second.stdout
    other = serve(tmp_path / "other", "--port", str(server.port))
    assert other.returncode == 2 and f"port {server.port} is in use" in other.stderr and "--port" in other.stderr
    assert server.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--host", "0.0.0.0", "--port", "0"), ("no key", "hornbook key add")),
        (("--host", "192.0.2.7", "--port", "0"), ("no key",)),
        (("--require-key", "--port", "0"), ("no key",)),
        (("--port", "70000"), ("--port", "65535")),
        (("--memory", "-1"), ("--memory",)),
        (("--cors-origin", "*"), ("origin",)),
        (("/no/such/model.gguf", "--port", "0"), ("/no/such/model.gguf",)),
    ],
)
def test_what_must_not_start_does_not(tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused = serve(tmp_path / "home", *arguments)
    assert refused.returncode == 2, refused.stderr
    assert all(word in refused.stderr for word in words) and "Traceback" not in refused.stderr
    assert len(refused.stderr.strip().splitlines()) <= 2


def test_a_model_that_lies_elsewhere_is_served_by_its_name(
    fresh_server: Start, smollm2_path: Path, tmp_path: Path
) -> None:
    place = tmp_path / "my-model.gguf"
    place.symlink_to(smollm2_path)
    home = make_home(tmp_path / "home")
    server = fresh_server(str(place), home=home)
    assert [one["id"] for one in server.get("/v1/models").json()["data"]] == ["my-model"]
    answer = server.post("/v1/completions", {**BODY, "model": "my-model", "stream": False, "max_tokens": 2})
    assert answer.status_code == 200, answer.text


def test_told_to_stop_it_finishes_what_runs_and_takes_nothing_new(fresh_server: Start) -> None:
    server = fresh_server()
    stream = Streaming(server, max_tokens=150).begun()
    server.process.send_signal(signal.SIGTERM)
    until = time.monotonic() + 5
    while (health := server.get("/health")).status_code == 200:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert health.json()["status"] == "draining"
    refused = server.post("/v1/completions", {**BODY, "max_tokens": 2})
    assert refused.status_code == 503 and refused.headers["retry-after"]
    assert "being stopped" in refused.json()["error"]["message"]
    stream.thread.join(20)
    assert stream.end == "[DONE]" and stream.events[-1]["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(10) == 0
    assert not (server.home / "server" / "address.json").exists()


def test_what_takes_longer_than_it_may_is_ended_with_a_reason(fresh_server: Start) -> None:
    server = fresh_server("--drain", "0.3")
    stream = Streaming(server, max_tokens=7000).begun()
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 5
    stream.thread.join(5)
    assert "error" in stream.events[-1] and "stopped" in stream.events[-1]["error"]["message"]


def test_a_second_signal_ends_it_at_once(fresh_server: Start) -> None:
    server = fresh_server()
    stream = Streaming(server, max_tokens=7000).begun()
    server.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert server.process.poll() is None
    server.process.send_signal(signal.SIGINT)
    server.process.wait(5)
    stream.thread.join(5)
    assert not stream.thread.is_alive() and "Traceback" not in "\n".join(server.log)
    # and the home is free again
    again = fresh_server(home=server.home)
    assert again.get("/health").status_code == 200


def test_killed_it_leaves_a_home_that_can_be_served_again(fresh_server: Start) -> None:
    server = fresh_server()
    server.process.kill()
    server.process.wait()
    assert fresh_server(home=server.home).get("/health").status_code == 200
