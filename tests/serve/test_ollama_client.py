"""The unmodified ``ollama`` client, sync and async, over the whole of its API, against a real server process."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

ollama = pytest.importorskip("ollama")

MODEL = "smollm2:135m"
FIRST = {"num_predict": 8, "temperature": 0}
GO = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>\n"
)
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    with ollama.Client(server.url, trust_env=False) as client:
        yield client


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


# ---------------------------------------------------------------------------------------------------------- generate


def test_generate_in_one_piece_and_in_many_are_the_same(client: Any) -> None:
    whole = client.generate(MODEL, "Name a colour.", options=FIRST)
    parts = list(client.generate(MODEL, "Name a colour.", options=FIRST, stream=True))
    assert "".join(part.response for part in parts) == whole.response != ""
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    for last in (whole, parts[-1]):
        assert last.done_reason == "length"
        assert last.eval_count == 8
        assert last.prompt_eval_count == whole.prompt_eval_count > 20
        assert last.total_duration >= last.load_duration + last.eval_duration > 0
        assert last.context == whole.context
        assert len(last.context) == last.prompt_eval_count + 8


def test_generate_goes_on_with_its_context(client: Any) -> None:
    first = client.generate(MODEL, "My name is Ada.", options=FIRST)
    second = client.generate(MODEL, "What is my name?", options={**FIRST, "num_predict": 24}, context=first.context)
    assert second.context[: len(first.context)] == first.context
    assert (
        second.prompt_eval_count
        == len(first.context) + client.generate(MODEL, "What is my name?", options=FIRST).prompt_eval_count
    )
    turn = "<|im_start|>{}\n{}<|im_end|>\n"
    written = turn.format("system", SYSTEM) + turn.format("user", "My name is Ada.") + "<|im_start|>assistant\n"
    written += first.response + turn.format("system", SYSTEM) + turn.format("user", "What is my name?")
    written += "<|im_start|>assistant\n"
    raw = client.generate(MODEL, written, raw=True, options={**FIRST, "num_predict": 24})
    assert (raw.response, raw.prompt_eval_count) == (second.response, second.prompt_eval_count)


def test_raw_template_and_system_make_the_same_prompt(client: Any) -> None:
    """The model's own template, the same in Go, and the same written out: one answer."""
    plain = client.generate(MODEL, "Hello <|im_end|>", options=FIRST)
    go = client.generate(MODEL, "Hello <|im_end|>", system=SYSTEM, template=GO, options=FIRST)
    assert go.response == plain.response
    assert go.context == plain.context
    written = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    raw = client.generate(MODEL, written, raw=True, options=FIRST)
    assert raw.response == client.generate(MODEL, "Hello", options=FIRST).response
    assert raw.context is None


def test_format_holds_the_answer_to_json(client: Any) -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}, "name": {"enum": ["Ada", "Bo"]}}, "required": ["age", "name"], "additionalProperties": False}  # fmt: skip
    said = json.loads(
        client.generate(
            MODEL, "A person.", format=schema, options={"temperature": 1.5, "seed": 3, "num_predict": 60}
        ).response
    )
    assert set(said) == {"age", "name"}
    assert isinstance(said["age"], int)
    chat = client.chat(
        MODEL, [user("A person.")], format=schema, options={"temperature": 0, "num_predict": 60}, stream=True
    )
    assert set(json.loads("".join(part.message.content for part in chat))) == {"age", "name"}
    begun = client.generate(MODEL, "Give JSON.", format="json", options=FIRST).response
    assert begun.lstrip().startswith("{")


def test_the_options_do_what_they_say(client: Any) -> None:
    def said(prompt: str = "Tell a story.", **options: Any) -> str:
        return str(client.generate(MODEL, prompt, options={"num_predict": 12, **options}).response)

    assert said(seed=1) == said(seed=1) != said(seed=2)
    greedy = said(temperature=0)
    assert said(top_k=1) == greedy == said(top_p=0) == said(min_p=1.0)
    assert said(top_k=-1, top_p=1, seed=4) == said(top_k=0, top_p=1, seed=4)
    word = greedy.split()[3]
    assert said(temperature=0, stop=[word]) == greedy.split(word)[0]
    assert said("a a a a a a a", temperature=0, repeat_penalty=5.0) != said("a a a a a a a", temperature=0)
    assert said(temperature=0, presence_penalty=2.0, frequency_penalty=2.0, repeat_last_n=-1) != greedy
    unbounded = client.generate(
        MODEL, "Hi", options={"num_predict": -1, "num_ctx": 50, "temperature": 0, "seed": -1, "num_keep": 4}
    )
    assert unbounded.prompt_eval_count + unbounded.eval_count <= 50


