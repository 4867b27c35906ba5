"""Conversations outlive kills, are found in any script, and branch; replies go on alone and can be followed from anywhere."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Server

from hornbook.errors import HornbookError, StoreError, UsageError
from hornbook.serve.conversations import export, writers
from hornbook.serve.conversations.replies import Event, Replies, Reply
from hornbook.serve.conversations.settings import ReplySettings, Sampling, params_of
from hornbook.serve.conversations.store import Conversations, Turn
from hornbook.serve.errors import NotThere

ROOT = "/api/hornbook/conversations"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server" / "conversations.sqlite"


def told(
    store: Conversations, question: str, answer: str, parent: str | None = None, id: str | None = None
) -> tuple[str, Turn]:
    """A question with its reply, in a new conversation or below a message; -> the conversation's id, the reply."""
    id = id or store.create().id
    _, reply = store.begin(id, parent, question, {})
    store.write(reply.id, answer, state="done")
    return id, reply


# ------------------------------------------------------------------------------------------------------------- the store

WRITER = """
import sys, pathlib
from hornbook.serve.conversations.store import Conversations
store = Conversations(pathlib.Path(sys.argv[1]))
print("open", flush=True)
n = 0
while True:
    id = store.create().id
    parent = None
    for turn in range(3):
        asked, reply = store.begin(id, parent, f"question {n}.{turn} " + "字" * 500, {})
        for length in (10, 1000, 5000):
            store.write(reply.id, "answer " * length)
        store.write(reply.id, "answer " * 5000, state="done", facts={"n": n})
        parent = reply.id
    n += 1
"""


def test_a_kill_in_the_middle_of_a_write_leaves_every_conversation_whole(path: Path) -> None:
    for round in range(4):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None and child.stdout.readline() == "open\n"
        time.sleep(0.15 + 0.11 * round)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        with sqlite3.connect(path) as base:
            assert base.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            base.execute("INSERT INTO found (found, rank) VALUES ('integrity-check', 1)")  # raises where it differs
        store = Conversations(path)
        rows = store.listed(limit=10_000)
        assert rows
        for row in rows:
            turns = store.messages(row.id)
            assert len(turns) % 2 == 0, "a question is never there without its reply"
            assert not row.writing
            for turn in turns:
                assert turn.state in ("done", "interrupted")
                assert turn.state != "done" or turn.role == "user" or turn.content == "answer " * 5000
        store.close()


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("lighthouse", True), ("LIGHTHOUSE", True), ("ighthou", True), ("灯塔", True), ("塔", True), ("灯塔守护者", True),
        ("かもめ", True), ("маяк", True), ("50%", True), ('"quoted"', True), ("a_b", True), ("NEAR(", True), ("x' OR 1=1", False),
        ("50%%", False), ("axb", False), ("守塔", False), ("*", False), ("AND", False),
    ],
)  # fmt: skip
def test_what_was_said_is_found_in_any_script(path: Path, search: str, found: bool) -> None:
    store = Conversations(path)
    told(store, 'The lighthouse, 50% "quoted" a_b NEAR( маяк', "灯塔守护者 かもめ")
    told(store, "Something else", "entirely")
    rows = store.listed(search=search)
    assert len(rows) == found
    if found and rows[0].snippet:
        assert rows[0].snippet[1].casefold() == search.casefold()


def test_a_growing_reply_and_a_deleted_one_keep_the_search_true(path: Path) -> None:
    store = Conversations(path)
    id, reply = told(store, "Which bird?", "a pelican")
    store.write(reply.id, "a cormorant", state="done")
    assert [len(store.listed(search=word)) for word in ("pelican", "cormorant")] == [0, 1]
    store.delete(id)
    assert store.listed(search="cormorant") == []
    with pytest.raises(NotThere):
        store.get(id)
    with pytest.raises(NotThere):
        store.message(reply.id)
    with sqlite3.connect(path) as base:
        assert base.execute("SELECT count(*) FROM messages").fetchone() == (0,)


