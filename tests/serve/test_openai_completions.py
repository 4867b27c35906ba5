"""Completions, asked by OpenAI's own client."""

from __future__ import annotations

from typing import Any

import pytest

openai = pytest.importorskip("openai")

from openai.types import Completion  # noqa: E402

MODEL = "smollm2:135m"
COUNT = "One, two, three,"


def create(client: Any, **asked: Any) -> Completion:
    asked = {"model": MODEL, "prompt": COUNT, "temperature": 0} | asked
    raw = client.completions.with_raw_response.create(**asked)
    return Completion.model_validate_json(raw.http_response.text, strict=True)


def texts(answer: Completion) -> list[str]:
    assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
    return [choice.text for choice in answer.choices]


@pytest.fixture(scope="module")
def tokenizer(smollm2_path: Any) -> Any:
    from hornbook.checkpoint.gguf import GGUF
    from hornbook.text.tokenizer import Tokenizer

    with GGUF.open(smollm2_path) as file:
        return Tokenizer.from_gguf(file.metadata)


def test_a_text_goes_on_for_sixteen_tokens_unless_told_otherwise(openai_client: Any) -> None:
    answer = create(openai_client)
    assert answer.object == "text_completion" and answer.usage is not None
    assert answer.usage.completion_tokens == 16 and answer.choices[0].finish_reason == "length"
    assert " four" in answer.choices[0].text


def test_every_form_of_a_prompt_gives_the_same_answer(openai_client: Any, tokenizer: Any) -> None:
    other = "The sky is"
    ids, others = tokenizer.encode(COUNT), tokenizer.encode(other)
    (one,) = texts(create(openai_client, max_tokens=6))
    (two,) = texts(create(openai_client, prompt=other, max_tokens=6))
    assert texts(create(openai_client, prompt=ids, max_tokens=6)) == [one]
    assert texts(create(openai_client, prompt=[COUNT, other], max_tokens=6)) == [one, two]
    assert texts(create(openai_client, prompt=[others, ids], max_tokens=6)) == [two, one]


def test_a_special_token_in_a_text_is_text(openai_client: Any, tokenizer: Any) -> None:
    spelled = create(openai_client, prompt="<|im_end|>", max_tokens=1)
    assert spelled.usage is not None and spelled.usage.prompt_tokens > 1
    (end,) = tokenizer.encode("<|im_end|>", add_special=False, parse_special=True)
    meant = create(openai_client, prompt=[end], max_tokens=1)
    assert meant.usage is not None and meant.usage.prompt_tokens == 1


def test_several_prompts_with_several_answers_stand_in_order(openai_client: Any) -> None:
    asked = {"prompt": [COUNT, "The sky is"], "n": 2, "max_tokens": 5, "temperature": 1.2, "seed": 5}
    answer = create(openai_client, **asked)
    four = texts(answer)
    assert len(four) == 4 and answer.usage is not None and answer.usage.completion_tokens == 20
    assert four[:2] == texts(create(openai_client, **asked | {"prompt": COUNT}))
    streamed = ["", "", "", ""]
    for chunk in openai_client.completions.create(model=MODEL, stream=True, **asked):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == four


def test_an_echo_comes_first_whole_and_streamed(openai_client: Any, tokenizer: Any) -> None:
    plain = texts(create(openai_client, max_tokens=4))[0]
    assert texts(create(openai_client, max_tokens=4, echo=True)) == [COUNT + plain]
    assert texts(create(openai_client, prompt=tokenizer.encode(COUNT), max_tokens=4, echo=True)) == [COUNT + plain]
    pieces = openai_client.completions.create(
        model=MODEL, prompt=COUNT, max_tokens=4, temperature=0, echo=True, stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces) == COUNT + plain


def test_the_best_of_several_is_the_likeliest_of_them(openai_client: Any) -> None:
    asked = {"max_tokens": 6, "temperature": 1.5, "seed": 2, "logprobs": 0}
    everyone = create(openai_client, n=5, **asked)

    def mean(choice: Any) -> float:
        values = choice.logprobs.token_logprobs
        return sum(values) / len(values)

    ranked = sorted(everyone.choices, key=mean, reverse=True)
    best = create(openai_client, n=2, best_of=5, **asked)
    assert texts(best) == [choice.text for choice in ranked[:2]]
    assert best.usage is not None and best.usage.completion_tokens == 30, "what was written counts, told or not"


def test_likelihoods_stand_at_their_places_in_the_text(openai_client: Any) -> None:
    (choice,) = create(openai_client, max_tokens=8, logprobs=2).choices
    told = choice.logprobs
    assert told is not None and told.tokens and told.text_offset and told.token_logprobs and told.top_logprobs
    assert "".join(told.tokens) == choice.text
    for token, offset, value, best in zip(
        told.tokens, told.text_offset, told.token_logprobs, told.top_logprobs, strict=True
    ):
        assert choice.text[offset:].startswith(token)
        assert len(best) == 2 and best[token] == pytest.approx(value) and max(best.values()) == pytest.approx(value)
    offsets: list[int] = []
    for chunk in openai_client.completions.create(
        model=MODEL, prompt=COUNT, max_tokens=8, temperature=0, logprobs=2, stream=True
    ):
        if chunk.choices[0].logprobs:
            offsets += chunk.choices[0].logprobs.text_offset
    assert offsets == told.text_offset


