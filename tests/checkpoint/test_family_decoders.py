"""What every decoder owes, whatever its family: the cases stand in the families' own files, beside what is theirs alone;
Llama's, which has nothing of its own, stand here."""

from __future__ import annotations

from pathlib import Path

import pytest
import test_family_falcon
import test_family_gemma
import test_family_gpt
import test_family_mistral
import test_family_mixtral
import test_family_phi
import test_family_phi3
import test_family_qwen
from family_parity import SMALL, Case, check_cached, check_gguf, check_parity, check_rewritten, check_saved

SAID = SMALL | {"num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 4.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}


def llama(name: str, in_gguf: bool = True, **changes: object) -> Case:
    return Case(f"llama, {name}", "LlamaForCausalLM", SAID | changes, in_gguf=in_gguf)


LLAMAS = [
    llama("grouped"),
    llama("multi-query", num_key_value_heads=1),
    llama("multi-head, tied", num_key_value_heads=6, tie_word_embeddings=True),
    llama("wide heads", head_dim=12),
    llama("biases", attention_bias=True, mlp_bias=True),
    llama("linear scaling", rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}),
    llama("llama 3 scaling", rope_parameters=LLAMA3, in_gguf=False),
    llama("another activation", hidden_act="gelu_pytorch_tanh", in_gguf=False),
]
CASES: list[Case] = [
    *LLAMAS, *test_family_mistral.CASES, *test_family_mixtral.CASES, *test_family_falcon.CASES,
    *test_family_gpt.CASES, *test_family_phi.CASES, *test_family_phi3.CASES, *test_family_gemma.CASES,
    *test_family_qwen.CASES,
]  # fmt: skip


@pytest.mark.parametrize("case", [*CASES, *test_family_gpt.HEADLESS], ids=str)
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
