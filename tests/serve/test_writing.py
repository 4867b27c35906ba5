"""Answers as they are written: errors before any work, an end that frees what was taken, clients that vanish."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import MODEL, Server

from hornbook.errors import ContextTooLong, DeadlineExceeded, UsageError
from hornbook.llm import LocalLLM, load
from hornbook.serve.errors import Busy
from hornbook.serve.loaded import Loaded
from hornbook.serve.metrics import Metrics
from hornbook.serve.models import Models
from hornbook.serve.options import Options
from hornbook.serve.shelf import Meaning
from hornbook.serve.writing import ClientGone, Writing, render, while_connected, write, write_chat
from hornbook.settings import Settings
from hornbook.types import SamplingParams

LONG = SamplingParams(max_tokens=2000, ignore_eos=True)
SHORT = SamplingParams(max_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(smollm2_path: Path) -> Iterator[LocalLLM]:
    with load(smollm2_path) as model:
        assert isinstance(model, LocalLLM)
        yield model


class Kept:
    """A model that the tests share: the server's models may put it away, and it stays."""

    def __init__(self, llm: LocalLLM) -> None:
        self._llm = llm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._llm, name)

    def close(self) -> None:
        pass


def run(llm: LocalLLM, tmp_path: Path, work: Callable[[Loaded], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        settings = Settings(home=tmp_path)
        models = Models(settings, Options(**options), Metrics(), load=lambda *_: Kept(llm), predict=lambda *_: 1)
        entry = models.shelf.store.get(llm.name)
        models.shelf.find = lambda name: Meaning(name, entry)  # type: ignore[method-assign]
        try:
            async with await models.lease("one") as loaded:
                await work(loaded)
        finally:
            await models.close()

    asyncio.run(whole())
    assert llm.stats().pages_used == 0, "something is still being written"


async def text_of(writing: Writing) -> dict[int, str]:
    texts: dict[int, str] = {}
    async for answer, token in writing:
        texts[answer] = texts.get(answer, "") + token.text
    return texts


def test_the_same_words_as_the_plain_api_side_by_side(llm: LocalLLM, tmp_path: Path) -> None:
    params = SamplingParams(max_tokens=8, n=2, temperature=0.8, seed=5, ignore_eos=True)
    prompts = ["The sea is", "海は", "Two and two"]
    expected = llm.generate(prompts, params)

    async def work(loaded: Loaded) -> None:
        writings = [await write(loaded, prompt, params) for prompt in prompts]
        texts = await asyncio.gather(*map(text_of, writings))
        assert [text for one in texts for _, text in sorted(one.items())] == [one.text for one in expected]
        assert all(one.first is not None and one.ended is not None for one in writings)

    run(llm, tmp_path, work)


def test_what_cannot_be_asked_is_told_before_any_work(llm: LocalLLM, tmp_path: Path) -> None:
    async def work(loaded: Loaded) -> None:
        steps = llm.stats().steps
        with pytest.raises(ContextTooLong, match=r"9,000 tokens.*8,192"):
            await write(loaded, [5] * 9000, SHORT)
        with pytest.raises(UsageError, match="adapter"):
            await write(loaded, "a", SHORT, adapter="absent")
        with pytest.raises(UsageError):
            await write(loaded, "a", SamplingParams(regex="(unclosed"))
        assert llm.stats().steps == steps and loaded.need_writer().open == 0

    run(llm, tmp_path, work)


def test_closing_cancelling_and_dropping_free_the_slot(llm: LocalLLM, tmp_path: Path) -> None:
    async def freed(loaded: Loaded) -> None:
        until = time.monotonic() + 1
        while llm.stats().pages_used or loaded.need_writer().open:
            assert time.monotonic() < until, "the slot is not free after a second"
            await asyncio.sleep(0.01)

    async def work(loaded: Loaded) -> None:
        async with await write(loaded, "Once", LONG) as writing:
            await anext(writing)
            assert llm.stats().pages_used > 0
        await freed(loaded)

        task = asyncio.ensure_future(text_of(await write(loaded, "Once", LONG)))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await freed(loaded)

        writing = await write(loaded, "Once", LONG)
        await anext(writing)
        del writing
        gc.collect()
        await freed(loaded)

    run(llm, tmp_path, work)


def test_stopping_gives_what_was_written(llm: LocalLLM, tmp_path: Path) -> None:
    async def work(loaded: Loaded) -> None:
        writing = await write(loaded, "Once upon a time", LONG)
        tokens = []
        async for _, token in writing:
            tokens.append(token)
            if len(tokens) == 5:
                writing.stop()
        assert tokens[-1].finish_reason == "cancelled" and 5 < len(tokens) < 50

    run(llm, tmp_path, work)


def test_failing_and_lateness_are_told_to_the_reader(llm: LocalLLM, tmp_path: Path) -> None:
    async def work(loaded: Loaded) -> None:
        writing = await write(loaded, "Once", LONG)
        await anext(writing)
        loaded.need_writer().fail(Busy("the server stops", ""))
        with pytest.raises(Busy, match="stops"):
            await text_of(writing)
        with pytest.raises(DeadlineExceeded):
            await text_of(await write(loaded, "Once", LONG, deadline=0.2))

    run(llm, tmp_path, work)


def test_more_than_may_wait_are_refused(llm: LocalLLM, tmp_path: Path) -> None:
    async def work(loaded: Loaded) -> None:
        first = [await write(loaded, [5, 6, 7], LONG) for _ in range(3)]
        with pytest.raises(Busy, match="3 requests"):
            await write(loaded, [5, 6, 7], LONG)
        await first[0].aclose()
        first.append(await write(loaded, [5, 6, 7], LONG))
        for one in first:
            one.cancel()

    run(llm, tmp_path, work, max_running=2, max_waiting=1)


def test_a_conversation_that_is_too_long_is_refused_or_cut_and_counted(llm: LocalLLM, tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Answer kindly."}]
    for number in range(9):
        turns += [{"role": "user", "content": f"{number} " + "word " * 1000}, {"role": "assistant", "content": "Yes."}]
    turns.append({"role": "user", "content": "What was the number?"})

    async def work(loaded: Loaded) -> None:
        with pytest.raises(ContextTooLong, match=r"tokens and the answer needs 100; the model's context holds 8,192"):
            await render(loaded, turns, room=100)
        cut = await render(loaded, turns, room=100, truncate=True)
        assert cut.dropped == 4 and len(cut.ids) + 100 <= llm.context_length
        text = llm.tokenizer.decode(cut.ids, skip_special=False)
        assert "Answer kindly." in text and "user\n2 word" in text and "user\n1 word" not in text
        assert text.rstrip().endswith("<|im_start|>assistant")
        with pytest.raises(ContextTooLong):
            await render(loaded, [{"role": "user", "content": "word " * 9000}], truncate=True)
        whole = await render(loaded, turns[-1:])
        assert whole.dropped == 0
        assert await text_of(await write_chat(loaded, whole, SHORT))

    run(llm, tmp_path, work)


def test_work_for_a_client_ends_when_the_client_does(tmp_path: Path) -> None:
    class Client:
        gone = asyncio.Event()

        async def receive(self) -> dict[str, str]:
            await self.gone.wait()
            return {"type": "http.disconnect"}

    async def whole() -> None:
        client: Any = Client()
        ended = []

        async def work() -> str:
            try:
                await asyncio.sleep(5)
            finally:
                ended.append(True)
            return "done"

        asyncio.get_running_loop().call_later(0.05, client.gone.set)
        with pytest.raises(ClientGone):
            await while_connected(client, work())
        assert ended
        client.gone.clear()
        assert await while_connected(client, asyncio.sleep(0.01, "done")) == "done"

    asyncio.run(whole())


# --------------------------------------------------------------------------------------- clients of a real server


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("abrupt", [True, False])
def test_a_client_that_vanishes_frees_its_slot_within_a_second(server: Server, stream: bool, abrupt: bool) -> None:
    body = {"model": MODEL, "prompt": "1 2 3 4 5 6 7 8 9", "max_tokens": 6000, "stream": stream, "temperature": 0}
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
    clients = []
    for _ in range(3):
        client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        clients.append(client)
    until = time.monotonic() + 10
    while server.metric("hornbook_running_answers", model=MODEL) < 3:
        assert time.monotonic() < until, "the three answers did not begin"
        time.sleep(0.02)
    if stream:
        assert all(b"200" in client.recv(4096) for client in clients)
    for client in clients:
        if abrupt:  # a reset, as of a process that was killed with data unread
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    gone = time.monotonic()
    while server.metric("hornbook_running_answers", model=MODEL):
        assert time.monotonic() < gone + 1, "a slot is held for a client that is gone"
        time.sleep(0.02)
    assert server.metric("hornbook_cache_pages", model=MODEL, state="used") == 0
