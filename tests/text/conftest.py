"""Tokenizers that many tests of this room share; each is built once."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, normalizers, pre_tokenizers, trainers

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


ODD = [
    *("", " ", "  two   spaces  ", "tab\tnew\n\nline\r\nend ", "Ünïcödé ÉCOLE Straße ﬁ ① ﷺ e\u0301"),
    *("🦙👨\u200d👩\u200d👧 🇫🇷", "def f(x):\n    return x**2  # 3.14\n", "In 1,999, 20,5, 3, it's ``quoted'' DON'T"),
    *("漢字と かな 한국어 𒀀", "a" * 120),
]


@pytest.fixture(scope="session")
def texts(shared: Path) -> list[str]:
    """Some 500 lines: hundreds of languages, English and Japanese prose, Chinese, code, spaces."""

    def read(name: str) -> list[str]:
        with gzip.open(shared / "lm_text" / name, "rt", encoding="utf-8") as file:
            return file.read().split("\n")

    rights = read("udhr_first_article_all.txt.gz")
    german = [line for line in rights if "Menschen" in line]
    chinese = [line[:500] for line in read("cmrc_trial_contexts_zh.txt.gz")[:40]]
    return [*rights[::6], *german, *read("botchan_en.txt.gz")[100:200], *read("wagahai_ja.txt.gz")[:50], *chinese, *ODD]


@pytest.fixture(scope="session")
def make(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder of raw files of a vocabulary that is trained on the texts; ``config`` is its tokenizer_config.json.

    kind: "bpe", "gpt", "wordpiece", or the name of a SentencePiece model's file. options: the trainer's.
    """

    def backend_of(kind: str, lower: bool) -> Backend:
        if kind == "bpe":
            backend = Backend(models.BPE())
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            return backend
        backend = Backend(models.BPE(end_of_word_suffix="</w>") if kind == "gpt" else models.WordPiece())
        backend.normalizer = normalizers.BertNormalizer(lowercase=lower)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return backend

    def train(kind: str, folder: Path, special: list[str], lower: bool = True) -> None:
        backend = backend_of(kind, lower)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = {
            "bpe": lambda **more: trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, **more),
            "gpt": lambda **more: trainers.BpeTrainer(
                vocab_size=900, limit_alphabet=300, end_of_word_suffix="</w>", **more
            ),
            "wordpiece": lambda **more: trainers.WordPieceTrainer(vocab_size=2500, limit_alphabet=1500, **more),
        }[kind]
        backend.train_from_iterator(texts, trainer(special_tokens=special, show_progress=False))
        backend.model.save(str(folder))

    def pieces(file: Path, algorithm: str, **options: Any) -> None:
        sentencepiece = pytest.importorskip("sentencepiece")
        corpus = options.pop("corpus", [line for line in texts if line.strip()])
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_prefix=str(file.with_suffix("")), model_type=algorithm,
            vocab_size=options.pop("vocab_size", 3000), minloglevel=2, num_threads=1, hard_vocab_limit=False, **options,
        )  # fmt: skip
        file.with_suffix(".vocab").unlink()
        file.with_suffix(".model").rename(file)

    def build(kind: str, config: dict[str, Any], **options: Any) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        if "." in kind:
            pieces(folder / kind, **options)
        else:
            train(kind, folder, **options)
        (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
        return folder

    return build
