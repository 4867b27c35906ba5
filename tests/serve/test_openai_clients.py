"""Clients as people have them: several at once, asynchronous ones, those that go away, and two frameworks."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

openai = pytest.importorskip("openai")

MODEL = "smollm2:135m"
GREEDY = {"model": MODEL, "temperature": 0}
QUESTIONS = [f"Tell me about the number {n}." for n in range(8)]


def turn(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_eight_clients_at_once_hear_what_each_would_hear_alone(server: Any, openai_client: Any) -> None:
    def ask(question: str) -> str:
        with httpx.Client(trust_env=False, timeout=120) as http:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, http_client=http)
            said = client.chat.completions.create(messages=turn(question), max_tokens=20, **GREEDY)
            return str(said.choices[0].message.content)

    alone = [ask(question) for question in QUESTIONS]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, QUESTIONS))
    assert together == alone and len(set(alone)) == 8


def test_the_asynchronous_client_streams_side_by_side(server: Any, openai_client: Any) -> None:
    async def stream(client: Any, question: str) -> tuple[str, float, float]:
        text, times = "", []
        async for chunk in await client.chat.completions.create(
            messages=turn(question), max_tokens=24, stream=True, **GREEDY
        ):
            times.append(time.monotonic())
            text += chunk.choices[0].delta.content or ""
        return text, times[1], times[-1]

    async def main() -> list[tuple[str, float, float]]:
        async with httpx.AsyncClient(trust_env=False, timeout=120) as http:
            client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, http_client=http)
            whole = await client.chat.completions.create(messages=turn(QUESTIONS[0]), max_tokens=24, **GREEDY)
            vectors = await client.embeddings.create(model="minilm", input=["a", "b"])
            response = await client.responses.create(input="Hello", max_output_tokens=2, **GREEDY)
            text = await client.completions.create(prompt="Hello", max_tokens=2, **GREEDY)
            assert len(vectors.data) == 2 and response.output_text and text.choices[0].text
            streams = await asyncio.gather(*(stream(client, question) for question in QUESTIONS[:4]))
            assert streams[0][0] == whole.choices[0].message.content
            return streams

    streams = asyncio.run(main())
    assert max(begun for _, begun, _ in streams) < min(ended for _, _, ended in streams), "one after the other"


def test_a_client_that_goes_frees_its_place_within_a_second(server: Any, openai_client: Any) -> None:
    stream = openai_client.chat.completions.create(messages=turn("Count."), max_tokens=4000, stream=True, **GREEDY)
    for _, _ in zip(range(3), stream, strict=False):
        pass
    assert server.metric("hornbook_requests_open") >= 2, "the stream's, and the one that asks"
    stream.close()
    until = time.monotonic() + 1
    while server.metric("hornbook_requests_open") > 1:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_client_that_goes_before_a_whole_answer_frees_its_place_too(server: Any) -> None:
    body = {"messages": turn("Count."), "max_tokens": 4000, "ignore_eos": True, **GREEDY}
    with server.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=body, timeout=0.3)
    until = time.monotonic() + 1
    while server.metric("hornbook_requests_open") > 1:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_collection_answers_as_a_model_with_its_citations(server: Any, openai_client: Any) -> None:
    from openai.types.chat import ChatCompletion

    with server.client() as client:
        assert client.post("/kb", json={"name": "harbour"}).status_code == 201
        text = "# Harbour rules\n\nThe north gate of the harbour closes at nine in the evening.\n\nDogs wear a lead."
        sent = client.post("/kb/harbour/documents", files={"files": ("rules.md", text.encode(), "text/markdown")})
        assert sent.status_code == 202
        until = time.monotonic() + 30
        while client.get("/kb/harbour").json()["waiting"] or not client.get("/kb/harbour").json()["passages"]:
            assert time.monotonic() < until
            time.sleep(0.1)
    asked = {"model": "kb:harbour", "messages": turn("When does the north gate close?")}
    raw = openai_client.chat.completions.with_raw_response.create(**asked)
    said = ChatCompletion.model_validate_json(raw.http_response.text, strict=True).choices[0].message
    assert said.content and said.annotations
    for note in said.annotations:
        cited = note.url_citation
        assert cited.title == "rules.md" and 0 <= cited.start_index < cited.end_index <= len(said.content)
        assert cited.model_extra is not None and cited.model_extra["quote"] in text
    chunks = list(openai_client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == said.content
    assert chunks[-1].choices[0].delta.annotations and chunks[-1].choices[0].finish_reason == "stop"
    assert "kb:harbour" in {model.id for model in openai_client.models.list()}
    with pytest.raises(openai.BadRequestError):
        openai_client.chat.completions.create(**asked, logprobs=True)


def test_langchain_talks_to_it(server: Any) -> None:
    chat = pytest.importorskip("langchain_openai").ChatOpenAI(
        model=MODEL, base_url=f"{server.url}/v1", api_key="none", temperature=0, max_tokens=8
    )
    whole = chat.invoke("Name a colour.")
    assert whole.content and whole.usage_metadata["output_tokens"] == 8
    assert "".join(chunk.content for chunk in chat.stream("Name a colour.")) == whole.content


def test_llama_index_talks_to_it(server: Any) -> None:
    llm = pytest.importorskip("llama_index.llms.openai_like").OpenAILike(
        model=MODEL, api_base=f"{server.url}/v1", api_key="none", is_chat_model=True, temperature=0, max_tokens=8
    )
    whole = str(llm.complete("Name a colour."))
    assert whole and "".join(piece.delta or "" for piece in llm.stream_complete("Name a colour.")) == whole


def test_a_created_model_answers_with_its_own_words_and_parameters(server: Any, openai_client: Any) -> None:
    made = {
        "model": "pirate", "from": MODEL, "system": "You are a pirate. Arr!", "stream": False,
        "parameters": {"temperature": 0, "num_predict": 5, "top_k": 20, "repeat_penalty": 1.1, "num_ctx": 1024},
    }  # fmt: skip
    assert server.post("/api/create", json=made).status_code == 200
    try:
        mine = openai_client.chat.completions.create(model="pirate", messages=turn("Who are you?"))
        by_hand = openai_client.chat.completions.create(
            messages=[{"role": "system", "content": "You are a pirate. Arr!"}, *turn("Who are you?")], max_tokens=5,
            extra_body={"repetition_penalty": 1.1}, **GREEDY,
        )  # fmt: skip
        assert mine.model == "pirate" and mine.usage.completion_tokens == 5
        assert mine.choices[0].message.content == by_hand.choices[0].message.content
        longer = openai_client.chat.completions.create(model="pirate", messages=turn("Who are you?"), max_tokens=7)
        assert longer.usage.completion_tokens == 7, "what a request says goes before what the model says"
        assert openai_client.models.retrieve("pirate").id == "pirate"
    finally:
        server.client().request("DELETE", "/api/delete", json={"model": "pirate"})
