"""Tokenizers that many tests of this room share; each is built once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hornbook.checkpoint.gguf import GGUF
from hornbook.text.tokenizer import Tokenizer


def metadata_of(path: Path) -> Mapping[str, Any]:
    with GGUF.open(path) as file:
        return dict(file.metadata)


@pytest.fixture(scope="session")
def smollm2_metadata(smollm2_path: Path) -> Mapping[str, Any]:
    return metadata_of(smollm2_path)


@pytest.fixture(scope="session")
def smollm2(smollm2_metadata: Mapping[str, Any]) -> Tokenizer:
    return Tokenizer.from_gguf(smollm2_metadata)


@pytest.fixture(scope="session")
def gemma(gemma_path: Path) -> Tokenizer:
    return Tokenizer.from_gguf(metadata_of(gemma_path))


@pytest.fixture(scope="session")
def minilm(minilm_path: Path) -> Tokenizer:
    return Tokenizer.from_folder(minilm_path)


@pytest.fixture(scope="session")
def vocabulary(shared: Path) -> Callable[[str], dict[str, Any]]:
    """The metadata of llama.cpp's vocabulary files: gpt-2, phi-3, bert-bge."""
    return lambda name: dict(metadata_of(shared / "tokenizers" / f"ggml-vocab-{name}.gguf"))


@pytest.fixture(scope="session")
def gpt2(vocabulary: Callable[[str], dict[str, Any]]) -> Tokenizer:
    return Tokenizer.from_gguf(vocabulary("gpt-2"))


@pytest.fixture(scope="session")
def phi3(vocabulary: Callable[[str], dict[str, Any]]) -> Tokenizer:
    return Tokenizer.from_gguf(vocabulary("phi-3"))


@pytest.fixture(scope="session")
def sentencepiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """A model's folder that holds nothing but this SentencePiece model."""

    def folder(model: Path) -> Path:
        place = tmp_path_factory.mktemp("sentencepiece")
        shutil.copy(model, place / "tokenizer.model")
        return place

    return folder


@pytest.fixture(scope="session")
def mistral3(shared: Path, sentencepiece_folder: Callable[[Path], Path]) -> Tokenizer:
    """Mistral's third tokenizer, in which [INST] and its like are control tokens."""
    model = shared / "tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3"
    return Tokenizer.from_folder(sentencepiece_folder(model))
