"""The embedder against sentence-transformers on MiniLM, and what its folder may say or lack."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hornbook
from hornbook.errors import ModelClosed, ModelFileError, UnsupportedModel, UsageError
from hornbook.kernels.library import library, why_not
from hornbook.retrieve.embed import LocalEmbedder, batches, fingerprint, read_layout
from hornbook.types import Embedder

TEXTS = [
    "A hornbook was a child's first book.",
    "",
    " ",
    "机器学习是人工智能的一个分支。",
    "日本語の文章も、ここにある。",
    "Émile Zola's naïve café – 50 % off!",
    "one",
    "🙂 emoji and \x00 control \u200b characters",
    "long " * 700,
    "The patients were followed for two years after the intervention. " * 9,
]


@pytest.fixture(scope="module")
def minilm(minilm_path: Path) -> Iterator[LocalEmbedder]:
    with hornbook.load(str(minilm_path), device="cpu") as embedder:
        assert isinstance(embedder, LocalEmbedder)
        yield embedder


@pytest.fixture(scope="module")
def exact(minilm_path: Path) -> Iterator[LocalEmbedder]:
    """As torch computes it, in float32."""
    with hornbook.load(str(minilm_path), device="cpu", dtype="float32") as embedder:
        assert isinstance(embedder, LocalEmbedder)
        yield embedder


@pytest.fixture(scope="module")
def peer(minilm_path: Path) -> Any:
    return pytest.importorskip("sentence_transformers").SentenceTransformer(str(minilm_path), device="cpu")


@pytest.mark.models
def test_vectors_are_those_of_sentence_transformers(exact: LocalEmbedder, peer: Any) -> None:
    ours = exact.embed(TEXTS)
    assert isinstance(exact, Embedder)
    assert (ours.shape, ours.dtype) == ((len(TEXTS), 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(ours, peer.encode(TEXTS), atol=1e-5)
    assert exact.max_tokens == peer.max_seq_length == 256
    np.testing.assert_allclose(exact.embed(TEXTS[:1], kind="query"), ours[:1], atol=1e-6)


@pytest.mark.models
def test_eight_bits_turn_a_vector_by_next_to_nothing(minilm: LocalEmbedder, exact: LocalEmbedder, shared: Path) -> None:
    if library() is None:
        pytest.skip(f"the native kernels are not there: {why_not()}")
    with gzip.open(shared / "reasoning" / "pubmed_qa.jsonl.gz", "rt", encoding="utf-8") as lines:
        passages = [
            " ".join(json.loads(line)["context"].split()[:60]) for line, _ in zip(lines, range(40), strict=False)
        ]
    ours, theirs = minilm.embed(passages), exact.embed(passages)
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1.0, atol=1e-6)
    assert (ours * theirs).sum(1).min() > 0.999
    assert minilm.fingerprint == exact.fingerprint  # an index made by one may be searched with the other


@pytest.mark.models
def test_a_vector_does_not_depend_on_its_batch(minilm: LocalEmbedder) -> None:
    together = minilm.embed(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_allclose(minilm.embed([text])[0], vector, atol=1e-6)


@pytest.mark.models
def test_a_text_that_is_cut_is_counted_and_logged(minilm: LocalEmbedder, caplog: pytest.LogCaptureFixture) -> None:
    before = minilm.truncated
    with caplog.at_level(logging.WARNING, logger="hornbook"):
        minilm.embed(["short", "word " * 254])  # 254 and two special tokens: just fits
        assert not caplog.records
        minilm.embed(["short", "word " * 255, "word " * 900])
    assert minilm.truncated == before + 2
    assert "2 of 3 texts" in caplog.text
    assert "256 tokens" in caplog.text


@pytest.mark.models
def test_tokens_are_counted_without_the_special_ones(minilm: LocalEmbedder) -> None:
    assert minilm.count_tokens("one two three") == 3
    assert minilm.count_tokens("") == 0
    assert minilm.special_tokens == 2


@pytest.mark.models
def test_nothing_gives_nothing_and_wrong_use_is_named(minilm: LocalEmbedder) -> None:
    assert minilm.embed([]).shape == (0, 384)
    with pytest.raises(UsageError, match="list"):
        minilm.embed("a text")
    with pytest.raises(UsageError, match="passage"):
        minilm.embed(["a"], kind="document")  # type: ignore[arg-type]


@pytest.mark.models
def test_threads_share_it(minilm: LocalEmbedder) -> None:
    expected = minilm.embed(TEXTS[:7])
    got: list[Any] = [None] * 4

    def work(i: int) -> None:
        got[i] = minilm.embed(TEXTS[:7])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for vectors in got:
        np.testing.assert_allclose(vectors, expected, atol=1e-6)


@pytest.mark.models
def test_a_moved_model_keeps_its_fingerprint_and_a_changed_one_does_not(
    minilm: LocalEmbedder, minilm_path: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    shutil.copytree(minilm_path, folder)
    with hornbook.load(str(folder), device="cpu") as moved:
        assert moved.fingerprint == minilm.fingerprint
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128}', "utf-8")
    prompts = {"prompts": {"query": "query: ", "document": "passage: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts), "utf-8")
    with hornbook.load(str(folder), device="cpu") as changed:
        assert changed.max_tokens == 128
        assert changed.fingerprint != minilm.fingerprint
        np.testing.assert_allclose(changed.embed(["x"], kind="query"), minilm.embed(["query: x"]), atol=1e-6)
        np.testing.assert_allclose(changed.embed(["x"]), minilm.embed(["passage: x"]), atol=1e-6)
    with pytest.raises(ModelClosed, match="closed"):
        changed.embed(["x"])


def test_other_weights_have_another_fingerprint(tmp_path: Path) -> None:
    weights = bytearray(range(256)) * 20_000
    file = tmp_path / "model.gguf"
    file.write_bytes(weights)
    first = fingerprint(file, (1,))
    assert fingerprint(file, (1,)) == first
    assert fingerprint(file, (2,)) != first
    file.write_bytes(weights + b"x")
    assert fingerprint(file, (1,)) != first
    file.write_bytes(b"x" + weights[1:])
    assert fingerprint(file, (1,)) != first


def test_batches_hold_every_place_once_within_the_budget() -> None:
    lengths = [3, 200, 1, 256, 17, 17, 90, 2] * 5
    found = list(batches(lengths, 300))
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    for batch in found:
        assert len(batch) * max(lengths[i] for i in batch) <= 300
    assert list(batches([500], 300)) == [[0]]  # longer than the budget: alone
    assert list(batches([], 300)) == []


def test_a_module_that_is_not_implemented_is_refused(tmp_path: Path) -> None:
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}, {"type": "x.Dense", "path": "2_Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules), "utf-8")
    with pytest.raises(UnsupportedModel, match="Dense"):
        read_layout(tmp_path)


@pytest.mark.parametrize("text", ["{", "3", '"modules"'])
def test_damaged_files_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "modules.json").write_text(text, "utf-8")
    with pytest.raises(ModelFileError, match=r"modules\.json"):
        read_layout(tmp_path)
