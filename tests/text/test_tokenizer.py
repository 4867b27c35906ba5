"""Tokenizers from every format give the ids that the models were trained with."""

from __future__ import annotations

import gzip
import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.errors import HornbookError, ModelFileError, UnsupportedModel, UsageError
from hornbook.text.detokenize import byte_alphabet
from hornbook.text.merges import merges_from_scores
from hornbook.text.pretokenize import CUTS
from hornbook.text.tokenizer import Tokenizer

Vocabulary = Callable[[str], dict[str, Any]]
WORLD = "Hello, 世界! Ünïcödé ﷺ 🦙👨‍👩‍👧 नमस्ते\n\n\tx = 1234  # こんにちは"


def goldens(shared: Path, name: str) -> list[tuple[str, list[int]]]:
    stem = shared / "tokenizers" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{stem}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    ids = [[int(id) for id in line.split()] for line in Path(f"{stem}.out").read_text().split("\n")]
    return list(zip(texts, ids, strict=True))


def first_articles(shared: Path) -> list[str]:
    """One sentence in each of some 400 languages."""
    with gzip.open(shared / "lm_text/udhr_first_article_all.txt.gz", "rt", encoding="utf-8") as lines:
        return lines.read().split("\n")


@pytest.mark.parametrize("name", ["gpt-2", "phi-3", "bert-bge"])
def test_the_golden_files_pass_whole(shared: Path, vocabulary: Vocabulary, name: str) -> None:
    tokenizer = Tokenizer.from_gguf(vocabulary(name))
    cases = goldens(shared, name)
    assert len(cases) == 47
    for text, ids in cases:
        assert tokenizer.encode(text, add_special=False) == ids, text


@pytest.mark.parametrize("names", [("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")])
def test_gpt2_loads_from_vocabulary_and_merges(shared: Path, tmp_path: Path, names: tuple[str, str]) -> None:
    for theirs, ours in zip(("encoder.json", "vocab.bpe"), names, strict=True):
        shutil.copy(shared / "tokenizers/gpt2" / theirs, tmp_path / ours)
    tokenizer = Tokenizer.from_folder(tmp_path)
    for text, ids in goldens(shared, "gpt-2"):
        assert tokenizer.encode(text) == ids, text
    assert tokenizer.eos_id == 50256 and tokenizer.stop_ids == {50256}


