"""Mixtral: the numbers of transformers and of llama.cpp, and the loss that keeps the experts equally busy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family_parity import (
    SMALL,
    Case,
    batch,
    loaded,
    reference_of,
    relative,
)
from reference_models import CPU, Held, file_tensors

from hornbook.checkpoint import families
from hornbook.checkpoint.loading import build
from hornbook.model.feedforward import load_balance

SAID = SMALL | {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 5}


def mixtral(name: str, in_gguf: bool = True, **changes: object) -> Case:
    return Case(f"mixtral, {name}", "MixtralForCausalLM", SAID | changes, in_gguf=in_gguf)


CASES = [
    mixtral("two of five"),
    mixtral("one of three, a window", False, num_local_experts=3, num_experts_per_tok=1, sliding_window=6),
    mixtral("all four, multi-head, tied", num_local_experts=4, num_experts_per_tok=4, num_key_value_heads=6,
            tie_word_embeddings=True),
]  # fmt: skip


def test_experts_each_in_a_tensor_of_its_own_as_in_the_first_gguf_files(tmp_path: Path) -> None:
    model, family = loaded(CASES[0], tmp_path).model, families.GGUF["llama"]
    tensors = file_tensors(model, family)
    for name in [name for name in tensors if "_exps" in name]:
        for expert, weight in enumerate(tensors.pop(name)):
            tensors[name.replace("_exps", f".{expert}")] = weight
    again = build(model.config, family, Held(tensors), torch.float32, CPU)
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


@pytest.mark.parametrize("padded", [False, True])
def test_the_balancing_loss_is_that_of_transformers(tmp_path: Path, padded: bool) -> None:
    reference, model = reference_of(CASES[0]), loaded(CASES[0], tmp_path).model
    ids, mask = batch(97)
    # right padding only: what the reference's loss counts, it sees at its own positions
    ids, mask = ids[[0, 1, 3]], mask[[0, 1, 3]]
    said = {"attention_mask": mask.long()} if padded else {}
    expected = reference(input_ids=ids, output_router_logits=True, **said).aux_loss
    routing: list[torch.Tensor] = []
    model(ids, mask=mask if padded else None, routing=routing)
    assert model.config.experts is not None
    found = load_balance(routing, model.config.experts, mask if padded else None)
    assert len(routing) == 3 and relative(found, expected) < 1e-6
    assert found > 2.01, "perfectly balanced: a blind test"
