"""The models of a server: loaded once, put away by the least recent use and by time, never while somebody uses them."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import MODEL, Server, Start, Streaming

from hornbook.checkpoint.store import Entry
from hornbook.errors import ModelFileError, ModelNotFound, UsageError
from hornbook.serve.errors import Busy, NoRoom
from hornbook.serve.metrics import Metrics
from hornbook.serve.models import Models
from hornbook.serve.options import Options
from hornbook.settings import Settings

GB = 10**9


class Fake:
    """A model that holds what its name says: "a-3" three gigabytes."""

    max_tokens = 256

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False

    def embed(self, texts: list[str]) -> None:
        raise AssertionError("nothing is embedded here")

    def close(self) -> None:
        self.closed = True


class Shop:
    """Makes fakes, and remembers. ``slow``: seconds that a load takes; ``broken``: names that cannot be loaded."""

    def __init__(self) -> None:
        self.made: list[Fake] = []
        self.slow = 0.0
        self.broken: set[str] = set()
        self.lock = threading.Lock()

    def load(self, entry: Entry, settings: Settings, running: int) -> Fake:
        time.sleep(self.slow)
        if entry.name in self.broken:
            raise ModelFileError(f"{entry.name} is damaged", "Pull it again.")
        with self.lock:
            self.made.append(Fake(entry.name))
            return self.made[-1]

    def predict(self, entry: Entry, settings: Settings, running: int) -> int:
        return int(entry.name.rpartition("-")[2]) * GB

    def open(self) -> list[str]:
        return [fake.name for fake in self.made if not fake.closed]


def run(tmp_path: Path, work: Callable[[Models, Shop], Awaitable[Any]], **options: Any) -> Any:
    """Some work with the models a-1, b-1, c-1, d-2 and e-9 in an event loop of its own."""

    async def whole() -> Any:
        shop = Shop()
        models = Models(Settings(home=tmp_path), Options(**options), Metrics(), load=shop.load, predict=shop.predict)
        entries = {name: Entry(name, "path", tmp_path, "embedder") for name in ("a-1", "b-1", "c-1", "d-2", "e-9")}
        models.shelf._given = entries
        try:
            return await work(models, shop)
        finally:
            await models.close()
            assert not shop.open(), "a model stays in memory when the server has ended"

    return asyncio.run(whole())


def test_however_many_ask_at_once_it_is_loaded_once(tmp_path: Path) -> None:
    async def work(models: Models, shop: Shop) -> None:
        shop.slow = 0.1
        leases = await asyncio.gather(*(models.lease("a-1") for _ in range(20)), models.lease("b-1"))
        assert sorted(fake.name for fake in shop.made) == ["a-1", "b-1"]
        assert models.running()[0].users + models.running()[1].users == 21
        for lease in leases:
            lease.release()
            lease.release()
        assert {one.users for one in models.running()} == {0}

    run(tmp_path, work)


def test_one_who_goes_does_not_stop_the_load_that_another_waits_for(tmp_path: Path) -> None:
    async def work(models: Models, shop: Shop) -> None:
        shop.slow = 0.1
        first, second = (asyncio.ensure_future(models.lease("a-1")) for _ in range(2))
        await asyncio.sleep(0.03)
        first.cancel()
        async with await second as loaded:
            assert loaded.name == "a-1"
        assert len(shop.made) == 1 and models.running()[0].users == 0

    run(tmp_path, work)


def test_what_nobody_waits_for_any_more_goes_in_its_time(tmp_path: Path) -> None:
    async def work(models: Models, shop: Shop) -> None:
        shop.slow = 0.1
        only = asyncio.ensure_future(models.lease("a-1"))
        await asyncio.sleep(0.03)
        only.cancel()
        await asyncio.sleep(0.2)
        assert shop.open() == ["a-1"]
        await asyncio.sleep(1.3)
        assert shop.open() == []

    run(tmp_path, work, keep_alive=0.1)


def test_a_load_that_fails_is_told_to_all_and_tried_again(tmp_path: Path) -> None:
    async def work(models: Models, shop: Shop) -> None:
        shop.broken, shop.slow = {"a-1"}, 0.05
        results = await asyncio.gather(*(models.lease("a-1") for _ in range(3)), return_exceptions=True)
        assert [type(result) for result in results] == [ModelFileError] * 3
        shop.broken = set()
        (await models.lease("a-1")).release()
        assert shop.open() == ["a-1"]

    run(tmp_path, work, memory=GB)


def test_room_is_made_of_the_least_recently_used(tmp_path: Path) -> None:
    async def work(models: Models, shop: Shop) -> None:
        for name in ("a-1", "b-1", "c-1", "a-1"):
            (await models.lease(name)).release()
        assert sorted(shop.open()) == ["a-1", "b-1", "c-1"]
        (await models.lease("d-2")).release()
        assert sorted(shop.open()) == ["a-1", "d-2"], "b-1 and c-1 were used before a-1"

    run(tmp_path, work, memory=3 * GB)


def test_what_is_in_use_stays_and_what_does_not_fit_is_refused_with_numbers(tmp_path: Path) -> None:
    async def work(models: Models, shop: Shop) -> None:
        used = await models.lease("a-1")
        (await models.lease("b-1")).release()
        with pytest.raises(NoRoom, match=r"e-9 needs up to 9.00 GB.*may take 2.00 GB, of which in use: a-1 1.00 GB"):
            await models.lease("e-9")
        assert shop.open() == ["a-1", "b-1"], "nothing is unloaded for what would not fit all the same"
        with pytest.raises(NoRoom):
            await models.lease("d-2")
        used.release()
        (await models.lease("d-2")).release()
        assert shop.open() == ["d-2"]

    run(tmp_path, work, memory=2 * GB)


def test_two_that_load_at_once_do_not_get_the_same_room(tmp_path: Path) -> None:
    async def work(models: Models, shop: Shop) -> None:
        shop.slow = 0.1
        results = await asyncio.gather(*(models.lease(n) for n in ("a-1", "d-2")), return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["Loaded", "NoRoom"]

    run(tmp_path, work, memory=2 * GB)


def test_an_unused_model_goes_after_its_time(tmp_path: Path) -> None:
    async def work(models: Models, shop: Shop) -> None:
        (await models.lease("a-1")).release()
        (await models.lease("b-1", keep_alive=0)).release()
        (await models.lease("c-1", keep_alive=-1)).release()
        await asyncio.sleep(0.03)
        assert shop.open() == ["a-1", "c-1"]
        assert {one.name: one.expires is not None for one in models.running()} == {"a-1": True, "c-1": False}
        again = await models.lease("a-1")
        await asyncio.sleep(0.2)
        assert "a-1" in shop.open(), "what is in use does not go"
        again.release()
        await asyncio.sleep(0.2)
        assert shop.open() == ["c-1"]

    run(tmp_path, work, keep_alive=0.1)


def test_a_lease_that_is_dropped_is_released(tmp_path: Path) -> None:
    async def work(models: Models, shop: Shop) -> None:
        lease = await models.lease("a-1")
        assert models.running()[0].users == 1
        del lease
        await asyncio.sleep(0.01)
        assert models.running()[0].users == 0

    run(tmp_path, work)


def test_unloading_waits_for_those_who_use_it(tmp_path: Path) -> None:
    async def work(models: Models, shop: Shop) -> None:
        assert not await models.unload("a-1")
        lease = await models.lease("a-1")
        assert await models.unload("a-1")
        assert shop.open() == ["a-1"]
        lease.release()
        await asyncio.sleep(0.03)
        assert shop.open() == []

    run(tmp_path, work)


def test_a_server_that_stops_lends_nothing_and_waits_for_the_rest(tmp_path: Path) -> None:
    async def work(models: Models, shop: Shop) -> None:
        lease = await models.lease("a-1")
        draining = asyncio.ensure_future(models.drain(5))
        await asyncio.sleep(0.02)
        with pytest.raises(Busy):
            await models.lease("a-1")
        assert not draining.done()
        lease.release()
        assert await draining

    run(tmp_path, work)


@pytest.mark.parametrize(
    "name", ["nothing", "", "/etc/passwd", "../a-1", "a-1/../../x", "a-1:../x", "a\0b", "ü" * 3000, "."]
)
def test_a_name_is_looked_up_and_never_a_path(tmp_path: Path, name: str) -> None:
    async def work(models: Models, shop: Shop) -> None:
        with pytest.raises(ModelNotFound):
            await models.lease(name)
        assert not shop.made

    run(tmp_path, work)


def test_the_other_kind_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    async def work(models: Models, shop: Shop) -> None:
        with pytest.raises(UsageError, match="not a language model"):
            await models.lease("a-1", kind="llm")
        assert not shop.made

    run(tmp_path, work)


# ------------------------------------------------------------------------------------------------- with a real model


def write_adapter(folder: Path, *, rows: int = 576) -> None:
    """A LoRA of rank 4 on the first query projections of SmolLM2, random and strong. ``rows``: of another base."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    rng = np.random.default_rng(3)
    weights = {}
    for layer in range(4):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_"
        weights[f"{name}A.weight"] = rng.normal(size=(4, rows)).astype(np.float32)
        weights[f"{name}B.weight"] = rng.normal(size=(576, 4)).astype(np.float32)
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def continued(server: Server, model: str) -> str:
    body = {"model": model, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
    answer = server.post("/v1/completions", body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def test_adapters_come_and_go_while_the_model_answers(server: Server) -> None:
    folder = server.home / "adapters"
    write_adapter(folder / "strong")
    write_adapter(folder / "foreign", rows=64)
    base = continued(server, MODEL)
    changed = continued(server, f"{MODEL}:strong")
    assert changed != base
    stream = Streaming(server, max_tokens=600).begun()
    told = server.get("/v1/adapters").json()["data"]
    assert told == [
        {"id": "foreign", "object": "adapter", "loaded": []},
        {"id": "strong", "object": "adapter", "loaded": [MODEL]},
    ]
    refused = server.post("/v1/adapters", {"name": "foreign", "model": MODEL})
    assert refused.status_code == 400 and "q_proj" in refused.text
    for name in ("../adapters/strong", "absent", "a/b"):
        assert server.post("/v1/adapters", {"name": name, "model": MODEL}).status_code == 404
    with server.client() as client:
        assert client.delete("/v1/adapters/strong").json()["unloaded"] == 1
    assert server.get("/v1/adapters").json()["data"][1]["loaded"] == []
    assert server.post("/v1/adapters", {"name": "strong", "model": MODEL}).json()["loaded"] == [MODEL]
    assert continued(server, f"{MODEL}:strong") == changed
    assert continued(server, MODEL) == base
    stream.thread.join(60)
    assert stream.end == "[DONE]"


def test_memory_goes_to_whoever_asks_and_not_from_whoever_writes(fresh_server: Start) -> None:
    server = fresh_server("--memory", "0.3")
    embedding = {"model": "minilm", "input": "a"}
    assert continued(server, MODEL)
    assert server.get("/health").json()["loaded"] == [MODEL]
    assert server.post("/v1/embeddings", embedding).status_code == 200
    assert server.get("/health").json()["loaded"] == ["minilm"]
    stream = Streaming(server, max_tokens=7000).begun()
    refused = server.post("/v1/embeddings", embedding)
    assert refused.status_code == 507
    message = refused.json()["error"]["message"]
    assert re.search(
        r"minilm needs up to 0\.\d+ GB.*may take 0\.30 GB, of which in use: smollm2:135m 0\.\d+ GB", message
    )
    assert "--memory" in message
    server.stop(1)
    stream.thread.join(5)
