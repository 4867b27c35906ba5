"""The memory plan against torch's own accounting, and against the peak of processes that do what was planned."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from measured_memory import child, foreseen
from torch import Tensor

from hornbook.checkpoint.activations import Pass
from hornbook.checkpoint.anatomy import Anatomy
from hornbook.checkpoint.machine import available
from hornbook.checkpoint.memory import Request, largest, plan
from hornbook.errors import UsageError
from hornbook.kernels.library import library
from hornbook.kernels.training import native
from hornbook.model.cache import ContiguousCache
from hornbook.model.config import Experts, LayerKind, ModelConfig, Rotary
from hornbook.model.transformer import Transformer

ROTARY = Rotary()
LLAMA = ModelConfig(
    vocab_size=1000, layers=4, width=64, heads=4, kv_heads=2, head_width=24, feedforward_width=200, context_length=512,
    pattern=(LayerKind(rotary=ROTARY),),
)  # fmt: skip
OLD = replace(LLAMA, norm="layer", gated=False, kv_heads=4, pattern=(LayerKind(),))
SHAPES = {
    "llama": LLAMA,
    "both norms": replace(LLAMA, norm_placement="both", qk_norm="head"),
    "gpt2": replace(OLD, positions="learned", qkv_bias=True, feedforward_bias=True, activation="gelu_tanh"),
    "bert": replace(OLD, norm_placement="post", causal=False),
    "parallel": replace(OLD, parallel=True, pattern=(LayerKind(rotary=ROTARY),)),
    "parallel, one norm": replace(OLD, parallel=True, shared_norm=True, pattern=(LayerKind(rotary=ROTARY),)),
    "window": replace(LLAMA, pattern=(LayerKind(window=32, rotary=ROTARY), LayerKind(rotary=ROTARY))),
    "alibi": replace(OLD, alibi=1.0),
    "capped": replace(LLAMA, attention_softcap=30.0, logit_softcap=30.0),
    "mixture": replace(LLAMA, experts=Experts(8, 2, 96), pattern=(LayerKind(rotary=ROTARY, sparse=True),)),
    "dropout": replace(LLAMA, dropout=0.1, attention_dropout=0.1),
}


def kept(config: ModelConfig, rows: int, tokens: int, dtype: torch.dtype) -> int:
    """Bytes that torch saves for the backward pass of a model and its loss, each storage once, weights not counted."""
    model = Transformer(config).to(dtype).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(config.vocab_size, (rows, tokens))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = F.cross_entropy(model(ids).logits.float().flatten(0, 1), ids.flatten())
    assert loss.isfinite()
    return sum(found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_activations_are_what_torch_saves(name: str, dtype: torch.dtype) -> None:
    one = Pass(SHAPES[name], 2, 128, dtype.itemsize, fused=dtype == torch.float32 and native() is not None)
    assert one.stack() + one.scores() == pytest.approx(kept(SHAPES[name], 2, 128, dtype), rel=0.02)


SMALL = {
    "vocab_size": 8000, "layers": 6, "width": 384, "heads": 6, "kv_heads": 2, "head_width": 64,
    "feedforward_width": 1024, "context_length": 4096, "tied_head": True,
}  # fmt: skip
MEASURED = [("full", 1, 128, "float32"), ("full", 2, 512, "float32"), ("lora", 2, 512, "float32")]
MEASURED += [("qlora", 4, 128, "float32"), ("full", 1, 128, "bfloat16")]


def close(found: dict[str, Any]) -> bool:
    return bool(found["predicted"] == pytest.approx(found["measured"], rel=0.2))


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured through /proc")
def test_training_steps_take_what_was_planned() -> None:
    jobs = [
        {"job": "train", "config": SMALL, "method": method, "batch": batch, "context": context, "dtype": dtype}
        for method, batch, context, dtype in MEASURED
    ]
    found = dict(zip(MEASURED, child(*jobs), strict=True))
    assert all(map(close, found.values())), found


@pytest.mark.models
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is measured through /proc")
@pytest.mark.parametrize("native", [True, False], ids=["native", "torch"])
def test_answers_take_what_was_planned_on_the_executor_that_was_named(smollm2_path: Path, native: bool) -> None:
    if native and library() is None:
        pytest.skip("there are no native kernels here")
    job = {"job": "answer", "model": str(smollm2_path), "context": 512, "batch": 1, "native": native}
    said, (found,) = foreseen(job), child(job)
    assert said["executor"] == found["executor"]
    assert said["predicted"] == pytest.approx(found["measured"], rel=0.1), (said, found)


def test_the_cache_is_counted_to_the_byte() -> None:
    cache = ContiguousCache(LLAMA, 3, 200)
    held = sum(block.nbytes for block in (*cache._keys, *cache._values))
    assert Anatomy.of(LLAMA).cache_bytes(200, 4, rows=3) == held


def test_parts_add_up_and_a_mixture_says_what_a_token_passes() -> None:
    config = SHAPES["mixture"]
    anatomy = Anatomy.of(config)
    assert anatomy.parameters.total == sum(p.numel() for p in Transformer(config).parameters())
    experts = config.layers * 3 * 8 * 96 * 64
    assert anatomy.parameters.total - anatomy.parameters.active == experts * 6 // 8
    assert anatomy.weight_bytes("bfloat16") == 2 * anatomy.parameters.total
    assert anatomy.weight_bytes("Q4_K_M") is None  # of no family, so GGUF has no name for it


def test_lighter_ways_to_train_and_smaller_optimisers_take_less() -> None:
    anatomy = Anatomy.of(replace(LLAMA, width=512, feedforward_width=2048))
    full, lora, qlora = (plan(Request(anatomy, 64, method=way)).peak for way in ("full", "lora", "qlora"))
    assert full > lora > qlora
    states = [
        max(m.optimiser for m in plan(Request(anatomy, 64, method="full", optimizer=name)).moments)
        for name in ("adamw", "adamw8bit", "adafactor")
    ]
    assert states[0] > 3 * states[1] > 3 * states[2]


def test_the_longest_context_that_fits_fits_and_the_next_does_not() -> None:
    anatomy = Anatomy.of(LLAMA)
    free = plan(Request(anatomy, 300, 4, method="full")).peak

    def fits(context: int) -> bool:
        return plan(Request(anatomy, context, 4, method="full")).peak <= free

    assert largest(fits, 512) == 300
    assert largest(lambda n: False, 512) == 0


@pytest.mark.parametrize(
    "wrong",
    [{"context": 513}, {"context": 0}, {"batch": 0}, {"method": "half"}, {"optimizer": "sgd"}, {"dtype": "int8"}],
)
def test_what_cannot_be_planned_is_said(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Request(**({"anatomy": Anatomy.of(LLAMA), "context": 16} | wrong))


def test_this_machine_has_memory_to_give() -> None:
    free = available()
    assert free is None or free > 10_000_000
