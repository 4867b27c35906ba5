"""No path from a request reaches the file system unchecked: every route of the application, known or to come, is walked.

A folder outside of the home holds a model, an adapter and a document, all sound, which any route that followed a path
would gladly open. Each route is then asked for them, in each of its parameters and in each field of its body, in all
the ways that paths are disguised, while Python's audit hook watches what the process opens, lists, makes or removes.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import Response

from hornbook.serve import guard
from hornbook.serve.app import create_app
from hornbook.serve.guard.door import Door
from hornbook.serve.options import Options
from hornbook.settings import Settings

CANARY = "canary-5f1c"
_SEEN: list[str] = []
_WATCHING = threading.Event()
_FILES = ("open", "os.", "shutil.", "sqlite3.connect", "pathlib.", "glob.", "tempfile.")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _WATCHING.is_set() and event.startswith(_FILES):
        told = " ".join(
            a.decode("latin-1") if isinstance(a, bytes) else str(a)
            for a in arguments
            if isinstance(a, (str, bytes, Path))
        )
        if CANARY in told:
            _SEEN.append(f"{event} {told}")


@pytest.fixture(scope="session")
def watcher() -> None:
    sys.addaudithook(_watch)  # there is no taking it away again: it looks only while _WATCHING is set


@contextmanager
def watching() -> Iterator[list[str]]:
    _SEEN.clear()
    _WATCHING.set()
    try:
        yield _SEEN
    finally:
        _WATCHING.clear()


@pytest.fixture
def outside(tmp_path: Path, tiny_llm_path: Path) -> Path:
    """A folder beside the home with what routes like to open."""
    folder = tmp_path / CANARY
    shutil.copytree(tiny_llm_path, folder / "model")
    (folder / "keys.json").write_text('{"format": 1, "keys": []}')
    (folder / "notes.md").write_text("# A secret\n\nThe secret is 42.\n")
    (folder / "index.html").write_text("<p>secret</p>")
    return folder


@pytest.fixture
def app(tmp_path: Path, tiny_llm_path: Path) -> FastAPI:
    """With one model that is there, named as its folder: what a route does with a path after it has found the model counts too."""
    return create_app(
        Options(rate=100_000, burst=100_000, timeout_s=10),
        Settings(home=tmp_path / "home", offline=True),
        (tiny_llm_path,),
    )


def routes(app: FastAPI) -> list[tuple[str, str]]:
    """(method, pattern) of every route, also of those that the description does not tell."""
    found: set[tuple[str, str]] = {
        (method.upper(), path) for path, methods in app.openapi()["paths"].items() for method in methods
    }

    def walk(router: Any) -> None:
        for route in router.routes:
            inner = getattr(route, "original_router", None) or getattr(route, "app", None)
            if getattr(inner, "routes", None):
                walk(inner)
            elif pattern := getattr(route, "path", None):
                found.update((method, pattern) for method in route.methods or ())

    walk(app.router)
    return sorted(found)


def disguises(outside: Path) -> list[str]:
    up = "../" * 12
    relative = f"{outside.parent.name}/{CANARY}"
    plain = [f"{outside}/{name}" for name in ("model", "model/model.safetensors", "notes.md")]
    return [
        *plain,
        f"file://{outside}/notes.md",
        f"../{CANARY}/model",
        f"../../{CANARY}/notes.md",
        f"../../../{CANARY}/model",
        f"{up}{str(outside).lstrip('/')}/model",
        f"papers/../../../{CANARY}/notes.md",
        f"..\\..\\{CANARY}\\notes.md",
        f"....//....//{CANARY}/notes.md",
        f"{outside}/model\x00.gguf",
        f"~/../{relative}/model",
        f"smollm2:135m:{outside}/model",
        f"hf:{outside}/model",
        f"kb:../../../{CANARY}",
    ]


class Asker:
    def __init__(self, app: FastAPI) -> None:
        transport = httpx.ASGITransport(app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=20, trust_env=False)
        self.statuses: list[int] = []

    async def __call__(self, method: str, path: str, **given: Any) -> None:
        try:
            response = await asyncio.wait_for(self.http.request(method, path, **given), 20)
        except httpx.InvalidURL:
            return
        self.statuses.append(response.status_code)
        assert response.status_code < 500 or response.status_code in (501, 503, 507), (
            method,
            path,
            given,
            response.text,
        )
        assert b"secret is 42" not in response.content, (method, path, given)


def run(app: FastAPI, work: Any) -> Asker:
    async def inside() -> Asker:
        async with app.router.lifespan_context(app):
            asker = Asker(app)
            await work(asker)
            await asker.http.aclose()
            return asker

    return asyncio.run(inside())


async def ask_all_addresses(ask: Asker, app: FastAPI, outside: Path) -> None:
    """Every disguise as every parameter of every address, written in several ways, and as every query."""
    for method, pattern in routes(app):
        names = re.findall(r"\{(\w+)(?::path)?\}", pattern)
        described = app.openapi()["paths"].get(pattern, {}).get(method.lower(), {}).get("parameters", ())
        queries = [one["name"] for one in described if one["in"] == "query"]
        for disguise in disguises(outside):
            once, plain = quote(disguise, safe=""), quote(disguise, safe="/")
            for written in sorted({once, plain, plain.lstrip("/"), quote(once, safe="")} if names else ()):
                await ask(method, _filled(pattern, written))
            if queries and not pattern.endswith("/events"):
                await ask(method, _filled(pattern, "papers"), params=dict.fromkeys(queries, disguise))


def _filled(pattern: str, value: str) -> str:
    return re.sub(r"\{\w+(:path)?\}", lambda _: value, pattern)


def test_no_parameter_of_any_address_reaches_the_file_system(app: FastAPI, outside: Path, watcher: None) -> None:
    assert len(routes(app)) > 30, "the walk has lost the routes"
    with watching() as seen:
        asker = run(app, lambda ask: ask_all_addresses(ask, app, outside))
    assert not seen, "\n".join(sorted(set(seen))[:20])
    assert sum(status >= 400 for status in asker.statuses) > 0.8 * len(asker.statuses) > 300


@pytest.mark.parametrize("follow", [Path.read_bytes, lambda path: sorted(path.parent.iterdir())], ids=["read", "list"])
def test_a_route_that_follows_a_path_would_be_seen(outside: Path, watcher: None, follow: Any, tmp_path: Path) -> None:
    """The proof of the proof: such a route is found, and its path noticed."""
    house = create_app(Options(), Settings(home=tmp_path / "home", offline=True)).state.hornbook
    app = FastAPI()

    @app.get("/leak/{name:path}")
    async def leak(name: str) -> Response:
        with suppress(OSError):
            follow(Path("/") / name)
        return Response()

    guard.install(app, house)
    with watching() as seen:
        run(app, lambda ask: ask_all_addresses(ask, app, outside))
    assert any("notes.md" in one or "listdir" in one or "scandir" in one for one in seen)


def fields(described: dict[str, Any], operation: dict[str, Any]) -> set[str]:
    """The names of all fields of a body, also inside of others."""
    names: set[str] = set()
    followed: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for one in node:
                walk(one)
        elif isinstance(node, dict):
            properties = node.get("properties")
            names.update(properties if isinstance(properties, dict) else ())
            reference = str(node.get("$ref", "")).rpartition("/")[2]
            if reference and reference not in followed:
                followed.add(reference)
                walk(described["components"]["schemas"][reference])
            walk(list(node.values()))

    walk(operation.get("requestBody", {}))
    return names


# What names something, in any of the APIs; and what makes a request whole enough to get as far as looking for it.
NAMING = {
    "model", "name", "path", "from", "source", "destination", "adapter", "adapters", "files", "url", "embedder",
    "collection", "modelfile", "template",
}  # fmt: skip
WHOLE = {
    "messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi", "input": "Hi", "question": "Hi", "query": "Hi",
    "documents": ["a"], "stream": False, "max_tokens": 1, "max_output_tokens": 16, "options": {"num_predict": 1},
}  # fmt: skip


def _in_a_field(name: str, model: str, disguise: str) -> list[Any]:
    """A path as the values that a field of that name may have."""
    if name in ("files", "adapters"):
        return [{disguise: "sha256:" + "0" * 64}, {"model.gguf": disguise}]
    if name == "modelfile":
        return [f"FROM {disguise}", f"FROM {model}\nADAPTER {disguise}"]
    return [disguise]


def test_no_field_of_any_body_reaches_the_file_system(
    app: FastAPI, outside: Path, watcher: None, tiny_llm_path: Path
) -> None:
    model = tiny_llm_path.stem
    asked = set()

    async def work(ask: Asker) -> None:
        await ask("POST", "/kb", json={"name": "papers"})
        described = app.openapi()
        for pattern, operations in described["paths"].items():
            for method, operation in operations.items():
                names = fields(described, operation)
                whole = {name: value for name, value in ({"model": model} | WHOLE).items() if name in names}
                for name in sorted(names & NAMING):
                    asked.add((method, pattern, name))
                    for disguise in [*disguises(outside), f"{model}:../../{CANARY}/model", f"{model}:{outside}/model"]:
                        for value in _in_a_field(name, model, disguise):
                            await ask(method.upper(), _filled(pattern, "papers"), json={**whole, name: value})

    with watching() as seen:
        run(app, work)
    assert not seen, "\n".join(sorted(set(seen))[:20])
    assert len(asked) > 40 and ("post", "/api/create", "from") in asked


def test_no_name_of_an_uploaded_file_leaves_its_collection(
    app: FastAPI, outside: Path, watcher: None, tmp_path: Path
) -> None:
    async def work(ask: Asker) -> None:
        await ask("POST", "/kb", json={"name": "papers"})
        for disguise in disguises(outside):
            name = disguise.replace("\x00", "%00")
            await ask("POST", "/kb/papers/documents", files={"files": (name, b"# Hello\n")})
            body = (
                f'--x\r\nContent-Disposition: form-data; name="files"; filename="{disguise}"\r\n\r\nHello\r\n--x--\r\n'
            )
            headers = {"Content-Type": "multipart/form-data; boundary=x"}
            await ask("POST", "/kb/papers/documents", content=body.encode(), headers=headers)

    before = sorted(path for path in outside.rglob("*"))
    with watching() as seen:
        run(app, work)
    assert not [one for one in seen if str(tmp_path / "home") not in one], "\n".join(sorted(set(seen))[:20])
    assert sorted(path for path in outside.rglob("*")) == before
    strangers = [path for path in tmp_path.iterdir() if path.name not in ("home", CANARY)]
    assert not strangers


def test_every_route_stands_behind_the_door(app: FastAPI) -> None:
    """Asked from another origin, with a rebound Host and without a needed key: no route answers, not even an unknown one."""
    layers = [layer.cls for layer in app.user_middleware]
    assert Door in layers

    async def work(ask: Asker) -> None:
        for method, pattern in routes(app):
            path = _filled(pattern, "x")
            for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
                response = await ask.http.request(method, path, headers=headers)
                assert response.status_code == 403, (method, path, headers)
                assert response.headers["x-content-type-options"] == "nosniff"
                assert len(response.headers.get_list("x-request-id")) == 1

    run(app, work)


def test_with_keys_only_the_pages_own_files_are_open(tmp_path: Path) -> None:
    app = create_app(Options(require_key=True), Settings(home=tmp_path / "home", offline=True))
    open_without: set[str] = set()

    async def work(ask: Asker) -> None:
        for method, pattern in routes(app):
            if (await ask.http.request(method, _filled(pattern, "x"))).status_code != 401:
                open_without.add(f"{method} {pattern}")

    run(app, work)
    page = {"/", "/health", "/docs", "/openapi.json", "/icon.svg", "/favicon.ico"}
    folders = {f"/{folder}/{{name:path}}" for folder in ("css", "js", "vendor")}
    assert {pattern.split(" ")[1] for pattern in open_without} <= page | folders
    assert {pattern.split(" ")[0] for pattern in open_without} <= {"GET", "HEAD"}
