"""docs/serve-ollama.md is true: its examples run against a real server, and it names what is refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ollama")

PAGE = (Path(__file__).parents[2] / "docs" / "serve-ollama.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:11500"


def test_the_examples_of_the_page_run_in_their_order(server: Any, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block.replace(ADDRESS, server.url), "docs/serve-ollama.md", "exec"), names)
        assert capsys.readouterr().out.strip(), block


def test_the_command_of_the_page_is_answered(server: Any) -> None:
    (command,) = re.findall(r"```\n(curl .*?)```", PAGE, re.DOTALL)
    _, url, _, body = shlex.split(command)
    with server.client() as http:  # as curl sends it
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = http.post(url.removeprefix(ADDRESS), content=body, headers=headers)
    assert answer.json()["message"]["content"]


def test_the_modelfile_of_the_page_makes_a_model(server: Any) -> None:
    (text,) = re.findall(r"```modelfile\n(.*?)```", PAGE, re.DOTALL)
    told = server.post("/api/create", {"model": "of-the-page", "modelfile": text, "stream": False})
    assert told.json() == {"status": "success"}
    shown = server.post("/api/show", {"model": "of-the-page"}).json()
    assert shown["system"] == "You answer in one short sentence."
    assert [turn["role"] for turn in shown["messages"]] == ["user", "assistant"]
    with server.client() as http:
        body = json.dumps({"model": "of-the-page"})
        assert http.request("DELETE", "/api/delete", content=body).status_code == 200


def test_every_parameter_and_route_is_on_the_page(server: Any) -> None:
    from hornbook.checkpoint.modelfile import KEYWORDS, NEUTRAL, PARAMETERS, UNFELT
    from hornbook.text.go_template import _FUNCTIONS, ROOTS

    for word in (*PARAMETERS, *UNFELT, *NEUTRAL, *KEYWORDS, *_FUNCTIONS, *(f".{name}" for name in ROOTS)):
        assert word in PAGE, word
    told = server.get("/openapi.json").json()["paths"]
    paths = [path for path, one in told.items() if any("Ollama" in way.get("tags", ()) for way in one.values())]
    assert len(paths) >= 13
    for path in paths:
        assert path.split("{")[0] in PAGE
        for way in told[path].values():
            assert "422" not in way["responses"] and "4XX" in way["responses"]
