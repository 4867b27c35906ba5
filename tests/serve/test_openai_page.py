"""docs/serve-openai.md is true: its examples run against a real server, and it names every field that is refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

openai = pytest.importorskip("openai")

PAGE = (Path(__file__).parents[2] / "docs" / "serve-openai.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:11500"


def test_the_examples_of_the_page_run_in_their_order(server: Any, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        exec(compile(block.replace(ADDRESS, server.url), "docs/serve-openai.md", "exec"), names)
        assert capsys.readouterr().out.strip(), block


def test_the_command_of_the_page_is_a_request_that_is_answered(server: Any) -> None:
    (command,) = re.findall(r"```\n(curl .*?)```", PAGE, re.DOTALL)
    _, url, _, _, _, body = shlex.split(command)
    answer = server.post(url.removeprefix(ADDRESS), json=json.loads(body))
    assert answer.status_code == 200 and [one["index"] for one in answer.json()["results"]] == [1]


def test_the_page_names_every_field_that_is_refused_or_has_no_effect() -> None:
    from hornbook.serve.openai.chat import ChatBody
    from hornbook.serve.openai.completions import CompletionBody
    from hornbook.serve.openai.fields import Harmless, StreamOptions
    from hornbook.serve.openai.rerank import RerankBody
    from hornbook.serve.openai.responses_body import ResponseBody

    refused = [
        name for body in (ChatBody, CompletionBody, ResponseBody, RerankBody, StreamOptions) for name in body.refused
    ]
    missing = [name for name in (*refused, *Harmless.model_fields) if f"`{name}`" not in PAGE]
    assert not missing


def test_every_route_is_on_the_page_and_says_how_it_fails(server: Any) -> None:
    told = server.get("/openapi.json").json()
    paths = [
        path for path, one in told["paths"].items() if any("OpenAI" in way.get("tags", ()) for way in one.values())
    ]
    assert len(paths) >= 9
    for path in paths:
        assert path.partition("/{")[0] in PAGE
        for way in told["paths"][path].values():
            assert "422" not in way["responses"] and "4XX" in way["responses"]
