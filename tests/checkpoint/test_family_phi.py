"""Phi-2, GPT-NeoX and GPT-J, which turn a part of each head: the numbers of transformers and of llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from family_parity import (
    SMALL,
    Case,
    batch,
    check_labels,
    loaded,
)
from reference_models import CPU, Held, file_tensors

from hornbook.checkpoint import load
from hornbook.checkpoint.families import phi
from hornbook.checkpoint.loading import build
from hornbook.checkpoint.saving import Shapes
from hornbook.errors import UnsupportedModel

SAID = SMALL | {"max_position_embeddings": 64}
GPTJ = {"vocab_size": 97, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 64, "rotary_dim": 4}
GPTJ |= {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}


def microsoft(name: str, in_gguf: bool = True, **changes: object) -> Case:
    return Case(f"phi, {name}", "PhiForCausalLM", SAID | changes, in_gguf=in_gguf)


def neox(name: str, in_gguf: bool = True, **changes: object) -> Case:
    return Case(f"gpt_neox, {name}", "GPTNeoXForCausalLM", SAID | changes, in_gguf=in_gguf)


def gptj(name: str, **changes: object) -> Case:
    return Case(f"gptj, {name}", "GPTJForCausalLM", GPTJ | changes, in_gguf=False)


CASES = [
    microsoft("as published"),
    microsoft("grouped, all turned", num_key_value_heads=2, rope_parameters={"partial_rotary_factor": 1.0}),
    microsoft("tied", in_gguf=False, tie_word_embeddings=True),
    neox("as published"),
    neox("sequential", use_parallel_residual=False, rotary_pct=0.5, rotary_emb_base=500),
    neox(
        "no bias, tied", in_gguf=False, attention_bias=False, tie_word_embeddings=True, hidden_act="gelu_pytorch_tanh"
    ),
    gptj("as published"),
    gptj("all turned", rotary_dim=8, n_inner=72),
]
LABELS = {"num_labels": 3, "pad_token_id": 0}
SCORED = [
    Case("phi, labels", "PhiForSequenceClassification", SAID | LABELS),
    Case("phi, labels of tokens", "PhiForTokenClassification", SAID | LABELS),
    Case("gpt_neox, labels", "GPTNeoXForSequenceClassification", SAID | LABELS),
    Case("gptj, labels", "GPTJForSequenceClassification", GPTJ | LABELS),
]


@pytest.mark.parametrize("case", SCORED, ids=str)
def test_labels_are_scored_as_by_transformers(case: Case, tmp_path: Path) -> None:
    check_labels(case, tmp_path)


def test_the_first_gguf_files_of_phi_2_have_one_matrix_for_queries_keys_and_values(tmp_path: Path) -> None:
    checkpoint = loaded(CASES[0], tmp_path)
    tensors = file_tensors(checkpoint.model, phi.GGUF)
    for i in range(3):
        for kind in ("weight", "bias"):
            tensors[f"blk.{i}.attn_qkv.{kind}"] = torch.cat([tensors.pop(f"blk.{i}.attn_{x}.{kind}") for x in "qkv"])
    found = build(checkpoint.config, phi.GGUF, Held(tensors), torch.float32, CPU)
    ids, _ = batch(97)
    with torch.no_grad():
        assert torch.equal(found(ids).logits, checkpoint.model(ids).logits)


def test_pythia_s_own_files_have_their_older_names(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    expected = loaded(neox("sequential", use_parallel_residual=False, rotary_pct=0.5, rotary_emb_base=500), tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    del raw["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(raw | {"rotary_pct": 0.5, "rotary_emb_base": 500}))
    old = {name.replace("lm_head", "embed_out"): x for name, x in load_file(tmp_path / "model.safetensors").items()}
    old |= {f"gpt_neox.layers.{i}.attention.bias": torch.ones(1, 1, 64, 64).tril() for i in range(3)}
    old |= {f"gpt_neox.layers.{i}.attention.rotary_emb.inv_freq": torch.ones(2) for i in range(3)}
    save_file(old, tmp_path / "model.safetensors")
    found = load(tmp_path, device="cpu")
    assert found.config == expected.config
    ids, _ = batch(97)
    with torch.no_grad():
        assert torch.equal(found.model(ids).logits, expected.model(ids).logits)


def test_normalised_queries_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match="qk_layernorm"):
        phi.HUGGING_FACE.read_config(SAID | {"qk_layernorm": True}, Shapes({}))
