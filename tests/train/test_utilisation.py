"""The operations of a training are PaLM's count, and devices have the peaks of their data sheets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hornbook.checkpoint.loading import empty
from hornbook.model.config import Experts, LayerKind, ModelConfig, Rotary
from hornbook.train.utilisation import operations, peak, utilisation

GPT2 = ModelConfig(
    vocab_size=50257, layers=12, width=768, heads=12, kv_heads=12, head_width=64, feedforward_width=3072,
    context_length=1024, positions="learned", norm="layer", gated=False, activation="gelu_tanh", qkv_bias=True,
    attention_output_bias=True, feedforward_bias=True, tied_head=True,
)  # fmt: skip


def test_gpt2_takes_what_is_known_of_it() -> None:
    """124,439,808 weights, of which 786,432 are positions; 12 * 12 * 768 * 1,024 for attention."""
    expected = 6 * (124_439_808 - 786_432) + 12 * 12 * 768 * 1024
    model = empty(GPT2)
    assert operations(model, 1024) == expected
    assert utilisation(model, 1024, 500_000, 989.4e12) == pytest.approx(500_000 * expected / 989.4e12)


def test_what_is_only_looked_up_or_passed_over_is_not_counted() -> None:
    small = ModelConfig(
        vocab_size=100, layers=2, width=8, heads=2, kv_heads=1, head_width=4, feedforward_width=16, context_length=64,
        pattern=(LayerKind(4, Rotary()), LayerKind(None, Rotary())), tied_head=False,
    )  # fmt: skip
    weights = sum(weight.numel() for weight in empty(small).parameters())
    assert operations(empty(small), 10) == 6 * (weights - 800) + 12 * (4 + 10) * 8
    sparse = replace(small, experts=Experts(4, 1, 16), pattern=(LayerKind(rotary=Rotary(), sparse=True),))
    one = sum(weight.numel() for weight in empty(sparse).parameters()) - 800 - 2 * 3 * 3 * 16 * 8
    assert operations(empty(sparse), 10) == 6 * one + 12 * 20 * 8
    shared = replace(small, layer_groups=1, pattern=(LayerKind(rotary=Rotary()),))
    assert operations(empty(shared), 10) == operations(empty(replace(shared, layer_groups=None)), 10)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("NVIDIA H200", 989.4e12), ("NVIDIA H100 PCIe", 756.5e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("a toaster", None)],
)
def test_devices_are_known_by_their_names(name: str, expected: float | None) -> None:
    assert peak(name) == expected
