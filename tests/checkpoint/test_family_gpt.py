"""GPT, GPT-2 and GPT-3's shape: the numbers of transformers and of llama.cpp."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from family_parity import (
    Case,
    batch,
    check_labels,
    loaded,
)

from hornbook.checkpoint import load
from hornbook.checkpoint.families import gpt2, gpt3
from hornbook.checkpoint.saving import Shapes
from hornbook.errors import ModelFileError, UnsupportedModel
from hornbook.model.attention import see
from hornbook.model.transformer import Transformer

SIZES = {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 64}
IDS = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
NEO = {"vocab_size": 97, "hidden_size": 48, "num_layers": 4, "num_heads": 6, "max_position_embeddings": 64}
NEO |= {"window_size": 5, "attention_types": [[["global", "local"], 2]]} | IDS


def openai(name: str, model: str = "OpenAIGPTLMHeadModel", **changes: object) -> Case:
    return Case(f"gpt, {name}", model, SIZES | IDS | changes, in_gguf=False)


def second(name: str, model: str = "GPT2LMHeadModel", in_gguf: bool = True, **changes: object) -> Case:
    return Case(f"gpt2, {name}", model, SIZES | IDS | changes, in_gguf=in_gguf)


def neo(name: str, model: str = "GPTNeoForCausalLM", **changes: object) -> Case:
    return Case(f"gpt_neo, {name}", model, NEO | changes, in_gguf=False)


CASES = [
    openai("as published"),
    openai("relu, untied", afn="relu", tie_word_embeddings=False),
    second("as published"),
    second("untied, narrow", n_inner=72, tie_word_embeddings=False),
    second("unscaled, relu", in_gguf=False, scale_attn_weights=False, activation_function="relu"),
    neo("by turns"),
    neo("dense, then banded", attention_types=[[["global"], 1], [["local"], 3]], intermediate_size=72),
]
HEADLESS = [openai("states", "OpenAIGPTModel"), second("states", "GPT2Model"), neo("states", "GPTNeoModel")]
SCORED = [
    openai("labels", "OpenAIGPTForSequenceClassification", num_labels=3, pad_token_id=0),
    second("labels", "GPT2ForSequenceClassification", num_labels=3, pad_token_id=0),
    neo("labels", "GPTNeoForSequenceClassification", num_labels=3, pad_token_id=0),
]


@pytest.mark.parametrize("case", SCORED, ids=str)
def test_labels_are_scored_by_the_last_token(case: Case, tmp_path: Path) -> None:
    check_labels(case, tmp_path)


def test_the_file_of_2019_has_no_prefix_and_holds_its_masks(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    expected = loaded(CASES[2], tmp_path).model
    old = {name.removeprefix("transformer."): x for name, x in load_file(tmp_path / "model.safetensors").items()}
    for i in range(3):
        old[f"h.{i}.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
        old[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(old, tmp_path / "model.safetensors")
    found = load(tmp_path, device="cpu").model
    ids, _ = batch(97)
    with torch.no_grad():
        assert torch.equal(found(ids).logits, expected(ids).logits)


@pytest.mark.parametrize("key", ["scale_attn_by_inverse_layer_idx", "add_cross_attention"])
def test_what_is_not_computed_is_refused_by_name(key: str) -> None:
    with pytest.raises(UnsupportedModel, match=key):
        gpt2.HUGGING_FACE.read_config(SIZES | {key: True}, Shapes({}))


def test_types_for_another_number_of_layers_are_refused() -> None:
    with pytest.raises(ModelFileError, match="for 24 layers, the model has 4"):
        gpt3.HUGGING_FACE.read_config({k: v for k, v in NEO.items() if k != "attention_types"}, Shapes({}))


# ------------------------------------------------------------------------------------------------- GPT-3 from scratch

# arXiv 2005.14165, table D.1, in millions
PARAMETERS = {"125m": 125, "350m": 356, "760m": 760, "1.3b": 1320, "2.7b": 2650, "6.7b": 6660, "13b": 12850}
PARAMETERS["175b"] = 174600


def test_the_banded_mask_is_its_definition() -> None:
    """Token i of a banded layer sees token j where 0 <= i - j < window; a dense layer sees all before it."""
    dense, banded = gpt3.sized("125m", window=5).pattern
    place = torch.arange(12)[None]
    for i in range(12):
        for j in range(12):
            assert see(place, place, banded.window, True)[0, i, j] == (0 <= i - j < 5)
            assert see(place, place, dense.window, True)[0, i, j] == (j <= i)


@pytest.mark.parametrize("size", PARAMETERS)
def test_each_size_has_the_paper_s_number_of_parameters_and_can_be_saved(size: str) -> None:
    config = gpt3.sized(size)
    with torch.device("meta"):
        one, two = (sum(p.numel() for p in Transformer(replace(config, layers=n)).parameters()) for n in (2, 4))
    total = one + (two - one) // 2 * (config.layers - 2)
    assert total / 1e6 == pytest.approx(PARAMETERS[size], rel=5e-3)
    raw = gpt3.HUGGING_FACE.write_config(config, Shapes({}))
    assert gpt3.HUGGING_FACE.read_config(json.loads(json.dumps(raw)), Shapes({})) == config
