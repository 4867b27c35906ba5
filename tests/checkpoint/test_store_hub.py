"""Models from a hub on loopback through huggingface_hub: HF_ENDPOINT, tokens, resuming, hashes.

The library reads its settings when it is imported, so each pull runs in a program of its own, as a person's does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hornbook.checkpoint.store import Store
from hornbook.settings import Settings
from model_servers import HubHandler, Served, gguf, serving

PULL = """
import json, sys
from hornbook.checkpoint.store import Store
from hornbook.errors import HornbookError
from hornbook.settings import Settings
seen = []
try:
    entry = Store(Settings.load()).pull(sys.argv[1], progress=lambda *step: seen.append(step))
    print(json.dumps({"entry": entry.to_json(), "resolved": entry.resolved, "first": seen[0], "last": seen[-1]}))
except HornbookError as error:
    print(json.dumps({"error": type(error).__name__, "what": error.what, "remedy": error.remedy}))
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub() -> Iterator[Served]:
    with serving(HubHandler) as server:
        yield server


def environment(hub: Served, home: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    kept |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home.parent / "hf"), "HORNBOOK_HOME": str(home)}
    return kept | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"} | more


def pull(hub: Served, home: Path, name: str, **more: str) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-c", PULL, name],
        env=environment(hub, home, **more),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert "Fetching" not in run.stderr  # the library's own bars stay silent
    return dict(json.loads(run.stdout))


def add(hub: Served, name: str, files: dict[str, bytes], **about: Any) -> None:
    hub.repos[name] = {"files": files, "sha": COMMIT, **about}


def staged(home: Path) -> list[Path]:
    return [path for path in home.rglob(".staging/*/**/*") if path.is_file()]


def test_a_gguf_is_pulled_with_the_persons_token_licence_and_commit(hub: Served, home: Path) -> None:
    model = gguf(1, 200_000)
    files = {"m-Q4_K_M.gguf": model, "m-Q8_0.gguf": gguf(2), "LICENSE": b"be kind", "pickle.bin": b"no"}
    add(hub, "org/private", files, card={"license": "apache-2.0"}, token="hf_secret")
    refused = pull(hub, home, "hf:org/private:Q4_K_M")
    assert (refused["error"], "private" in refused["what"], "HF_TOKEN" in refused["remedy"]) == (
        "DownloadError",
        True,
        True,
    )
    done = pull(hub, home, "hf:org/private:Q4_K_M", HF_TOKEN="hf_secret")
    entry = Store(Settings.load()).get("hf:org/private:Q4_K_M")
    assert entry.to_json() == done["entry"]
    assert entry.path.read_bytes() == model
    assert (entry.licence, Path(entry.terms).read_text()) == ("apache-2.0", "be kind")
    assert done["resolved"] == [f"org/private@{COMMIT}"]
    assert done["last"] == ["pulling hf:org/private:Q4_K_M", len(model) + 7, len(model) + 7]
    assert {headers.get("authorization") for _, _, headers in hub.requests[1:]} == {"Bearer hf_secret"}
    assert hub.count("Q8_0") == hub.count("pickle") == 0
    assert staged(home) == []


def test_a_folder_in_shards_comes_whole_and_without_pickles(hub: Served, home: Path) -> None:
    files = {
        "config.json": b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}',
        "model-00001-of-00002.safetensors": b"\x02\0\0\0\0\0\0\0{}",
        "model-00002-of-00002.safetensors": b"\x03\0\0\0\0\0\0\0{ }",
        "model.safetensors.index.json": b"{}",
        "pytorch_model.bin": b"pickle",
        "onnx/model.onnx": b"no",
        "tokenizer.json": b"{}",
        "README.md": b"---\nlicense: other\nlicense_name: own-terms\nlicense_link: https://example.org/t\n---\n",
    }
    add(hub, "org/shards", files)
    done = pull(hub, home, "hf:org/shards")
    entry = Store(Settings.load()).get("hf:org/shards")
    kept = {path.relative_to(entry.path).as_posix() for path in entry.path.rglob("*") if path.is_file()}
    assert kept == set(files) - {"pytorch_model.bin", "onnx/model.onnx"} | {"hornbook.json"}
    assert (entry.kind, entry.licence, entry.terms) == ("llm", "own-terms", "https://example.org/t")
    assert len(done["entry"]["sha256"]) == 64