def test_branches_share_their_beginning(path: Path) -> None:
    store = Conversations(path)
    id, first = told(store, "one", "1")
    _, second = told(store, "two", "2", first.id, id)
    _, other = store.begin(id, first.parent, None, {})  # another reply to "one"
    store.write(other.id, "1'", state="done")
    _, edited = told(store, "two, edited", "2'", first.id, id)
    assert [turn.content for turn in store.path(second.id)] == ["one", "1", "two", "2"]
    assert [turn.content for turn in store.path(edited.id)] == ["one", "1", "two, edited", "2'"]
    assert [turn.content for turn in store.path(other.id)] == ["one", "1'"]
    assert store.get(id).leaf == edited.id
    store.change(id, leaf=other.id)
    assert store.get(id).leaf == other.id
    stranger, theirs = told(store, "x", "y")
    with pytest.raises(UsageError):
        store.change(id, leaf=theirs.id)
    with pytest.raises(UsageError):
        store.begin(id, theirs.id, "go on", {})
    with pytest.raises(UsageError):
        store.begin(id, first.id, None, {})  # a reply to a reply
    with pytest.raises(UsageError):
        store.begin(id, None, None, {})


def test_pages_of_the_list_follow_each_other_without_gap(path: Path) -> None:
    store = Conversations(path)
    made = [told(store, f"question {n}", "answer")[0] for n in range(25)]
    seen: list[str] = []
    before = None
    while rows := store.listed(limit=7, before=before):
        seen += [row.id for row in rows]
        before = rows[-1].updated, rows[-1].id
    assert sorted(seen) == sorted(made)
    assert len(seen) == len(set(seen))