def test_a_stream_of_several_ends_with_the_usage_of_all(openai_client: Any) -> None:
    chunks = list(
        openai_client.completions.create(
            model=MODEL, prompt=[COUNT, "The sky is"], max_tokens=3, temperature=0, stream=True,
            stream_options={"include_usage": True},
        )
    )  # fmt: skip
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 6
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_where_nothing_is_said_of_drawing_the_tail_is_left_out(openai_client: Any) -> None:
    asked = {"model": MODEL, "prompt": COUNT, "seed": 11, "max_tokens": 12}
    unsaid = openai_client.completions.create(**asked)
    said = create(openai_client, **asked, **{"temperature": 0.8, "top_p": 0.95, "extra_body": {"top_k": 40}})
    assert unsaid.choices[0].text == said.choices[0].text
    whole = [
        openai_client.completions.create(**asked, top_p=1).choices[0].text,
        create(openai_client, **asked | {"temperature": 1}).choices[0].text,
    ]
    assert whole[0] == whole[1] != unsaid.choices[0].text


def test_names_that_vllm_gave_are_understood(openai_client: Any) -> None:
    greedy = texts(create(openai_client, max_tokens=6))
    one = create(openai_client, max_tokens=6, temperature=2, seed=1, extra_body={"top_k": 1, "return_token_ids": True})
    assert texts(one) == greedy
    assert len(one.choices[0].model_extra["token_ids"]) == 6  # type: ignore[index]
    assert texts(create(openai_client, max_tokens=6, temperature=2, seed=1, extra_body={"min_p": 1.0})) == greedy
    assert texts(create(openai_client, max_tokens=6, temperature=2, seed=1, top_p=0)) == greedy
    assert texts(create(openai_client, max_tokens=12, extra_body={"repetition_penalty": 1.8})) != texts(
        create(openai_client, max_tokens=12)
    )


def test_our_own_client_of_such_servers_gets_what_the_model_says(server: Any, openai_client: Any) -> None:
    from hornbook.engine.remote import RemoteLLM
    from hornbook.types import SamplingParams

    with RemoteLLM(f"{server.url}/v1", MODEL, extra={"return_token_ids": True}) as remote:
        assert remote.context_length == 8192
        (said,) = remote.generate(COUNT, SamplingParams(max_tokens=6))
        assert [said.text] == texts(create(openai_client, max_tokens=6)) and len(said.token_ids) == 6
        assert "".join(token.text for token in remote.stream(COUNT, SamplingParams(max_tokens=6))) == said.text
        assert remote.chat([{"role": "user", "content": "Hi"}], sampling=SamplingParams(max_tokens=4)).content


def test_an_echo_with_likelihoods_tells_those_of_the_prompt(openai_client: Any, server: Any, smollm2_path: Any) -> None:
    from hornbook.engine.remote import RemoteLLM
    from hornbook.llm import load

    pairs = [("The capital of France is", " Paris"), ("猫は", "かわいい"), ("One, two,", " three, zebra")]
    with load(smollm2_path) as local, RemoteLLM(f"{server.url}/v1", MODEL) as remote:
        for mine, theirs in zip(local.score(pairs), remote.score(pairs), strict=True):
            assert theirs.logprob == pytest.approx(mine.logprob, abs=1e-3)
            assert (theirs.is_greedy, theirs.tokens) == (mine.is_greedy, mine.tokens)
    asked = {"model": MODEL, "prompt": COUNT, "max_tokens": 2, "temperature": 0, "echo": True, "logprobs": 2}
    (choice,) = openai_client.completions.create(**asked).choices
    told = choice.logprobs
    assert "".join(told.tokens) == choice.text and told.token_logprobs[0] is None and told.top_logprobs[0] is None
    assert all(value <= 0 for value in told.token_logprobs[1:])
    assert all(
        choice.text[offset:].startswith(token) for token, offset in zip(told.tokens, told.text_offset, strict=True)
    )
    streamed = list(openai_client.completions.create(**asked, stream=True))
    assert [
        t for chunk in streamed if chunk.choices[0].logprobs for t in chunk.choices[0].logprobs.tokens
    ] == told.tokens


def test_tokens_are_told_as_other_servers_tell_them(server: Any, tokenizer: Any, openai_client: Any) -> None:
    from hornbook.engine.remote import RemoteLLM

    text = "Schöne Grüße, 世界 <|im_end|>"
    ids = tokenizer.encode(text)
    told = server.post("/tokenize", json={"model": MODEL, "prompt": text}).json()
    assert told == {"tokens": ids, "count": len(ids), "max_model_len": 8192}
    assert server.post("/detokenize", json={"model": MODEL, "tokens": ids}).json()["prompt"] == text
    with RemoteLLM(f"{server.url}/v1", MODEL) as remote:
        assert remote.counts_exactly and remote.count_tokens(text) == len(ids)
        prompt = remote.render([{"role": "user", "content": "Hi"}])
    chat = openai_client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=6, temperature=0
    )
    assert texts(create(openai_client, prompt=prompt, max_tokens=6)) == [chat.choices[0].message.content]
    for wrong in ({}, {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, {"prompt": 1}):
        assert server.post("/tokenize", json={"model": MODEL} | wrong).status_code == 400
