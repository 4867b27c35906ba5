"""Phi-3 and Phi-4: fused matrices, rotary frequencies that depend on the length, parts of heads."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_parity import SMALL, Case, check_cached, check_gguf, check_parity, check_rewritten, check_saved

SAID = SMALL | {"num_key_value_heads": 2}


def longrope(original: int, pairs: int = 4, **more: object) -> dict[str, object]:
    """``original``: the first context; texts of the checks have 37 and 47 tokens."""
    scaling = {"rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0, 1.5, 2.0, 2.5][:pairs]}
    scaling |= {"long_factor": [1.5, 3.0, 6.0, 12.0][:pairs]}
    return {"original_max_position_embeddings": original, "rope_parameters": scaling | more}


def phi3(name: str, in_gguf: bool = True, **changes: object) -> Case:
    return Case(f"phi 3, {name}", "Phi3ForCausalLM", SAID | changes, in_gguf=in_gguf)


CASES = [
    phi3("grouped"),
    phi3("multi-head, a window", False, num_key_value_heads=6, sliding_window=5),
    phi3("within the first context", False, **longrope(128)),
    phi3("beyond the first context", **longrope(16)),
    phi3("parts of heads, tied", tie_word_embeddings=True, **longrope(16, 3, partial_rotary_factor=0.75)),
    phi3("a temperature of its own", False, **longrope(16, attention_factor=1.3)),
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