def test_many_threads_write_at_once(path: Path) -> None:
    store = Conversations(path)
    threads = [threading.Thread(target=lambda: [told(store, "q", "a") for _ in range(10)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.listed(limit=100)) == 80


def test_a_damaged_file_and_a_newer_one_are_refused_by_name(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(StoreError, match=r"conversations\.sqlite"):
        Conversations(path)
    path.unlink()
    Conversations(path).close()
    with sqlite3.connect(path) as base:
        base.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="99"):
        Conversations(path)


def test_titles_are_one_short_line(path: Path) -> None:
    store = Conversations(path)
    id, _ = told(store, "  a\nlong\t\u202equestion " + "x" * 200, "a")
    title = store.get(id).title
    assert title.startswith("a long question x") and title.endswith("…") and len(title) == 80


def test_an_export_holds_every_branch_as_json_and_the_shown_one_as_markdown(path: Path) -> None:
    store = Conversations(path)
    id, first = told(store, "one", "1")
    _, other = store.begin(id, first.parent, None, {})
    citation = {"n": 1, "page": 3, "document": {"name": "a.pdf"}, "quote": "the\nground"}
    store.write(other.id, "uno [1]", state="done", facts={"model": "m", "answer": {"citations": [citation]}})
    known, turns = store.get(id), store.messages(id)
    assert [turn["content"] for turn in json.loads(export.as_json(known, turns))["messages"]] == ["one", "1", "uno [1]"]
    text = export.as_markdown(known, store.path(other.id))
    assert "## You\n\none" in text and "## m\n\nuno [1]" in text and "- [1] a.pdf, p. 3: “the ground”" in text


# -------------------------------------------------------------------------------------------------- replies, by themselves


def run(work: Callable[[Replies, str], Awaitable[None]], path: Path) -> Conversations:
    store = Conversations(path)
    asyncio.run(work(Replies(store), store.create().id))
    return store


async def collect(events: AsyncIterator[Event | None], most: int = 10_000) -> list[Event]:
    found = []
    async for event in events:
        if event is not None:
            found.append(event)
            if len(found) >= most:
                break
    return found


def text_of(events: list[Event]) -> str:
    begun = [event.data["message"]["content"] for event in events if event.name == "state"]
    return "".join(begun[:1]) + "".join(event.data["text"] for event in events if event.name == "text")


async def slowly(page: Reply) -> None:
    page.phase("writing")
    for n in range(30):
        page.text(f"{n} ")
        await asyncio.sleep(0.002)


WHOLE = "".join(f"{n} " for n in range(30))


def test_readers_who_come_late_or_come_back_have_the_whole_text(path: Path) -> None:
    async def work(replies: Replies, id: str) -> None:
        reply = await replies.begin(id, lambda: replies.store.begin(id, None, "count", {})[1], slowly)
        first = asyncio.create_task(collect(reply.follow(None)))
        await asyncio.sleep(0.02)
        broken = await collect(reply.follow(None), 5)
        late, resumed = await asyncio.gather(collect(reply.follow(None)), collect(reply.follow(broken[-1].id)))
        assert text_of(await first) == text_of(late) == text_of(broken + resumed) == WHOLE
        assert [event.name for event in late][-1] == "done"
        after = await collect(reply.follow(None))
        assert [event.name for event in after] == ["state", "done"] and text_of(after) == WHOLE
        assert await collect(reply.follow(late[-1].id)) == []
        assert replies.of(id) is None

    [row] = (store := run(work, path)).listed()
    assert [(turn.content, turn.state) for turn in store.messages(row.id)] == [("count", "done"), (WHOLE, "done")]


def test_a_stopped_reply_keeps_its_text_and_frees_the_conversation(path: Path) -> None:
    async def work(replies: Replies, id: str) -> None:
        async def forever(page: Reply) -> None:
            page.text("so far")
            await asyncio.sleep(60)

        def make() -> Turn:
            return replies.store.begin(id, None, "?", {})[1]

        await replies.begin(id, make, forever)
        with pytest.raises(UsageError, match="being written"):
            await replies.begin(id, make, forever)
        await replies.stop(id)
        await replies.stop(id)  # nothing is written any more: nothing happens
        await replies.begin(id, make, forever)
        await replies.close()  # the server ends

    store = run(work, path)
    [row] = store.listed()
    replies = [turn for turn in store.messages(row.id) if turn.role == "assistant"]
    assert [(turn.content, turn.state) for turn in replies] == [("so far", "stopped"), ("so far", "interrupted")]


def test_a_reply_that_fails_keeps_its_text_and_says_why(path: Path) -> None:
    async def work(replies: Replies, id: str) -> None:
        async def named(page: Reply) -> None:
            page.text("half")
            raise HornbookError("no memory", "Close others.")

        async def unnamed(page: Reply) -> None:
            raise ZeroDivisionError("secret")

        for write in (named, unnamed):
            reply = await replies.begin(id, lambda: replies.store.begin(id, None, "?", {})[1], write)
            await collect(reply.follow(None))

    store = run(work, path)
    [row] = store.listed()
    first, second = (turn for turn in store.messages(row.id) if turn.role == "assistant")
    assert (first.state, first.content, first.facts["error"]["what"]) == ("failed", "half", "no memory")
    assert second.state == "failed" and "secret" not in str(second.facts)


def test_what_is_written_is_kept_while_it_grows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hornbook.serve.conversations.replies.SAVED_EVERY", 0.01)

    async def work(replies: Replies, id: str) -> None:
        async def forever(page: Reply) -> None:
            page.text("so far")
            await asyncio.sleep(60)

        reply = await replies.begin(id, lambda: replies.store.begin(id, None, "?", {})[1], forever)
        for _ in range(200):
            if replies.store.message(reply.turn.id).content:
                break
            await asyncio.sleep(0.01)
        assert replies.store.message(reply.turn.id).content == "so far"
        await replies.stop(id)

    run(work, path)


# ----------------------------------------------------------------------------------------------------- what a model is shown


def test_a_question_that_got_no_answer_is_not_shown_again() -> None:
    def turn(role: Any, content: str) -> Turn:
        return Turn("x", "c", None, role, content)

    branch = [turn("user", "a"), turn("assistant", "1"), turn("user", "b"), turn("assistant", " "), turn("user", "c")]
    shown = writers.messages_of(ReplySettings(system="Be brief."), branch)
    assert [(m.role, m.content) for m in shown] == [
        ("system", "Be brief."), ("user", "a"), ("assistant", "1"), ("user", "c")
    ]  # fmt: skip


def test_a_persons_choice_goes_before_the_modelfiles_and_that_before_the_usual() -> None:
    own = {"temperature": 0.1, "num_predict": 77, "repeat_penalty": 1.5, "num_ctx": 4096, "presence_penalty": 0.5}
    params = params_of(Sampling(temperature=0.3), own)
    assert (params.temperature, params.max_tokens, params.repetition_penalty, params.top_k) == (0.3, 77, 1.5, 40)
    assert params.presence_penalty == 0.5
    assert params_of(Sampling(), {"num_predict": -1}).max_tokens == 1024


# ------------------------------------------------------------------------------------------------------------- over HTTP


def events(response: httpx.Response) -> Any:
    """(id, name, data) of an SSE answer, as they come."""
    one: dict[str, str] = {}
    for line in response.iter_lines():
        if not line and "data" in one:
            yield one.get("id"), one["event"], json.loads(one["data"])
            one = {}
        elif ": " in line and not line.startswith(":"):
            field, _, value = line.partition(": ")
            one[field] = value


SHORT = {"sampling": {"max_tokens": 24, "seed": 1}}


def test_a_reply_is_followed_broken_off_and_taken_up_where_it_was(server: Server) -> None:
    with server.client() as client:
        id = client.post(ROOT, json={"settings": SHORT}).json()["id"]
        begun = client.post(f"{ROOT}/{id}/reply", json={"question": "Name three colours.", "settings": SHORT})
        assert begun.status_code == 202
        again = client.post(f"{ROOT}/{id}/reply", json={"question": "And now?", "settings": SHORT})
        with client.stream("GET", f"{ROOT}/{id}/events") as stream:
            seen = []
            for one in events(stream):
                seen.append(one)
                if [name for _, name, _ in seen].count("text") == 3:
                    break
        rest = []
        with client.stream("GET", f"{ROOT}/{id}/events", headers={"Last-Event-ID": seen[-1][0]}) as stream:
            rest = list(events(stream))
        whole = client.get(f"{ROOT}/{id}").json()
        listed = client.get(ROOT, params={"search": "three colours"}).json()
        client.delete(f"{ROOT}/{id}")
        assert client.get(f"{ROOT}/{id}").status_code == 404
    assert again.status_code == 400 and "being written" in again.json()["error"]["what"]
    question, reply = whole["messages"]
    assert whole["title"] == question["content"] == "Name three colours."
    assert reply["state"] == "done" and reply["facts"]["usage"]["completion_tokens"] <= 24
    if rest[-1][1] == "done":  # it was still under way when it was taken up
        pieces = [data["text"] for _, name, data in [*seen, *rest] if name == "text"]
        assert seen[0][1] == "state"
        assert seen[0][2]["message"]["content"] + "".join(pieces) == reply["content"]
    assert [row["id"] for row in listed] == [id]


def test_what_is_wrong_is_refused_with_a_reason(server: Server) -> None:
    with server.client() as client:
        id = client.post(ROOT, json={}).json()["id"]
        for path, body, status in [
            (f"{ROOT}/nothing/reply", {"question": "x"}, 404),
            (f"{ROOT}/{id}/reply", {"question": ""}, 400),
            (f"{ROOT}/{id}/reply", {}, 400),
            (f"{ROOT}/{id}/reply", {"question": "x", "parent": "nothing"}, 404),
            (f"{ROOT}/{id}/reply", {"question": "x", "colour": "red"}, 400),
            (f"{ROOT}/{id}/reply", {"question": "x", "settings": {"sampling": {"temperature": -1}}}, 400),
            (f"{ROOT}/{id}/context", {"draft": "x " * 10_000}, 400),
            (f"{ROOT}/{id}/stop", {}, 200),
        ]:
            answer = client.post(path, json=body)
            assert answer.status_code == status, (path, body, answer.text)
            if status >= 400:
                assert answer.json()["error"]["what"]
        # a model that is not here: the question is kept, the reply says what is wrong
        client.post(f"{ROOT}/{id}/reply", json={"question": "x", "settings": {"model": "no-such-model"}})
        with client.stream("GET", f"{ROOT}/{id}/events") as stream:
            list(events(stream))
        question, reply = client.get(f"{ROOT}/{id}").json()["messages"]
        assert question["content"] == "x" and reply["state"] == "failed"
        assert "no-such-model" in reply["facts"]["error"]["what"]
        counted = client.post(f"{ROOT}/{id}/context", json={"draft": "Hello there"}).json()
        assert 5 < counted["tokens"] < 100 and counted["context"] == 8192 and counted["dropped"] == 0
        client.delete(f"{ROOT}/{id}")


def test_the_page_is_sent_with_a_strict_policy_and_asked_after(server: Server) -> None:
    page = server.get("/")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert "<script>" not in page.text and "style=" not in page.text
    again = server.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert again.status_code == 304 and not again.content
    script = server.get("/js/app.js")
    assert (
        script.headers["content-type"].startswith("text/javascript") and script.headers["cache-control"] == "no-cache"
    )
    library = server.get("/vendor/htm-3.1.1/standalone.module.js")
    assert "immutable" in library.headers["cache-control"]
    for nothing in (
        "/__init__.py",
        "/js/../__init__.py",
        "/js/%2e%2e/__init__.py",
        "/vendor/..%2f..%2fapp.py",
        "/css/",
    ):
        assert server.get(nothing).status_code in (400, 404), nothing


def test_the_vendored_libraries_are_those_that_were_pinned() -> None:
    root = Path(__file__).parents[2]
    checked = subprocess.run(
        [sys.executable, str(root / "tools" / "vendor_web.py"), "--check"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr
    vendor = root / "src" / "hornbook" / "serve" / "web" / "vendor"
    rows = json.loads((vendor / "vendor.json").read_text("utf-8"))
    assert all("LICENSE" in row["files"] and row["integrity"].startswith("sha512-") for row in rows)
    assert sum(file.stat().st_size for file in vendor.rglob("*") if file.is_file()) < 2 * 2**20
