"""Qwen 2 and 3, dense and mixtures: the numbers of transformers and of llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from family_parity import (
    SMALL,
    Case,
    loaded,
    reference_of,
)
from reference_models import CPU, Held, file_tensors

from hornbook.checkpoint import families
from hornbook.checkpoint.loading import Checkpoint, build
from hornbook.checkpoint.saving import Shapes
from hornbook.errors import ModelFileError, UnsupportedModel

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


@pytest.mark.parametrize(
    ("case", "said"),
    [(3, "sliding_window"), (6, "sliding_window"), (8, "sliding_window"), (10, "sliding_window")],
)
def test_windows_are_not_written_where_they_would_be_passed_over(case: int, said: str, tmp_path: Path) -> None:
    refuse_in_gguf(loaded(CASES[case], tmp_path), said)


@pytest.mark.parametrize(
    ("model", "changes", "said"),
    [
        ("Qwen2Moe", SHARED | {"norm_topk_prob": True}, "has no words for its experts"),
        ("Qwen3Moe", MIXTURE | {"norm_topk_prob": False}, "has no words for its experts"),
        ("Qwen3Moe", MIXTURE | {"norm_topk_prob": True, "mlp_only_layers": [1]}, "its layers differ"),
        ("Qwen2", {"hidden_act": "gelu"}, "has no words for its activation"),
        ("Qwen3", {"attention_bias": True}, "has no words for its qkv_bias"),
    ],
)
def test_what_gguf_cannot_say_is_not_written(model: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    refuse_in_gguf(loaded(qwen(model, "refused", **changes), tmp_path), said)


def refuse_in_gguf(checkpoint: Checkpoint, said: str) -> None:
    family = families.GGUF[checkpoint.family.twin_of(checkpoint.config) or ""]
    with pytest.raises(UnsupportedModel, match=f"cannot be written as {family.name}.*{said}"):
        family.write_config(checkpoint.config, Shapes({"token_embd.weight": torch.empty(97, 48, device="meta")}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer_types": ["full_attention"] * 4}, "layer_types has 4 entries .* for 3 layers"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0"),
        ({"mlp_only_layers": ["1"]}, "mlp_only_layers"),
        ({"num_experts_per_tok": 9}, "9 of 5 experts"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1]}, "rope_parameters": None}, "'mrope' is not known"),
    ],
)
def test_a_configuration_that_contradicts_itself_is_named(changes: dict[str, object], said: str) -> None:
    raw = reference_of(CASES[7]).config.to_dict() | changes
    with pytest.raises((ModelFileError, UnsupportedModel), match=said):
        families.HUGGING_FACE["qwen2_moe"].read_config(raw, Shapes({}))


def test_the_gate_of_the_shared_expert_is_a_vector_or_a_matrix_of_one_row(tmp_path: Path) -> None:
    """The converters of 2024 wrote one, those before and since the other."""
    model, family = loaded(CASES[7], tmp_path).model, families.GGUF["qwen2moe"]
    for shape in ((48,), (1, 48)):
        tensors = file_tensors(model, family)
        for name in [name for name in tensors if "inp_shexp" in name]:
            tensors[name] = tensors[name].reshape(shape)
        again = build(model.config, family, Held(tensors), torch.float32, CPU)
        assert torch.equal(again.state_dict()["blocks.0.feedforward.shared_gate.weight"],
                           model.state_dict()["blocks.0.feedforward.shared_gate.weight"])  # fmt: skip
