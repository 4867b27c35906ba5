"""Qwen 2 and 3, dense and mixtures: the numbers of transformers and of llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_parity import SMALL, Case, check_cached, check_gguf, check_parity, check_rewritten, check_saved

SAID = SMALL | {"num_key_value_heads": 2}
WINDOWED = {"use_sliding_window": True, "sliding_window": 5}
MIXTURE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
SHARED = MIXTURE | {"shared_expert_intermediate_size": 40}
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}


def qwen(model: str, name: str, in_gguf: bool = True, **changes: object) -> Case:
    return Case(f"{model}, {name}", f"{model}ForCausalLM", SAID | changes, in_gguf=in_gguf)


CASES = [
    qwen("Qwen2", "grouped"),
    qwen("Qwen2", "tied, multi-query", tie_word_embeddings=True, num_key_value_heads=1),
    qwen("Qwen2", "stretched by YaRN", rope_parameters=YARN),
    qwen("Qwen2", "windows in the upper layers", False, max_window_layers=1, **WINDOWED),
    qwen("Qwen2", "a window that is not used", sliding_window=5, max_window_layers=1),
    qwen("Qwen3", "wide heads", head_dim=12),
    qwen("Qwen3", "biases, windows of its own", False, head_dim=8, attention_bias=True, **WINDOWED,
         layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    qwen("Qwen2Moe", "shared expert", **SHARED),
    qwen("Qwen2Moe", "dense layers, weights made to sum to one, windows, no biases", False, norm_topk_prob=True,
         num_hidden_layers=4, decoder_sparse_step=2, mlp_only_layers=[3], max_window_layers=3, qkv_bias=False,
         **SHARED, **WINDOWED),
    qwen("Qwen3Moe", "weights made to sum to one", head_dim=12, norm_topk_prob=True, **MIXTURE),
    qwen("Qwen3Moe", "weights as they are, a window, a dense layer", False, mlp_only_layers=[1], head_dim=8,
         **MIXTURE, **WINDOWED),
]  # fmt: skip


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
