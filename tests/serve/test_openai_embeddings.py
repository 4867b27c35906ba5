"""Embeddings and rerank: the vectors are those of the embedder itself, whatever the form they are asked in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

openai = pytest.importorskip("openai")

from openai.types import CreateEmbeddingResponse  # noqa: E402

TEXTS = ["A cat sat on the mat.", "猫はマットの上に座った。", "Stocks fell on Tuesday."]


@pytest.fixture(scope="module")
def embedder(minilm_path: Any) -> Iterator[Any]:
    from hornbook.llm import load

    with load(minilm_path) as model:
        yield model


def create(client: Any, **asked: Any) -> CreateEmbeddingResponse:
    raw = client.embeddings.with_raw_response.create(**({"model": "minilm", "encoding_format": "float"} | asked))
    return CreateEmbeddingResponse.model_validate_json(raw.http_response.text, strict=True)


def vectors(answer: CreateEmbeddingResponse) -> Any:
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return np.array([one.embedding for one in answer.data], np.float32)


def test_texts_become_the_vectors_of_the_embedder(openai_client: Any, embedder: Any) -> None:
    answer = create(openai_client, input=TEXTS)
    np.testing.assert_allclose(vectors(answer), embedder.embed(TEXTS), atol=1e-5)
    assert answer.usage.prompt_tokens == sum(len(embedder.tokenizer.encode(text)) for text in TEXTS)
    np.testing.assert_allclose(vectors(create(openai_client, input=TEXTS[0])), embedder.embed(TEXTS[:1]), atol=1e-5)


def test_ids_become_the_vector_of_their_text(openai_client: Any, embedder: Any) -> None:
    ids = [embedder.tokenizer.encode(text, add_special=False) for text in TEXTS]
    np.testing.assert_allclose(vectors(create(openai_client, input=ids)), embedder.embed(TEXTS), atol=1e-5)
    np.testing.assert_allclose(vectors(create(openai_client, input=ids[0])), embedder.embed(TEXTS[:1]), atol=1e-5)


def test_the_client_decodes_base64_which_it_asks_for_by_itself(openai_client: Any, embedder: Any) -> None:
    answer = openai_client.embeddings.create(model="minilm", input=TEXTS)
    np.testing.assert_array_equal(vectors(answer), vectors(create(openai_client, input=TEXTS)))
    raw = openai_client.embeddings.with_raw_response.create(model="minilm", input="x", encoding_format="base64")
    assert isinstance(raw.http_response.json()["data"][0]["embedding"], str)


def test_dimensions_are_the_models_own_or_refused(openai_client: Any) -> None:
    assert vectors(create(openai_client, input="x", dimensions=384)).shape == (1, 384)
    with pytest.raises(openai.BadRequestError, match="384") as refused:
        create(openai_client, input="x", dimensions=64)
    assert refused.value.param == "dimensions"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"input": ""}, "input[0]"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": []}, None),
        ({"input": [30522]}, None),
        ({"input": [-1]}, None),
        ({"input": [["a"]]}, None),
        ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "x", "model": "smollm2:135m"}, None),
    ],
)
def test_what_cannot_be_embedded_is_refused(openai_client: Any, asked: dict[str, Any], param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        create(openai_client, **asked)
    if param:
        assert refused.value.param == param


def test_a_text_that_is_too_long_is_refused_with_both_numbers(openai_client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"402 tokens.*256") as refused:
        create(openai_client, input=["short", "word " * 400])
    assert refused.value.code == "context_length_exceeded"


# --- rerank

DOCUMENTS = ["Bread is baked in an oven.", "The cat sleeps on the sofa.", "A kitten plays with wool."]


def rerank(server: Any, **asked: Any) -> Any:
    body = {"model": "minilm", "query": "Where is the cat?", "documents": DOCUMENTS} | asked
    return server.post("/v1/rerank", json=body)


def test_documents_come_in_the_order_of_their_cosines(server: Any, embedder: Any) -> None:
    answer = rerank(server).json()
    scores = embedder.embed(DOCUMENTS) @ embedder.embed(["Where is the cat?"], kind="query")[0]
    assert [one["index"] for one in answer["results"]] == list(np.argsort(-scores))
    for one in answer["results"]:
        assert one["relevance_score"] == pytest.approx(scores[one["index"]], abs=1e-5)
        assert one["document"] == {"text": DOCUMENTS[one["index"]]}
    assert answer["usage"]["total_tokens"] > 0 and answer["model"] == "minilm"


def test_only_the_best_are_told_and_texts_left_out_where_that_is_asked(server: Any) -> None:
    given = [{"text": text} for text in DOCUMENTS]
    (best,) = rerank(server, documents=given, top_n=1, return_documents=False).json()["results"]
    assert best == {name: rerank(server).json()["results"][0][name] for name in ("index", "relevance_score")}


def test_no_part_of_a_long_document_goes_unread(server: Any) -> None:
    buried = "The price of copper rose again. " * 120 + "The cat is on the sofa. " + "Copper fell later. " * 120
    results = rerank(server, documents=["The price of copper rose again. " * 120, buried]).json()["results"]
    assert results[0]["index"] == 1 and results[0]["relevance_score"] > results[1]["relevance_score"] + 0.1


@pytest.mark.parametrize("wrong", [{"documents": []}, {"top_n": 0}, {"query": ""}, {"rank_fields": ["a"]}, {"x": 1}])
def test_what_cannot_be_ranked_is_refused(server: Any, wrong: dict[str, Any]) -> None:
    answer = rerank(server, **wrong)
    assert answer.status_code == 400 and next(iter(wrong)) in answer.json()["error"]["message"]
