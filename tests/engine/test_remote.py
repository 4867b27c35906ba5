"""A model on a server: what the network does to an answer, what a server may refuse, and what leaves this machine."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import hornbook
from hornbook.engine import wire
from hornbook.engine.remote import RemoteLLM
from hornbook.errors import (
    ContextTooLong,
    GenerationError,
    ModelClosed,
    OfflineError,
    RemoteError,
    RemoteRefused,
    UsageError,
)
from hornbook.settings import Settings
from hornbook.types import Message, SamplingParams, ToolCall
from openai_server import DONE, Behind, Handler, Play, Server, event, serving

Make = Callable[..., tuple[RemoteLLM, Server]]
SAID = {"choices": [{"text": "Yes.", "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def good(handler: Handler) -> None:
    handler.give(200, SAID)


@pytest.fixture
def playing(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """playing(answer, answer, ..., models=...) -> (a RemoteLLM, the server that gives it these answers)."""
    for name in ("HORNBOOK_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(wire, "FIRST_WAIT", 0.01)
    with ExitStack() as stack:

        def make(*answers: Any, models: Any = None, **options: Any) -> tuple[RemoteLLM, Server]:
            play = Play(list(answers)) if models is None else Play(list(answers), models)
            server = stack.enter_context(serving(play))
            return stack.enter_context(RemoteLLM(server.url, **options)), server

        yield make


def text_of(llm: RemoteLLM) -> str:
    return "".join(token.text for token in llm.stream("Hello"))


# --------------------------------------------------------------------------------------------------------- streams

POEM = "床前明月光，疑是地上霜。 — Ünïcödé 🦉"


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_a_stream_may_be_cut_anywhere_in_a_character_too(playing: Make, size: int) -> None:
    body = b": keep-alive\n\n" + b"".join(map(event, POEM)) + b"event: ping\r\n\r\n" + event("", "stop") + DONE
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    llm, _ = playing(lambda handler: handler.pieces(pieces))
    tokens = list(llm.stream("Hello"))
    assert "".join(token.text for token in tokens) == POEM
    assert [token.finish_reason for token in tokens[-2:]] == [None, "stop"]


def test_lines_of_windows_and_events_of_several_lines_are_read(playing: Make) -> None:
    body = b'data: {"choices":\r\ndata: [{"text": "A", "finish_reason": null}]}\r\n\r\n' + event("B", "length")
    llm, _ = playing(lambda handler: handler.pieces([body]))
    tokens = list(llm.stream("Hello"))
    assert [(token.text, token.finish_reason) for token in tokens] == [("A", None), ("B", "length")]


def test_a_stream_that_ends_without_a_reason_ends_with_stop(playing: Make) -> None:
    llm, _ = playing(lambda handler: handler.pieces([event("A"), DONE]))
    assert list(llm.stream("Hello"))[-1].finish_reason == "stop"


def cut_off(handler: Handler) -> None:
    handler.pieces([event("A")])


def cut_off_chunk(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    data = event("A")
    handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\nff\r\ndata: {")
    handler.wfile.flush()
    handler.close_connection = True


@pytest.mark.parametrize("answer", [cut_off, cut_off_chunk])
def test_a_connection_that_breaks_off_is_an_error_and_not_an_end(playing: Make, answer: Any) -> None:
    llm, server = playing(answer)
    stream = llm.stream("Hello")
    assert next(stream).text == "A"
    with pytest.raises(RemoteError, match="broke off in the middle"):
        list(stream)
    assert server.paths().count("/v1/completions") == 1, "what was half said must not be asked again"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"data: {oops\n\n", "not JSON: {oops"),
        (b'data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        (b"data: [1]\n\n", r"no event: \[1\]"),
        (b'data: {"choices": [{"text": 5, "finish_reason": null}]}\n\n', "not what the API says"),
    ],
)
def test_events_that_are_none_are_named(playing: Make, data: bytes, words: str) -> None:
    llm, _ = playing(lambda handler: handler.pieces([event("A"), data, DONE]))
    with pytest.raises(RemoteError, match=words):
        text_of(llm)


def endless(handler: Handler) -> None:
    handler.pieces([event("A")] * 1000, pause=0.01)


def test_closing_a_stream_closes_the_connection(playing: Make) -> None:
    llm, server = playing(endless)
    stream = llm.stream("Hello")
    next(stream)
    stream.close()
    assert server.gone.wait(5)
    assert list(stream) == []


def test_a_stream_that_is_dropped_unread_closes_the_connection(playing: Make) -> None:
    llm, server = playing(endless)
    llm.stream("Hello")
    assert server.gone.wait(5)


def test_a_silent_server_is_waited_for_as_long_as_was_said(playing: Make) -> None:
    llm, server = playing(lambda handler: handler.pieces([event("A"), event("B")], pause=2), timeout=0.3)
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r"silent for 0\.3 s"):
        text_of(llm)
    assert time.monotonic() - began < 1.5
    assert server.paths().count("/v1/completions") == 1


# --------------------------------------------------------------------------------------------------- trying again


def failing(status: int, words: str = "no luck", **headers: str) -> Any:
    return lambda handler: handler.fail(status, words, **headers)


def hanging_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("trouble", [failing(429), failing(500), failing(503), failing(529), hanging_up])
def test_a_server_that_is_busy_or_broken_for_a_moment_is_asked_again(playing: Make, trouble: Any) -> None:
    llm, server = playing(trouble, trouble, good)
    assert llm.generate("Hello")[0].text == "Yes."
    assert server.paths().count("/v1/completions") == 3


def test_a_stream_is_begun_again_while_nothing_was_said(playing: Make) -> None:
    llm, _ = playing(failing(503), lambda handler: handler.pieces([event("A", "stop"), DONE]))
    assert text_of(llm) == "A"


def test_a_server_that_stays_broken_is_an_error_in_its_words(playing: Make) -> None:
    llm, server = playing(failing(500, "the model\nfell over"), retries=2)
    with pytest.raises(RemoteError, match=r"failed \(500, tried 3 times\): the model fell over"):
        llm.generate("Hello")
    assert server.paths().count("/v1/completions") == 3


def test_the_pause_that_a_server_asks_for_is_kept(playing: Make) -> None:
    llm, _ = playing(failing(429, Retry_After="0.4"), good)
    began = time.monotonic()
    llm.generate("Hello")
    assert 0.4 <= time.monotonic() - began < 2


def test_an_hour_is_not_waited_for(playing: Make) -> None:
    llm, server = playing(failing(429, "quota", Retry_After="3600"))
    with pytest.raises(RemoteError, match="busy.*quota") as caught:
        llm.generate("Hello")
    assert "3600" in caught.value.remedy
    assert server.paths().count("/v1/completions") == 1


def test_a_date_says_when_too() -> None:
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    assert 25 < wire._retry_after(later) <= 30
    assert wire._retry_after("soon") == wire._retry_after("") == wire._retry_after("-3") == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_a_refusal_is_final_and_in_the_servers_words(playing: Make, status: int) -> None:
    llm, server = playing(failing(status, "unknown field: top_k"))
    for ask in (llm.generate, llm.stream, lambda text: llm.chat([Message("user", text)])):
        with pytest.raises(RemoteRefused, match=rf"refused \({status}\): unknown field: top_k"):
            ask("Hello")
    assert len(server.asked) == 4  # the list of models, and each request once


def test_a_prompt_that_is_too_long_for_the_server_says_so(playing: Make) -> None:
    llm, _ = playing(failing(400, "This model's maximum context length is 256 tokens"))
    with pytest.raises(ContextTooLong, match="256"):
        llm.generate("Hello")


def test_a_server_that_is_not_there_is_named_with_its_address(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "FIRST_WAIT", 0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(RemoteError, match=f"{url} cannot be reached, tried 4 times"):
        RemoteLLM(url)


def test_a_redirect_is_not_followed(playing: Make) -> None:
    llm, server = playing(lambda handler: handler.give(302, b"", Location="http://elsewhere.example/v1"))
    with pytest.raises(RemoteRefused, match="points to http://elsewhere"):
        llm.generate("Hello")
    assert server.paths().count("/v1/completions") == 1


@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"choices": []}', b'{"choices": [{"text": null}]}', b"7"])
def test_an_answer_that_is_none_is_named(playing: Make, body: bytes) -> None:
    llm, _ = playing(lambda handler: handler.give(200, body))
    with pytest.raises(RemoteError, match="not JSON|not what the API says"):
        llm.generate("Hello")


def test_a_filtered_answer_is_no_answer(playing: Make) -> None:
    said = {"choices": [{"text": "", "finish_reason": "content_filter"}]}
    llm, _ = playing(lambda handler: handler.give(200, said))
    with pytest.raises(RemoteError, match="content_filter"):
        llm.generate("Hello")


def test_closing_ends_what_is_under_way_by_name(playing: Make) -> None:
    llm, _ = playing(endless)
    caught: list[Exception] = []

    def read() -> None:
        try:
            text_of(llm)
        except ModelClosed as error:
            caught.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.2)
    llm.close()
    thread.join(5)
    assert caught


# ----------------------------------------------------------------------------------------------- what is sent and told


def test_what_is_the_default_is_not_sent(playing: Make) -> None:
    llm, server = playing(good)
    llm.generate("Hello", SamplingParams(max_tokens=5, logprobs=False))
    assert server.asked[-1][3] == {"model": "toy", "prompt": "Hello", "max_tokens": 5, "temperature": 0.0}


def test_every_parameter_reaches_the_server(playing: Make) -> None:
    llm, server = playing(good, extra={"return_token_ids": True})
    params = SamplingParams(
        max_tokens=9, temperature=0.5, top_k=3, top_p=0.9, min_p=0.1, repetition_penalty=1.1, frequency_penalty=0.2,
        presence_penalty=0.3, stop=("x",), seed=4, logit_bias={7: -1.0}, top_logprobs=2, schema={"type": "integer"},
    )  # fmt: skip
    llm.generate([1, 2], params)
    body = server.asked[-1][3]
    assert body.pop("response_format")["json_schema"]["schema"] == {"type": "integer"}
    assert body == {
        "model": "toy", "prompt": [1, 2], "max_tokens": 9, "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1,
        "repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": 0.3, "stop": ["x"], "seed": 4,
        "logit_bias": {"7": -1.0}, "logprobs": 2, "return_token_ids": True,
    }  # fmt: skip
    with pytest.raises(UsageError, match="no regex"):
        llm.generate("Hello", SamplingParams(regex="a+"))
    with pytest.raises(UsageError, match="no repetition_window"):
        llm.generate("Hello", SamplingParams(repetition_window=64))


def test_several_answers_come_in_their_order(playing: Make) -> None:
    choices = [{"index": i, "text": str(i), "finish_reason": "length"} for i in (1, 0)]
    llm, _ = playing(lambda handler: handler.give(200, {"choices": choices}))
    assert [c.text for c in llm.generate("Hello", SamplingParams(n=2))] == ["0", "1"]
    with pytest.raises(UsageError, match="one answer, not 2"):
        llm.stream("Hello", SamplingParams(n=2))


def test_tools_go_through_and_calls_come_back(playing: Make) -> None:
    function = {"name": "weather", "arguments": '{"city": "北京"}'}
    said = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    llm, server = playing(
        lambda handler: handler.give(200, {"choices": [{"message": said, "finish_reason": "tool_calls"}]})
    )
    described = {"name": "weather", "parameters": {"type": "object"}}
    reply = llm.chat([Message("user", "北京?")], tools=[described])
    assert reply.tool_calls == (ToolCall("c1", "weather", {"city": "北京"}),)
    assert reply.content == ""
    assert server.asked[-1][3]["tools"] == [{"type": "function", "function": described}]
    llm.chat([Message("user", "北京?"), reply, Message("tool", "sunny", tool_call_id="c1")], schema={"type": "object"})
    body = server.asked[-1][3]
    assert body["messages"][1]["tool_calls"][0]["function"] == function
    assert body["messages"][2] == {"role": "tool", "content": "sunny", "tool_call_id": "c1"}
    assert body["response_format"]["type"] == "json_schema"
    function["arguments"] = "{"
    with pytest.raises(GenerationError, match="weather"):
        llm.chat([Message("user", "北京?")])


def test_a_server_of_chats_alone_is_given_the_prompt_as_a_message(playing: Make) -> None:
    said = {"choices": [{"message": {"content": "Yes."}, "finish_reason": "stop"}]}
    llm, server = playing(lambda handler: handler.give(200, said), chat_only=True)
    assert llm.generate("Hello")[0].text == "Yes."
    assert server.asked[-1][1] == "/v1/chat/completions"
    assert server.asked[-1][3]["messages"] == [{"role": "user", "content": "Hello"}]
    with pytest.raises(UsageError, match="token ids"):
        llm.generate([1, 2])


def test_a_server_that_does_not_count_gets_an_estimate_which_is_said(playing: Make) -> None:
    llm, server = playing(failing(404))
    assert llm.count_tokens("") == 0
    assert llm.count_tokens("four tokens, perhaps") == 7
    assert llm.count_tokens("明月") == 2
    assert llm.counts_exactly is False
    assert llm.render([Message("user", "Hi")]) == "User: Hi\nAssistant:"
    assert server.paths().count("/tokenize") == 1


def test_a_server_that_does_not_judge_is_an_error(playing: Make) -> None:
    llm, _ = playing(good)
    with pytest.raises(RemoteError, match="likelihoods"):
        llm.score([("Hello", " there")])


# ------------------------------------------------------------------------------------------------ models and addresses


def test_the_only_model_need_not_be_named(playing: Make) -> None:
    llm, server = playing(good)
    assert (llm.name, llm.context_length) == ("toy", 256)
    with RemoteLLM(f"{server.url}/#other", context_length=99) as other:
        assert (other.name, other.context_length) == ("other", 99)


def test_one_of_several_must_be_named(playing: Make, caplog: pytest.LogCaptureFixture) -> None:
    several = {"data": [{"id": "b"}, {"id": "a"}]}
    with pytest.raises(UsageError, match="has 2 models: a, b"):
        playing(good, models=several)
    with caplog.at_level(logging.WARNING):
        llm, _ = playing(good, models=several, model="a")
    assert llm.context_length == 8192
    assert "8192 tokens are assumed" in caplog.text


@pytest.mark.parametrize(
    "url", ["ftp://host/v1", "http://", "http://:80/v1", "http://host:99999/v1", "host/v1", "http://me:secret@host/v1"]
)
def test_what_is_no_address_is_named_and_no_password_repeated(home: Path, url: str) -> None:
    with pytest.raises(UsageError, match="address") as caught:
        RemoteLLM(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://example.com/v1", "https://10.0.0.1:8000/v1", "http://127.0.0.1.nip.io/v1"])
def test_offline_no_other_machine_is_asked(home: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(OfflineError):
        RemoteLLM(url, settings=Settings.load(offline=True))


def test_offline_this_machine_may_be_asked(playing: Make) -> None:
    llm, _ = playing(good, settings=Settings.load(offline=True))
    assert llm.generate("Hello")[0].text == "Yes."


def test_a_key_goes_where_it_is_meant_to_and_is_never_shown(
    playing: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    with caplog.at_level(logging.DEBUG):
        _, server = playing(good)
        assert "authorization" not in server.asked[0][2], "the key of one service must not go to another"
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        with RemoteLLM(server.url):
            assert server.asked[-1][2]["authorization"] == "Bearer sk-openai"
        monkeypatch.setenv("HORNBOOK_API_KEY", "sk-hornbook")
        llm, refusing = playing(failing(401, "bad key sk-hornbook"))
        with pytest.raises(RemoteRefused, match="bad key") as caught:
            llm.generate("Hello")
        assert refusing.asked[-1][2]["authorization"] == "Bearer sk-hornbook"
    for shown in (repr(llm), str(caught.value), caplog.text):
        assert "sk-" not in shown


def test_a_key_with_the_end_of_a_line_is_a_key_and_one_that_cannot_be_sent_is_not_shown(
    playing: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORNBOOK_API_KEY", "sk-hornbook\n")
    _, server = playing(good)
    assert server.asked[-1][2]["authorization"] == "Bearer sk-hornbook"
    for wrong in ("sk-horn\nbook", "sk-schlüssel"):
        with pytest.raises(UsageError, match="no header can carry") as caught:
            RemoteLLM(server.url, "m", api_key=wrong)
        assert "sk-" not in str(caught.value)


def test_load_takes_an_address(home: Path) -> None:
    with (
        hornbook.ScriptedLLM(["Yes."], name="script") as script,
        serving(Behind(script)) as server,
        hornbook.load(f"{server.url}#script") as llm,
    ):
        assert isinstance(llm, RemoteLLM)
        assert llm.chat([Message("user", "Hi")]).content == "Yes."
        assert json.dumps(server.asked[-1][3]["messages"]) == '[{"role": "user", "content": "Hi"}]'