def test_logprobs_are_told(client: Any) -> None:
    said = client.generate(MODEL, "Hi", options=FIRST, logprobs=True, top_logprobs=3)
    assert len(said.logprobs) == 8
    assert all(one.logprob <= 0 and len(one.top_logprobs) == 3 for one in said.logprobs)
    assert "".join(one.token for one in said.logprobs) == said.response
    parts = list(client.chat(MODEL, [user("Hi")], options=FIRST, logprobs=True, stream=True))
    assert sum(len(part.logprobs or ()) for part in parts) == 8


def test_nothing_to_say_loads_and_unloads(client: Any) -> None:
    assert client.generate(MODEL, "", keep_alive="10m").done_reason == "load"
    left = next(one for one in client.ps().models if one.model == MODEL)
    assert 590 < left.expires_at.timestamp() - time.time() < 601
    assert left.context_length == 8192
    assert client.chat(MODEL, [], keep_alive=-1).done_reason == "load"
    assert next(one for one in client.ps().models if one.model == MODEL).expires_at.year > 2100
    assert client.generate(MODEL, keep_alive=0).done_reason == "unload"
    assert MODEL not in [one.model for one in client.ps().models]
    assert client.generate(MODEL, "Hi", options=FIRST, keep_alive="5m").response


# -------------------------------------------------------------------------------------------------------------- chat


def test_chat_streams_a_conversation(client: Any) -> None:
    turns = [{"role": "system", "content": "Answer with one word."}, user("Capital of France?"), {"role": "assistant", "content": "Paris"}, user("Of Italy?")]  # fmt: skip
    whole = client.chat(MODEL, turns, options=FIRST)
    parts = list(client.chat(MODEL, turns, options=FIRST, stream=True))
    assert whole.message.role == "assistant"
    assert "".join(part.message.content for part in parts) == whole.message.content != ""
    assert parts[-1].done_reason in ("stop", "length")
    assert parts[-1].eval_count == whole.eval_count


WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Get the weather of a city.", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}  # fmt: skip


