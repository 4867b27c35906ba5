"""Gemma 1, 2 and 3: the numbers of transformers and of llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_parity import SMALL, Case, check_cached, check_gguf, check_parity, check_rewritten, check_saved

SAID = SMALL | {"num_key_value_heads": 2, "head_dim": 12, "pad_token_id": 0}
WINDOWS = SAID | {"head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8, "num_hidden_layers": 4}
SCALED = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
TYPES = [f"{kind}_attention" for kind in ("full", "sliding", "sliding", "full", "sliding", "full", "full")]


def gemma(name: str, generation: int, in_gguf: bool = True, **changes: object) -> Case:
    said = {1: SAID, 2: WINDOWS, 3: WINDOWS | {"num_hidden_layers": 8}}[generation]
    model = f"Gemma{generation if generation > 1 else ''}ForCausalLM"
    return Case(f"gemma {generation}, {name}", model, said | changes, in_gguf=in_gguf)


CASES = [
    gemma("grouped", 1),
    gemma("multi-query, own head, biases", 1, in_gguf=False, num_key_value_heads=1, tie_word_embeddings=False,
          attention_bias=True),
    gemma("grouped", 2),
    gemma("scores by another width", 2, in_gguf=False, query_pre_attn_scalar=12, num_key_value_heads=6),
    gemma("tighter caps, layers of its own", 2, in_gguf=False, attn_logit_softcapping=2.0, final_logit_softcapping=5.0,
          layer_types=TYPES[:4]),
    gemma("no caps", 2, in_gguf=False, attn_logit_softcapping=None, final_logit_softcapping=None),
    gemma("grouped", 3),
    gemma("one key head, soft-capped logits", 3, num_key_value_heads=1, final_logit_softcapping=5.0),
    gemma("layers of its own", 3, in_gguf=False, num_hidden_layers=7, layer_types=TYPES),
    gemma("scaled global layers, own head", 3, tie_word_embeddings=False, rope_parameters=SCALED),
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
