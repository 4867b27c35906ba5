"""Weights in few bits learn as well as in many, because updates are added in float32; float16 loses no step."""

from __future__ import annotations

from itertools import repeat
from typing import Any

import pytest
import torch
from torch import nn

from hornbook.errors import TrainingError, UsageError
from hornbook.model.config import LayerKind, ModelConfig, Rotary
from hornbook.model.transformer import Transformer
from hornbook.train import optim
from hornbook.train.batch import Batch
from hornbook.train.initialise import initialise
from hornbook.train.loop import Run, train
from hornbook.train.losses import causal_lm
from hornbook.train.precision import PRECISIONS, Copied, Precision, Scaled, make

CONFIG = ModelConfig(
    vocab_size=31, layers=2, width=32, heads=2, kv_heads=1, head_width=16, feedforward_width=48, context_length=32,
    pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip


def rows(seed: int = 0) -> Batch:
    ids = torch.randint(31, (4, 16), generator=torch.Generator().manual_seed(seed))
    return Batch(ids, ids)


def learn(precision: Precision, steps: int = 25, **more: Any) -> tuple[Transformer, Run]:
    model = initialise(Transformer(CONFIG), generator=torch.Generator().manual_seed(0))
    optimizer = optim.make("adamw", precision.take(model.named_parameters()), rate=3e-3)
    batches = [rows(step % 2) for step in range(2 * steps)]
    return model, train(model, batches, causal_lm(), optimizer, steps=steps, precision=precision, **more)


@pytest.mark.parametrize("name", [name for name in PRECISIONS if name != "float32"])
def test_every_precision_learns_as_float32_does(name: str) -> None:
    exact, other = learn(make("float32"))[1], learn(make(name), accumulate=1)[1]
    assert exact.steps[-1].loss < 0.6 * exact.steps[0].loss
    assert other.steps[0].loss == pytest.approx(exact.steps[0].loss, rel=5e-3)
    assert other.steps[-1].loss == pytest.approx(exact.steps[-1].loss, rel=0.06)
    assert other.steps[0].gradient_norm == pytest.approx(exact.steps[0].gradient_norm, rel=2e-2)


def test_updates_too_small_for_bfloat16_are_not_lost() -> None:
    def moved(precision: Precision, weight: nn.Parameter) -> float:
        optimizer = torch.optim.SGD(precision.take([("weight", weight)]).values(), lr=1e-3)
        for _ in range(100):
            optimizer.zero_grad()
            precision.backward(weight.float().sum())
            optimizer.step()
            precision.settle()
        return 1.0 - weight.item()

    assert moved(make("float32"), nn.Parameter(torch.ones(1, dtype=torch.bfloat16))) == 0.0, "1 - 0.001 is 1 there"
    weight = nn.Parameter(torch.ones(1))
    assert moved(Copied(), weight) == pytest.approx(0.1, abs=4e-3)
    assert weight.dtype == torch.bfloat16 and weight.grad is None, "its gradient went to the copy"


def test_gradients_of_many_micro_batches_are_summed_in_float32() -> None:
    """In bfloat16, 256 + 1 is 256."""
    weight, precision = nn.Parameter(torch.zeros(1)), Copied()
    copy = precision.take([("weight", weight)])["weight"]
    precision.backward(256 * weight.sum())
    for _ in range(10):
        precision.backward(weight.sum())
    assert copy.grad is not None and copy.grad.dtype == torch.float32 and copy.grad.item() == 266.0


def test_a_gradient_that_overflows_float16_costs_no_step() -> None:
    precision = Scaled(scale=2.0**40, patience=10)
    model, done = learn(precision, steps=25)
    _, steady = learn(make("float16"), steps=25)
    assert len(done.steps) == 25 and all(step.gradient_norm < 100 for step in done.steps)
    assert 2.0**8 < precision.scale < 2.0**40
    for ours, theirs in zip(done.steps, steady.steps, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=2e-2)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_the_scale_grows_when_nothing_overflows_and_is_kept_in_checkpoints() -> None:
    precision = Scaled(scale=4.0, patience=3)
    assert [precision.accepts(1.0) for _ in range(4)] == [True] * 4
    assert precision.state() == {"scale": 8.0, "steady": 1}
    assert not precision.accepts(float("inf")) and precision.state() == {"scale": 4.0, "steady": 0}
    again = Scaled(patience=3)
    again.restore({"scale": 4.0, "steady": 2})
    assert again.accepts(1.0) and again.scale == 8.0


def test_a_gradient_that_is_no_number_for_real_ends_the_run_in_float16_too() -> None:
    precision = Scaled(scale=16.0)
    model = initialise(Transformer(CONFIG), generator=torch.Generator().manual_seed(0))
    optimizer = optim.make("adamw", precision.take(model.named_parameters()), rate=3e-3)
    model.embed.tokens.weight.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(TrainingError, match="step 1 has a loss of 3.* and a gradient of norm nan"):
        train(model, repeat(rows()), causal_lm(), optimizer, steps=2, precision=precision)


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(UsageError, match="no precision 'fp8'") as error:
        make("fp8")
    assert "bfloat16-autocast" in error.value.remedy
