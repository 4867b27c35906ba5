"""The Transformer of 2017 in Marian's layout: the numbers of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from seq2seq_parity import assert_weights, check_cached, check_parity, check_saved

from hornbook.checkpoint import load
from hornbook.errors import UnsupportedModel
from seq2seq_models import VOCAB, loaded, marian

APART: dict[str, Any] = {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 41}
CASES: dict[str, dict[str, Any]] = {
    "shared table": {},
    "a table for each language": APART,
    "and a head of its own": APART | {"tie_word_embeddings": False},
    "relu, unscaled, deep encoder": {
        "activation_function": "relu", "scale_embedding": False, "encoder_layers": 4, "decoder_layers": 1,
    },
    "gelu": {"activation_function": "gelu", "encoder_attention_heads": 2, "decoder_attention_heads": 8},
}  # fmt: skip
every = pytest.mark.parametrize("changes", CASES.values(), ids=CASES)


@every
def test_states_and_logits_are_those_of_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    check_parity(marian(**changes), tmp_path)


@every
def test_forty_cached_steps_equal_one_pass(changes: dict[str, Any], tmp_path: Path) -> None:
    check_cached(marian(**changes), tmp_path)


@every
def test_what_is_saved_is_read_by_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    check_saved(marian(**changes), tmp_path)


def rewritten(folder: Path, changes: dict[str, Any]) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | changes))


def old_file(folder: Path) -> dict[str, torch.Tensor]:
    """A folder as of 2020: all copies of the table, and the sinusoids, are in the file."""
    loaded(marian(), folder)
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.encoder.embed_tokens", "model.decoder.embed_tokens", "lm_head"):
        tensors[f"{name}.weight"] = tensors["model.shared.weight"].clone()
    for part in ("encoder", "decoder"):
        table = getattr(marian().model, part).embed_positions.weight
        tensors[f"model.{part}.embed_positions.weight"] = table.clone()
    return tensors


def test_an_old_file_that_holds_copies_is_read(tmp_path: Path) -> None:
    save_file(old_file(tmp_path), tmp_path / "model.safetensors")
    old = {"normalize_before": False, "add_final_layer_norm": False, "static_position_embeddings": True}
    rewritten(tmp_path, old)
    assert_weights(load(tmp_path, device="cpu").model, loaded(marian(), tmp_path / "new").model)


@pytest.mark.parametrize("name", ["model.decoder.embed_tokens.weight", "lm_head.weight"])
def test_a_copy_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    tensors = old_file(tmp_path)
    tensors[name][3, 5] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=f"{name} is not a copy of model.shared.weight"):
        load(tmp_path, device="cpu")


def test_a_head_that_is_said_to_be_tied_and_is_not_is_refused(tmp_path: Path) -> None:
    loaded(marian(**APART), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.decoder.embed_tokens.weight"] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=r"lm_head.weight is not a copy of model.decoder.embed_tokens.weight"):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalize_before": True}, "normalize_before is True"),
        ({"normalize_embedding": True}, "normalize_embedding is True"),
        ({"add_final_layer_norm": True}, "add_final_layer_norm is True"),
        ({"static_position_embeddings": False}, "static_position_embeddings is False"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings false"),
        ({"activation_function": "mish"}, "mish"),
        ({"architectures": ["MarianForCausalLM"]}, "MarianForCausalLM"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    loaded(marian(), tmp_path)
    rewritten(tmp_path, changes)
    with pytest.raises(UnsupportedModel, match=message):
        load(tmp_path, device="cpu")


def test_the_model_without_its_head_is_read(tmp_path: Path) -> None:
    marian().model.save_pretrained(tmp_path)
    model = load(tmp_path, device="cpu").model
    source, target = torch.arange(3, 12)[None], torch.arange(2, VOCAB)[None]
    with torch.no_grad():
        expected = marian().model(input_ids=source, decoder_input_ids=target).last_hidden_state
        found = model(target, memory=model.encode(source), logits="none").hidden
    torch.testing.assert_close(found, expected)
