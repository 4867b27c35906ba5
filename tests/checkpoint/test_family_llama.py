"""Llama, and Mistral's window: the numbers of transformers and of llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_parity import SMALL, Case, check_cached, check_gguf, check_parity, check_rewritten, check_saved

SAID = SMALL | {"num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def llama(name: str, in_gguf: bool = True, **changes: object) -> Case:
    return Case(f"llama, {name}", "LlamaForCausalLM", SAID | changes, in_gguf=in_gguf)


CASES = [
    llama("grouped"),
    llama("multi-query", num_key_value_heads=1),
    llama("multi-head, tied", num_key_value_heads=6, tie_word_embeddings=True),
    llama("wide heads", head_dim=12),
    llama("biases", attention_bias=True, mlp_bias=True),
    llama("linear scaling", rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}),
    llama("llama 3 scaling", rope_parameters=LLAMA3, in_gguf=False),
    llama("another activation", hidden_act="gelu_pytorch_tanh", in_gguf=False),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_states_and_logits_are_those_of_transformers(case: Case, tmp_path: Path) -> None:
    check_parity(case, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forty_cached_steps_equal_one_pass(case: Case, tmp_path: Path) -> None:
    check_cached(case, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_saved_is_read_by_transformers(case: Case, tmp_path: Path) -> None:
    check_saved(case, tmp_path)
    check_rewritten(case, tmp_path / "again")


@pytest.mark.parametrize("case", [case for case in CASES if case.in_gguf], ids=str)
def test_what_is_written_as_gguf_is_read_by_llama_cpp(case: Case, tmp_path: Path) -> None:
    check_gguf(case, tmp_path)