def test_minilm_agrees_with_transformers(shared: Path, minilm: Tokenizer, minilm_path: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(minilm_path)
    shutil.copy(minilm_path / "vocab.txt", tmp_path)
    from_words = Tokenizer.from_folder(tmp_path)
    for text in [*first_articles(shared), WORLD, "", "[CLS] a [MASK]"]:
        ids = theirs(text, truncation=False, padding=False, split_special_tokens=True)["input_ids"]
        assert minilm.encode(text) == ids, text
        assert from_words.encode(text) == ids, text
    assert minilm.encode("a [MASK]", parse_special=True) == theirs("a [MASK]")["input_ids"]
    assert minilm.encode("word " * 1000) == [101, *[2773] * 1000, 102]  # the file says to cut at 128


def test_special_tokens_are_parsed_only_on_request(smollm2: Tokenizer) -> None:
    text = "a<|im_end|>b"
    as_data, as_control = smollm2.encode(text), smollm2.encode(text, parse_special=True)
    assert 2 not in as_data and smollm2.decode(as_data) == text
    assert as_control.count(2) == 1
    assert smollm2.decode(as_control) == "ab"
    assert smollm2.decode(as_control, skip_special=False) == text


def test_user_defined_tokens_are_parsed_in_any_text(gemma: Tokenizer) -> None:
    assert gemma.id("\n\n\n") in gemma.encode("a\n\n\nb")


def test_bos_and_stop_ids_follow_the_metadata(smollm2: Tokenizer, gemma: Tokenizer, phi3: Tokenizer) -> None:
    assert (smollm2.add_bos, smollm2.bos_id, smollm2.eos_id, smollm2.vocab_size) == (False, 1, 2, 49152)
    assert (gemma.add_bos, gemma.bos_id, gemma.eos_id, gemma.pad_id, gemma.vocab_size) == (True, 2, 1, 0, 262144)
    assert gemma.encode("")[:1] == [2]
    assert gemma.encode("a", add_special=False)[:1] != [2]
    assert smollm2.stop_ids == {0, 2}
    assert gemma.stop_ids == {1, gemma.id("<end_of_turn>")}
    assert phi3.stop_ids == {32000, phi3.id("<|end|>")}


@pytest.mark.parametrize("flag", [True, False])
def test_add_eos_follows_the_metadata(vocabulary: Vocabulary, flag: bool) -> None:
    metadata = {**vocabulary("gpt-2"), "tokenizer.ggml.add_eos_token": flag, "tokenizer.ggml.add_bos_token": False}
    assert (Tokenizer.from_gguf(metadata).encode("a")[-1] == 50256) is flag


@pytest.mark.parametrize("fixture", ["smollm2", "gemma", "phi3", "gpt2"])
def test_decode_gives_the_text_back(shared: Path, request: pytest.FixtureRequest, fixture: str) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(fixture)
    for text in [*first_articles(shared)[::10], WORLD, " leading", "  two", "trailing ", ""]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("fixture", ["smollm2", "gemma", "phi3", "minilm"])
def test_decode_agrees_with_the_tokenizers_library(request: pytest.FixtureRequest, fixture: str) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(fixture)
    ids = tokenizer.encode(WORLD + " it's, n't. \" ##x ' s")
    assert tokenizer.decode(ids) == tokenizer.backend.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("fixture", ["smollm2", "gemma"])
def test_batch_and_count_agree_with_encode(shared: Path, request: pytest.FixtureRequest, fixture: str) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(fixture)
    texts = first_articles(shared)[:100]
    ids = [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch(texts) == ids
    assert [tokenizer.count(text, add_special=True) for text in texts] == [len(one) for one in ids]


def test_threads_may_share_a_tokenizer(shared: Path, smollm2: Tokenizer) -> None:
    texts = [text + "<|im_end|>" for text in first_articles(shared)[:200]]

    def both(text: str) -> tuple[list[int], list[int]]:
        return smollm2.encode(text), smollm2.encode(text, parse_special=True)

    alone = [both(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(both, texts)) == alone


def test_lone_surrogates_become_replacement_characters(smollm2: Tokenizer) -> None:
    assert smollm2.encode("a\ud800b") == smollm2.encode("a\ufffdb")
    assert smollm2.encode("\ud83e\udd99") == smollm2.encode("🦙")


@pytest.mark.parametrize("id", [-1, 49152, 1 << 40])
def test_an_id_outside_the_vocabulary_is_named(smollm2: Tokenizer, id: int) -> None:
    with pytest.raises(UsageError, match=f"{id} is not a token id: the vocabulary has 49152 tokens"):
        smollm2.decode([id])


def test_vocabularies_load_in_time(smollm2_metadata: dict[str, Any]) -> None:
    start = time.process_time()
    Tokenizer.from_gguf(smollm2_metadata)
    assert time.process_time() - start < 1.0  # 0.08 s measured


# ------------------------------------------------------------------------------------------------------- the merges


@given(st.sets(st.text("ab▁é", min_size=1, max_size=6), min_size=1, max_size=60), st.randoms())
@settings(max_examples=100, deadline=None)
def test_merges_are_every_cut_of_a_token_in_two_tokens(tokens: set[str], random: Any) -> None:
    ordered = sorted(tokens)
    random.shuffle(ordered)
    scores = -np.arange(len(ordered), dtype=float)
    obvious = [
        (token[:at], token[at:])
        for token in ordered
        for at in range(1, len(token))
        if token[:at] in tokens and token[at:] in tokens
    ]
    assert merges_from_scores(ordered, scores) == obvious


# --------------------------------------------------------------------------------------------------------- bad input


def test_an_unknown_pre_tokenizer_lists_the_known(vocabulary: Vocabulary) -> None:
    with pytest.raises(UnsupportedModel) as error:
        Tokenizer.from_gguf({**vocabulary("gpt-2"), "tokenizer.ggml.pre": "nobody-knows"})
    assert "'nobody-knows'" in error.value.what
    assert all(name in error.value.remedy for name in CUTS)
    metadata = {key: value for key, value in vocabulary("gpt-2").items() if key != "tokenizer.ggml.pre"}
    with pytest.raises(UnsupportedModel, match="no pre-tokenizer is named"):
        Tokenizer.from_gguf(metadata)


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"tokenizer.ggml.model": "rwkv"}, UnsupportedModel, "'rwkv'"),
        ({"tokenizer.ggml.model": None}, UnsupportedModel, "None"),
        ({"tokenizer.ggml.tokens": []}, ModelFileError, "no vocabulary"),
        ({"tokenizer.ggml.tokens": None}, ModelFileError, "no vocabulary"),
        ({"tokenizer.ggml.merges": None}, ModelFileError, "no merges"),
        ({"tokenizer.ggml.merges": ["onlyone"]}, ModelFileError, "'onlyone'"),
        ({"tokenizer.ggml.merges": ["zzzzq qqqqz"]}, ModelFileError, "cannot be used"),
        ({"tokenizer.ggml.merges": [3]}, ModelFileError, "cannot be used"),
        ({"tokenizer.ggml.token_type": [1, 1]}, ModelFileError, "2 entries for 50257 tokens"),
        ({"tokenizer.ggml.token_type": "x"}, ModelFileError, "does not hold numbers"),
        ({"tokenizer.ggml.scores": [float("nan")] * 50257}, ModelFileError, "not all finite"),
        ({"tokenizer.ggml.model": "llama"}, ModelFileError, "no scores"),
        ({"tokenizer.ggml.model": "t5"}, ModelFileError, "no scores"),
    ],
)
def test_contradictory_metadata_is_named(
    vocabulary: Vocabulary, change: dict[str, Any], kind: type[HornbookError], said: str
) -> None:
    metadata = {key: value for key, value in {**vocabulary("gpt-2"), **change}.items() if value is not None}
    with pytest.raises(kind, match=said):
        Tokenizer.from_gguf(metadata)