def test_after_kill_9_the_pull_goes_on_inside_the_file(hub: Served, home: Path) -> None:
    model = gguf(3, 30_000_000)  # larger than the library's block, so that some of it is on disk when the kill comes
    add(hub, "org/big", {"m.gguf": model, "README.md": b"hello"})
    hub.slow["m.gguf"] = 60.0
    victim = subprocess.Popen([sys.executable, "-c", PULL, "hf:org/big"], env=environment(hub, home))
    try:
        end = time.monotonic() + 60
        while not any(path.stat().st_size > 5_000_000 for path in staged(home)):
            assert time.monotonic() < end, "nothing arrived"
            time.sleep(0.05)
    finally:
        victim.kill()
        victim.wait()
    store = Store(Settings.load())
    assert store.list() == []
    hub.slow.clear()
    done = pull(hub, home, "hf:org/big")
    assert store.get("hf:org/big").path.read_bytes() == model
    assert done["first"][1] > 5_000_000  # it says at once how much was there
    ranges = [
        headers.get("range", "") for method, path, headers in hub.requests if method == "GET" and "m.gguf" in path
    ]
    assert ranges[0] == ""
    assert int(ranges[1].removeprefix("bytes=").rstrip("-")) > 5_000_000
    assert staged(home) == []


def test_a_wrong_hash_is_refused_and_leaves_nothing(hub: Served, home: Path) -> None:
    add(hub, "org/bad", {"m.gguf": gguf()}, lfs={"m.gguf": "0" * 64})
    failed = pull(hub, home, "hf:org/bad")
    assert failed["error"] == "DownloadError"
    assert f"the hub names {'0' * 64}" in failed["what"]
    assert Store(Settings.load()).list() == []
    assert staged(home) == []


def test_names_that_leave_the_folder_are_refused(hub: Served, home: Path) -> None:
    add(hub, "org/evil", {"../../../evil.gguf": gguf()})
    failed = pull(hub, home, "hf:org/evil")
    assert (failed["error"], "points outside its folder" in failed["what"]) == ("DownloadError", True)
    assert not list(home.parent.rglob("evil.gguf"))


@pytest.mark.parametrize(
    ("name", "more", "error", "says"),
    [
        ("hf:org/none", {}, "DownloadError", "no repository org/none"),
        ("hf:org/two", {}, "UsageError", "holds 2 models: a.gguf, b.gguf"),
        ("hf:org/two:c", {}, "UsageError", "none of its GGUF files matches 'c'"),
        ("hf:org/two:a", {"HF_HUB_OFFLINE": "1"}, "OfflineError", "HF_HUB_OFFLINE"),
        ("hf:org/two:a", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "DownloadError", "could not be fetched"),
    ],
)
def test_what_cannot_be_pulled_says_why(
    hub: Served, home: Path, name: str, more: dict[str, str], error: str, says: str
) -> None:
    add(hub, "org/two", {"a.gguf": gguf(1), "b.gguf": gguf(2)})
    failed = pull(hub, home, name, **more)
    assert failed["error"] == error
    assert says in failed["what"]
    assert failed["remedy"]


def test_a_token_is_not_sent_to_the_storage_server_of_a_signed_address(hub: Served, home: Path) -> None:
    model = gguf(5)
    with serving(HubHandler) as storage:
        add(storage, "org/moved", {"m.gguf": model})
        add(hub, "org/moved", {"m.gguf": model}, token="hf_secret", moved={"m.gguf": storage.url})
        pull(hub, home, "hf:org/moved", HF_TOKEN="hf_secret")
        assert Store(Settings.load()).get("hf:org/moved").path.read_bytes() == model
        assert storage.count("m.gguf") == 1
        assert [headers.get("authorization") for _, _, headers in storage.requests] == [None]