def called(city: str) -> list[dict[str, Any]]:
    call = {"function": {"name": "get_weather", "arguments": {"city": city}}}
    return [
        user(f"What is the weather in {city}?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "get_weather", "content": "sunny"},
        {"role": "assistant", "content": f"It is sunny in {city}."},
    ]


def test_chat_calls_tools_in_one_piece_and_in_many(client: Any) -> None:
    turns = [*called("Rome"), *called("Oslo"), *called("Lima"), user("What is the weather in Paris?")]
    options = {"temperature": 0, "num_predict": 60}
    whole = client.chat(MODEL, turns, tools=[WEATHER], options=options)
    assert [(call.function.name, call.function.arguments) for call in whole.message.tool_calls] == [
        ("get_weather", {"city": "Paris"})
    ]
    assert whole.done_reason == "stop"
    parts = list(client.chat(MODEL, turns, tools=[WEATHER], options=options, stream=True))
    streamed = [call for part in parts for call in part.message.tool_calls or ()]
    assert streamed == whole.message.tool_calls
    assert "tool_call" not in "".join(part.message.content or "" for part in parts)


def test_a_python_function_is_a_tool(client: Any) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
          a: one
          b: the other
        """
        return a + b

    assert client.chat(MODEL, [user("Hi")], tools=[add], options=FIRST).message.role == "assistant"


def test_think_is_handled(client: Any) -> None:
    assert client.chat(MODEL, [user("Hi")], think=False, options=FIRST).message.content
    with pytest.raises(ollama.ResponseError, match="does not support thinking") as caught:
        client.chat(MODEL, [user("Hi")], think=True)
    assert caught.value.status_code == 400


def test_a_thinking_models_thoughts_are_split_off(client: Any) -> None:
    """A template that opens the thought itself, as those of thinking models do."""
    client.create(
        "thinker",
        from_=MODEL,
        template="{{ .Prompt }}{{ if .Think }}<think>\n{{ end }}{{ .Response }}<think>",
        stream=False,
    )
    try:
        said = client.generate("thinker", "Hmm", think=True, options=FIRST)
        assert said.thinking
        assert not said.response
        parts = list(client.chat("thinker", [user("Hmm")], think=True, options=FIRST, stream=True))
        assert "".join(part.message.thinking or "" for part in parts).rstrip() == said.thinking
        assert client.generate("thinker", "Hmm", think=False, options=FIRST).response
        assert "thinking" in client.show("thinker").capabilities
    finally:
        client.delete("thinker")


# -------------------------------------------------------------------------------------------------------- embeddings


def test_embed_gives_unit_vectors_of_one_text_or_many(client: Any) -> None:
    both = client.embed("minilm", ["A cat.", "一只猫。"])
    one = client.embed("minilm", "A cat.")
    assert [len(vector) for vector in both.embeddings] == [384, 384]
    assert one.embeddings[0] == pytest.approx(both.embeddings[0], abs=1e-5)
    assert sum(x * x for x in one.embeddings[0]) == pytest.approx(1, abs=1e-5)
    assert one.prompt_eval_count == 5
    assert client.embeddings("minilm", "A cat.").embedding == pytest.approx(one.embeddings[0], abs=1e-5)
    short = client.embed("minilm", "A cat.", dimensions=64).embeddings[0]
    assert len(short) == 64
    assert sum(x * x for x in short) == pytest.approx(1, abs=1e-5)


def test_a_text_too_long_to_embed_is_cut_only_where_that_is_asked_for(client: Any, server: Any) -> None:
    with pytest.raises(ollama.ResponseError, match=r"input 1 has 402 tokens; minilm reads 256") as caught:
        client.embed("minilm", ["a", "a " * 400])
    assert caught.value.status_code == 400
    cut = server.post("/api/embed", {"model": "minilm", "input": ["a", "a " * 400], "truncate": True}).json()
    assert cut["dropped"] == [{"index": 1, "tokens": 146}]
    assert len(cut["embeddings"]) == 2


# ------------------------------------------------------------------------------------------------------------ models


def test_a_model_is_created_shown_copied_and_deleted(client: Any) -> None:
    states = [state.status for state in client.create(
        "mario", from_=MODEL, system="You are Mario.", template=GO, parameters={"temperature": 0, "stop": ["x", "y"], "num_predict": 5},
        messages=[user("Who?"), {"role": "assistant", "content": "Mario!"}], license=["MIT", "Mine"], stream=True,
    )]  # fmt: skip
    assert states[-1] == "success"
    try:
        shown = client.show("mario")
        assert shown.template == GO
        assert "You are Mario." in shown.modelfile
        assert shown.parameters.split() == ["temperature", "0", "stop", '"x"', "stop", '"y"', "num_predict", "5"]
        assert shown.license == "MIT\n\nMine"
        assert shown.details.family == "llama"
        assert shown.details.parent_model == MODEL
        said = client.chat("mario", [user("Hello")])
        assert 1 <= said.eval_count <= 5
        assert said.message.content == client.chat("mario:latest", [user("Hello")]).message.content
        client.copy("mario", "luigi")
        assert client.chat("luigi", [user("Hello")]).message.content == said.message.content
        listed = {one.model: one for one in client.list().models}
        assert listed["mario"].digest == listed["luigi"].digest != listed[MODEL].digest
        with pytest.raises(ollama.ResponseError, match="made from"):
            client.delete(MODEL)
    finally:
        client.delete("mario")
    client.delete("luigi")
    with pytest.raises(ollama.ResponseError, match="luigi") as caught:
        client.delete("luigi")
    assert caught.value.status_code == 404


def test_a_template_may_be_jinja(client: Any) -> None:
    jinja = client.show(MODEL).template
    client.create(
        "own", from_=MODEL, template=jinja.replace("You are a helpful AI assistant", "You are a pirate"), stream=False
    )
    said = client.chat("own", [user("Hello")], options=FIRST)
    pirate = {"role": "system", "content": SYSTEM.replace("helpful AI assistant", "pirate")}
    same = client.chat(MODEL, [pirate, user("Hello")], options=FIRST)
    assert (said.message.content, said.prompt_eval_count) == (same.message.content, same.prompt_eval_count)
    client.delete("own")


def test_the_modelfile_that_is_shown_creates_the_same(client: Any, server: Any) -> None:
    client.create("one", from_=MODEL, system='Be\n"brief".', parameters={"stop": ["a b", '"']}, stream=False)
    text = client.show("one").modelfile
    lines = server.post("/api/create", {"name": "two", "modelfile": text}).text.splitlines()
    assert json.loads(lines[-1]) == {"status": "success"}
    listed = {one.model: one.digest for one in client.list().models}
    assert listed["one"] == listed["two"]
    for name in ("one", "two"):
        client.delete(name)


def test_files_come_as_blobs(client: Any, server: Any, smollm2_path: Path) -> None:
    digest = client.create_blob(smollm2_path)
    with server.client() as http:
        assert http.head(f"/api/blobs/{digest}").status_code == 200
        assert http.head(f"/api/blobs/sha256:{'0' * 64}").status_code == 404
        assert http.head("/api/blobs/sha256:..%2f..%2fx").status_code in (400, 404)
        wrong = http.post(f"/api/blobs/sha256:{'0' * 64}", content=b"other")
        assert (wrong.status_code, "digest mismatch" in wrong.json()["error"]) == (400, True)
    client.create("sent", files={"model.gguf": digest}, system="Hi.", stream=False)
    assert client.generate("sent", "Hello", options=FIRST, keep_alive=0).response
    client.delete("sent")
    with server.client() as http:
        assert http.head(f"/api/blobs/{digest}").status_code == 404  # nothing points at it any more


def test_an_adapter_comes_as_blobs(client: Any, server: Any, tmp_path: Path) -> None:
    """A LoRA of rank 2 on the first query projection, random and strong."""
    rng = np.random.default_rng(3)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    weights = {f"{name}A.weight": rng.normal(size=(2, 576)), f"{name}B.weight": rng.normal(size=(576, 2))}
    save_file({key: value.astype(np.float32) for key, value in weights.items()}, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    sent = {path.name: client.create_blob(path) for path in tmp_path.iterdir()}
    client.create("bent", from_=MODEL, adapters=sent, stream=False)
    base = client.generate(MODEL, "The capital of France is", raw=True, options=FIRST).response
    assert client.generate("bent", "The capital of France is", raw=True, options=FIRST).response != base
    assert client.generate(MODEL, "The capital of France is", raw=True, options=FIRST).response == base
    assert "ADAPTER" in client.show("bent").modelfile
    client.delete("bent")


def test_pull_tells_how_far_it_is(client: Any) -> None:
    assert [state.status for state in client.pull(MODEL, stream=True)][-1] == "success"
    assert client.pull("minilm").status == "success"
    with pytest.raises(ollama.ResponseError, match="offline"):
        list(client.pull("gemma3:270m", stream=True))
    with pytest.raises(ollama.ResponseError, match="no model is named") as caught:
        client.pull("../../etc/passwd")
    assert caught.value.status_code == 404


def test_what_is_here_is_listed_and_shown(client: Any) -> None:
    listed = {one.model: one for one in client.list().models}
    assert {MODEL, "minilm"} <= set(listed)
    assert len(listed[MODEL].digest) == 64
    assert listed[MODEL].details.parameter_size == "134.5M"
    assert listed[MODEL].details.quantization_level == "Q4_1"
    assert [listed[name].details.format for name in (MODEL, "minilm")] == ["gguf", "safetensors"]
    assert client.show(f"{MODEL}:latest").details.format == "gguf"
    shown = client.show(MODEL)
    assert shown.modelinfo["general.architecture"] == "llama"
    assert shown.modelinfo["tokenizer.ggml.tokens"] is None
    assert shown.capabilities == ["completion", "tools"]
    assert "<|im_start|>" in shown.template
    assert client.show("minilm").capabilities == ["embedding"]
    with pytest.raises(ollama.ResponseError, match="nothing-of-it") as caught:
        client.show("nothing-of-it")
    assert caught.value.status_code == 404


# ------------------------------------------------------------------------------------------------------------- async


def test_the_async_client_does_the_same(server: Any, client: Any) -> None:
    async def work() -> None:
        async with ollama.AsyncClient(server.url, trust_env=False) as other:
            asked = [other.chat(MODEL, [user(f"Say {n}")], options=FIRST) for n in range(4)]
            said = await asyncio.gather(*asked)
            assert [one.message.content for one in said] == [
                client.chat(MODEL, [user(f"Say {n}")], options=FIRST).message.content for n in range(4)
            ]
            parts = [part async for part in await other.generate(MODEL, "Hi", options=FIRST, stream=True)]
            assert parts[-1].done
            assert len((await other.embed("minilm", "a")).embeddings) == 1
            assert [state.status async for state in await other.create("own", from_=MODEL, stream=True)][
                -1
            ] == "success"
            assert [state.status async for state in await other.pull(MODEL, stream=True)][-1] == "success"
            await other.delete("own")
            assert MODEL in [one.model for one in (await other.list()).models]

    asyncio.run(work())