def test_empty_and_repeated_tokens_keep_their_places(vocabulary: Vocabulary) -> None:
    metadata = vocabulary("gpt-2")
    tokens = list(metadata["tokenizer.ggml.tokens"])
    tokens[50000], tokens[50001] = "", "the"
    tokenizer = Tokenizer.from_gguf({**metadata, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": ["t h"]})
    assert tokenizer.vocab_size == 50257
    assert tokenizer.id("!") == 0 and tokenizer.id("<|endoftext|>") == 50256


@pytest.mark.parametrize(
    ("files", "kind", "said"),
    [
        ({}, ModelFileError, "holds no tokenizer"),
        ({"tokenizer.json": "{"}, ModelFileError, "not hold a sound tokenizer"),
        ({"tokenizer.json": ""}, ModelFileError, "not hold a sound tokenizer"),
        ({"tokenizer.json": '{"model": {}}'}, ModelFileError, "not hold a sound tokenizer"),
        ({"tokenizer.model": "not protobuf"}, ModelFileError, "not a sound SentencePiece model"),
        ({"vocab.json": "{}"}, ModelFileError, "but no merges.txt"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "#version: 0.2\n"}, ModelFileError, "two tokens a line"),
        ({"vocab.json": '{"a": 0}', "merges.txt": "a b\n"}, ModelFileError, "not hold a sound tokenizer"),
        ({"vocab.json": "[]", "merges.txt": "a b\n"}, ModelFileError, "not a JSON object"),
        ({"vocab.txt": "a\nb\n"}, ModelFileError, r"lacks one of \[UNK\]"),
        ({"vocab.txt": "[UNK]\n[CLS]\n[SEP]\n", "tokenizer_config.json": "{,"}, ModelFileError, "cannot be read"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: Path, files: dict[str, str], kind: type[HornbookError], said: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(kind, match=said):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("fixture", ["smollm2", "phi3", "mistral3"])
def test_a_saved_tokenizer_json_is_the_same_tokenizer(
    shared: Path, tmp_path: Path, request: pytest.FixtureRequest, fixture: str
) -> None:
    before: Tokenizer = request.getfixturevalue(fixture)
    before.backend.save(str(tmp_path / "tokenizer.json"))
    after = Tokenizer.from_folder(tmp_path)
    for text in [*first_articles(shared)[::20], WORLD, *before.control_tokens[:3], "  a", ""]:
        assert after.encode(text) == before.encode(text)
        ids = before.encode(text, parse_special=True)
        assert after.encode(text, parse_special=True) == ids
        assert after.decode(ids) == before.decode(ids)


def test_an_unknown_decoder_is_named(minilm_path: Path, tmp_path: Path) -> None:
    content = json.loads((minilm_path / "tokenizer.json").read_text("utf-8"))
    content["decoder"] = {"type": "CTC", "pad_token": "[PAD]", "word_delimiter_token": "|", "cleanup": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(UnsupportedModel, match="CTC"):
        Tokenizer.from_folder(tmp_path)


def test_the_folder_declares_special_tokens_and_ends(minilm_path: Path, tmp_path: Path) -> None:
    shutil.copy(minilm_path / "tokenizer.json", tmp_path)
    entry = {"content": "<|new|>", "special": True, "normalized": False, "lstrip": False, "rstrip": False}
    config = {"added_tokens_decoder": {"30522": entry}, "eos_token": {"content": "<|new|>"}, "bos_token": "[CLS]"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [102, 30522]}', "utf-8")
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.stop_ids) == (101, 30522, {102, 30522})
    assert tokenizer.encode("<|new|>", parse_special=True, add_special=False) == [30522]
    assert 30522 not in tokenizer.encode("<|new|>")


def test_the_byte_alphabet_is_that_of_transformers() -> None:
    reference = pytest.importorskip("transformers.convert_slow_tokenizer").bytes_to_unicode()
    assert byte_alphabet() == {character: byte for byte, character in reference.items()}
