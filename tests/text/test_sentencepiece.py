"""SentencePiece models are read from their protobuf, and encode as SentencePiece and Mistral's own tokenizer do."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hornbook.errors import HornbookError
from hornbook.text.sentencepiece import read_sentencepiece
from hornbook.text.tokenizer import Tokenizer

Folder = Callable[[Path], Path]
MODELS = [
    "sp_test_model.model",
    "mistral/tokenizer.model.v1",
    "mistral/mistral_instruct_tokenizer_240323.model.v3",
]
SAMPLES = ["no_tools", "get_weather_full", "get_weather_no_history", "parallel_calls"]


@pytest.mark.parametrize("model", MODELS)
def test_models_encode_as_sentencepiece_does(shared: Path, sentencepiece_folder: Folder, model: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    path = shared / "tokenizers" / model
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    ours = Tokenizer.from_folder(sentencepiece_folder(path))
    with gzip.open(shared / "lm_text/udhr_first_article_all.txt.gz", "rt", encoding="utf-8") as lines:
        texts = lines.read().split("\n")
    for text in [*texts, "  hello   world  ", "a\tb\n\nc", "", " ", "①②ﬁ Ａ", "a" * 30 + " " * 30 + "b", "𒀀x"]:
        ids = theirs.encode(text)
        assert ours.encode(text, add_special=False) == ids, text
        if theirs.unk_id() not in ids:  # SentencePiece writes an unknown token as " ⁇ ", we as nothing
            assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize("model", MODELS)
def test_control_tokens_in_text_are_text(shared: Path, sentencepiece_folder: Folder, model: str) -> None:
    tokenizer = Tokenizer.from_folder(sentencepiece_folder(shared / "tokenizers" / model))
    ids = tokenizer.encode("<s> </s>", add_special=False)
    assert not {tokenizer.bos_id, tokenizer.eos_id} & set(ids)
    parsed = tokenizer.encode("<s></s>", add_special=False, parse_special=True)
    assert parsed == [tokenizer.bos_id, tokenizer.eos_id]


def golden(shared: Path, sample: str, version: str) -> tuple[str, list[int]]:
    """Mistral's own encoding of a conversation, the text with its "▁" for spaces taken back."""
    folder = shared / "tokenizers/mistral/samples" / sample
    text = (folder / f"text_{version}.txt").read_text("utf-8")
    ids = json.loads((folder / f"tokens_{version}.json").read_text("utf-8"))["tokens"]
    text = text.replace("▁", " ").replace("<0x0A>", "\n")
    for mark in ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"):
        text = text.replace(f"{mark} ", mark)  # the space that SentencePiece puts before a text is not in the text
    for mark in ("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"):
        text = text.replace(f"{mark} ", mark)
    return text, ids


@pytest.mark.parametrize("version", ["v2", "v3"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_mistrals_conversations_have_mistrals_ids(shared: Path, mistral3: Tokenizer, sample: str, version: str) -> None:
    text, ids = golden(shared, sample, version)
    assert mistral3.encode(text, add_special=False, parse_special=True) == ids


def test_mistrals_first_tokenizer_has_no_control_tokens_for_turns(shared: Path, sentencepiece_folder: Folder) -> None:
    tokenizer = Tokenizer.from_folder(sentencepiece_folder(shared / "tokenizers/mistral/tokenizer.model.v1"))
    text, ids = golden(shared, "no_tools", "v1")
    text = text.replace("<s> [", "<s>[").replace("</s> [", "</s>[").replace("[INST]W", "[INST] W")
    text = (
        text.replace("[INST]", "[INST] ").replace("  ", " ").replace("[/INST]", "[/INST] ").replace("] </s>", "]</s>")
    )
    assert tokenizer.encode(text.rstrip(), add_special=False, parse_special=True) == ids


def test_damaged_models_are_named(shared: Path, tmp_path: Path) -> None:
    sound = (shared / "tokenizers/sp_test_model.model").read_bytes()
    path = tmp_path / "tokenizer.model"
    generator = random.Random(0)
    refused = 0
    for _ in range(150):
        spoiled = bytearray(sound[: generator.randrange(len(sound))] if generator.random() < 0.5 else sound)
        for _ in range(generator.randrange(1, 20)):
            if spoiled:
                spoiled[generator.randrange(len(spoiled))] = generator.randrange(256)
        path.write_bytes(spoiled)
        try:
            read_sentencepiece(path)
            if generator.random() < 0.1:
                Tokenizer.from_folder(tmp_path).encode("a b")
        except HornbookError:
            refused += 1
    assert refused > 50
