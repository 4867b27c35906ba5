"""A folder of sentence-transformers is read in its old and its new words, and a saved one embeds as before."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from reference_models import tiny_bert

from hornbook.checkpoint import load, save
from hornbook.checkpoint.sentence_folder import read_limit, read_pooling, write
from hornbook.engine.encode import TorchEncoder
from hornbook.errors import HornbookError, ModelFileError, UnsupportedModel
from hornbook.model.config import ModelConfig
from hornbook.retrieve.embed import LocalEmbedder

TEXTS = ["Hi", "Where does the river meet the sea?", "春天来了，河边的柳树都绿了。", "A passage of some length. " * 30]
SMALL = ModelConfig(
    vocab_size=53, layers=1, width=16, heads=4, kv_heads=4, head_width=4, feedforward_width=24, context_length=100
)  # fmt: skip


def folder_of(path: Path, **files: object) -> Path:
    for name, value in files.items():
        file = path / {"pooling": "1_Pooling/config.json"}.get(name, f"{name}.json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
    return path


# ------------------------------------------------------------------------------------------------------------ read


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": False}, "mean"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"embedding_dimension": 48, "pooling_mode": "cls"}, "first"),
        ({"embedding_dimension": 48, "pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_the_pooling_is_read_in_the_words_of_all_releases(
    said: dict[str, object], pooling: str, tmp_path: Path
) -> None:
    assert read_pooling(folder_of(tmp_path, pooling=said)) == pooling
    assert read_pooling(tmp_path / "1_Pooling") is None


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"pooling_mode_max_tokens": True}, "the pooling is max"),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_tokens": True}, "the pooling is max and mean"),
        ({"pooling_mode": ["cls", "mean"]}, "the pooling is cls and mean"),
        ({"pooling_mode": 7}, "the pooling is 7"),
        ({}, "the pooling is none"),
        ({"pooling_mode": "mean", "include_prompt": False}, "leaves a prompt's tokens out"),
        ("[]", "does not hold a JSON object"),
        ("{", "cannot be read"),
    ],
)
def test_a_pooling_that_is_not_ours_is_refused_by_name(said: object, message: str, tmp_path: Path) -> None:
    with pytest.raises((UnsupportedModel, ModelFileError), match=message) as raised:
        read_pooling(folder_of(tmp_path, pooling=said))
    assert isinstance(raised.value, HornbookError) and raised.value.remedy


def test_the_limit_is_the_folders_own_then_its_tokenizers(tmp_path: Path) -> None:
    assert read_limit(tmp_path) is None
    assert read_limit(folder_of(tmp_path, tokenizer_config={"model_max_length": 128})) == 128
    assert read_limit(folder_of(tmp_path, sentence_bert_config={"max_seq_length": None})) == 128
    assert read_limit(folder_of(tmp_path, sentence_bert_config={"max_seq_length": 64})) == 64


# ----------------------------------------------------------------------------------------------------------- write


def test_what_the_folder_said_is_kept_and_what_it_did_not_is_made(tmp_path: Path) -> None:
    source = folder_of(
        tmp_path / "theirs",
        modules=[
            {"type": "sentence_transformers.models.Transformer"},
            {"type": "sentence_transformers.models.Pooling"},
        ],
        sentence_bert_config={"max_seq_length": 5000, "do_lower_case": True},
        config_sentence_transformers={"prompts": {"query": "問い: "}},
    )
    for name, came_from in (("a", source), ("b", source / "model.gguf"), ("c", source / "modules.json" / "x")):
        (tmp_path / name).mkdir()
        write(tmp_path / name, replace(SMALL, pooling="last"), came_from)
        assert read_pooling(tmp_path / name) == "last"
        assert read_limit(tmp_path / name) == 100, "no more than the model can read"
    said = {name: json.loads((tmp_path / "a" / f"{name}.json").read_text("utf-8")) for name in ("modules", "sentence_bert_config", "config_sentence_transformers")}  # fmt: skip
    assert [module["type"].rsplit(".")[-1] for module in said["modules"]] == ["Transformer", "Pooling"]
    assert said["sentence_bert_config"] == {"do_lower_case": True, "max_seq_length": 100}
    assert said["config_sentence_transformers"] == {"prompts": {"query": "問い: "}}
    made = json.loads((tmp_path / "b" / "modules.json").read_text("utf-8"))
    assert [module["type"].rsplit(".")[-1] for module in made] == ["Transformer", "Pooling", "Normalize"]


def test_a_model_that_pools_nothing_gets_none_of_these_files(tmp_path: Path) -> None:
    write(tmp_path, SMALL, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.models
def test_a_saved_sentence_encoder_embeds_as_before(minilm_path: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    save(load(minilm_path, device="cpu"), tmp_path)
    expected, found = (SentenceTransformer(str(path), device="cpu") for path in (minilm_path, tmp_path))
    assert found.max_seq_length == expected.max_seq_length == 256
    assert [type(module) for module in found] == [type(module) for module in expected]
    np.testing.assert_array_equal(found.encode(TEXTS), expected.encode(TEXTS))


@pytest.mark.models  # for its tokenizer
@pytest.mark.parametrize("pooling", ["cls", "lasttoken"])
def test_a_folder_of_todays_sentence_transformers_goes_there_and_back(
    pooling: str, minilm_path: Path, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer, models

    tiny_bert(vocab_size=30_522, max_position_embeddings=256).save_pretrained(tmp_path / "bare")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(minilm_path / name, tmp_path / "bare")
    first = models.Transformer(str(tmp_path / "bare"), max_seq_length=50)
    made = SentenceTransformer(modules=[first, models.Pooling(48, pooling_mode=pooling)], device="cpu")
    made.save(str(tmp_path / "theirs"))
    expected = made.encode(TEXTS)

    checkpoint = load(tmp_path / "theirs", device="cpu")
    encoder = TorchEncoder(checkpoint.model, checkpoint.config.pooling or "mean")
    embedder = LocalEmbedder(encoder, checkpoint.config, checkpoint.tokenizer, checkpoint.path)
    assert embedder.max_tokens == made.max_seq_length == 50
    unit = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(embedder.embed(TEXTS), unit, atol=1e-5)
    save(checkpoint, tmp_path / "ours")
    again = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    assert again.max_seq_length == 50
    np.testing.assert_allclose(again.encode(TEXTS), expected, atol=1e-6)
