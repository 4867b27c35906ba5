"""What is measured and averaged while a model learns leaves no trace in what it learns."""

from __future__ import annotations

import weakref
from dataclasses import replace
from itertools import repeat
from typing import Any

import pytest
import torch

from hornbook.errors import TrainingError
from hornbook.model.config import Experts, LayerKind, ModelConfig, Rotary
from hornbook.model.transformer import Transformer
from hornbook.train import memory
from hornbook.train.average import Average, MovingAverage
from hornbook.train.batch import IGNORED, Batch, pad
from hornbook.train.blocks import compiled, recomputed
from hornbook.train.evaluate import evaluate
from hornbook.train.initialise import initialise
from hornbook.train.loop import Step, train
from hornbook.train.losses import Loss, causal_lm
from hornbook.train.precision import Copied

CONFIG = ModelConfig(
    vocab_size=31, layers=3, width=16, heads=2, kv_heads=1, head_width=8, feedforward_width=24, context_length=32,
    dropout=0.2, pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip


def made(config: ModelConfig = CONFIG) -> Transformer:
    return initialise(Transformer(config), generator=torch.Generator().manual_seed(0), std=0.3)


def rows(*lengths: int) -> Batch:
    draw = torch.Generator().manual_seed(sum(lengths))
    texts = [torch.randint(31, (length,), generator=draw).tolist() for length in lengths]
    return Batch(pad(texts, 0), pad(texts, IGNORED), mask=pad([[1] * length for length in lengths], 0).bool())


def step(number: int) -> Step:
    return Step(number, 0.0, {}, 1, 0.0, 0.0, 0.0)


# ------------------------------------------------------------------------------------------------------- held-out data


def test_the_held_out_loss_is_a_mean_over_labels_whatever_the_batches() -> None:
    model = made().train()
    before = torch.get_rng_state()
    together = evaluate(model, [rows(3, 17, 12)], causal_lm())
    short, long = rows(3, 17, 12), rows(3, 17, 12)
    apart = [
        replace(short, ids=short.ids[:1], labels=short.labels[:1], mask=short.mask[:1]),  # type: ignore[index]
        replace(long, ids=long.ids[1:], labels=long.labels[1:], mask=long.mask[1:]),  # type: ignore[index]
        replace(rows(5), labels=torch.full((1, 5), IGNORED)),  # one without a label
    ]
    found = evaluate(model, apart, causal_lm())
    assert found.labels == together.labels == 2 + 16 + 11
    assert found.loss == pytest.approx(together.loss, abs=1e-6)
    with torch.no_grad():
        assert together.loss == pytest.approx(causal_lm()(model.eval(), rows(3, 17, 12))[0].item(), abs=1e-6)
    assert torch.equal(torch.get_rng_state(), before), "nothing was drawn"
    assert evaluate(model.train(), apart, causal_lm()).loss == found.loss, "nothing is dropped out"
    assert model.training and all(p.grad is None for p in model.parameters())
    with pytest.raises(TrainingError, match="held-out data has no label for the loss 'next token'"):
        evaluate(model, apart[2:], causal_lm())
    with pytest.raises(TrainingError, match="held-out data is empty"):
        evaluate(model, [], causal_lm())


# ------------------------------------------------------------------------------------------------------------- means


def test_a_moving_average_is_its_recursion_and_leaves_the_weights_alone() -> None:
    model = made()
    weights = dict(model.named_parameters())
    average = MovingAverage(weights, decay=0.5)
    expected = {name: weight.detach().clone() for name, weight in weights.items()}
    for number in (1, 2, 3, 4, 5, 50):
        with torch.no_grad():
            for weight in weights.values():
                weight += 0.1 * number
        average(step(number))
        decay = min(0.5, (1 + number) / (10 + number))
        expected = {name: decay * expected[name] + (1 - decay) * weight for name, weight in weights.items()}
    own = {name: weight.detach().clone() for name, weight in weights.items()}
    with average.in_place():
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-5)
    assert all(torch.equal(weight, own[name]) for name, weight in weights.items())
    average.settle()
    torch.testing.assert_close(weights["norm.weight"], expected["norm.weight"], rtol=0, atol=1e-5)


def test_the_mean_of_float32_copies_reaches_the_weights_that_the_model_reads() -> None:
    model, precision = made(), Copied()
    copies = precision.take(model.named_parameters())
    average = MovingAverage(copies, decay=0.9, changed=precision.settle)
    with torch.no_grad():
        copies["norm.weight"] += 1.0
    precision.settle()
    average(step(1))
    assert model.norm is not None
    with average.in_place():
        assert model.norm.weight[0].item() == pytest.approx(1 + 9 / 11, abs=1e-2)
    assert model.norm.weight[0].item() == 2.0


def test_a_mean_of_snapshots_goes_on_from_what_a_checkpoint_kept() -> None:
    models = [made(), made()]
    through, before = (Average(model, last=7, snapshots=3, apart=2) for model in models)
    after = Average(models[1], last=7, snapshots=3, apart=2)
    for number in range(1, 8):
        for model in models:
            with torch.no_grad():
                model.norm.weight += number  # type: ignore[union-attr]
        through(step(number))
        if number == 4:
            after.restore(before.tensors())
        (before if number < 4 else after)(step(number))
    through.settle()
    after.settle()
    assert through.taken == after.taken == 3
    assert torch.equal(models[0].norm.weight, models[1].norm.weight)  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------------------- memory


class Watched:
    """A loss that looks whether the loss of the micro-batch before is still there."""

    def __init__(self) -> None:
        self.inner, self.seen, self.alive = causal_lm(), 0, 0
        self._last: weakref.ref[Any] | None = None

    def count(self, batch: Batch) -> Any:
        return self.inner.count(batch)

    def __call__(self, model: Transformer, batch: Batch, **more: Any) -> Any:
        self.seen += 1
        self.alive += self._last is not None and self._last() is not None
        value, parts = self.inner(model, batch, **more)
        self._last = weakref.ref(value)
        return value, parts


def test_nothing_of_a_micro_batch_is_held_when_the_next_one_begins() -> None:
    model, watched = made(), Watched()
    train(model, repeat(rows(9)), watched, torch.optim.SGD(model.parameters(), lr=0.1), steps=2, accumulate=3)
    assert (watched.seen, watched.alive) == (6, 0)


class Raises:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def count(self, batch: Batch) -> dict[str, int]:
        return {"next token": 5}

    def __call__(self, *given: Any, **more: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
        ),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_says_what_takes_it_and_what_to_lower(error: BaseException) -> None:
    model = made()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, repeat(rows(9)), causal_lm(), optimizer, steps=1)
    before = [p.detach().clone() for p in model.parameters()]
    loss: Loss = Raises(error)
    with pytest.raises(TrainingError) as raised:
        train(model, repeat(rows(9, 5)), loss, optimizer, steps=3, start=1)
    assert "out of memory in step 2, with a micro-batch of 2 x 9 tokens; trained weights take 0 MB" in raised.value.what
    for remedy in ("below 18, say 9", "activation_checkpointing", "adamw8bit", "lora"):
        assert remedy in raised.value.remedy
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(model, repeat(rows(9)), Raises(RuntimeError("mat1 and mat2 shapes")), optimizer, steps=3)


def test_the_peak_of_memory_grows_with_what_is_held() -> None:
    before = memory.peak(torch.device("cpu"))
    held = torch.ones(before // 4 + (50 << 20) // 4)
    assert memory.peak(torch.device("cpu")) >= before + (40 << 20)
    assert held[0] == 1


# ------------------------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, pattern=(LayerKind(), LayerKind(sparse=True)), experts=Experts(3, 2, 8, shared_width=8)),
        replace(CONFIG, encoder=replace(CONFIG, causal=False, language_head=False), shared_tokens=True),
        replace(CONFIG, pattern=(LayerKind(), LayerKind(), LayerKind()), layers=3),
    ],
    ids=["dense", "experts", "encoder", "plain"],
)
def test_blocks_that_are_recomputed_give_the_same_gradients_and_hold_less(config: ModelConfig) -> None:
    """With dropout, bit by bit. What is held: the bytes that autograd saves outside the blocks that it recomputes."""

    def gradients(again: bool) -> tuple[list[torch.Tensor], int]:
        model, held = made(config).train(), [0]
        batch = rows(20, 14)
        if config.encoder is not None:
            batch = replace(batch, source=rows(8, 6).ids, source_mask=rows(8, 6).mask)
        torch.manual_seed(1)

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            held[0] += tensor.numel() * tensor.element_size()
            return tensor

        def run() -> None:
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss, _ = causal_lm(balance=0.1 if config.experts else 0.0)(model, batch)
            loss.backward()

        if again:
            with recomputed(model):
                run()
            assert not any("forward" in vars(block) for block in model.blocks)
        else:
            run()
        return [p.grad for p in model.parameters() if p.grad is not None], held[0]

    kept, all_of_it = gradients(again=False)
    recomputed_, outside = gradients(again=True)
    assert len(kept) == len(recomputed_) and all(torch.equal(a, b) for a, b in zip(kept, recomputed_, strict=True))
    assert outside < 0.4 * all_of_it


def test_where_nothing_can_be_compiled_it_is_said_and_the_model_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler was found\nand much more")

    monkeypatch.setattr(torch, "compile", fails)
    words: list[str] = []
    model = made()
    assert not compiled(model, torch.device("cpu"), words.append)
    assert words == ["nothing is compiled, torch.compile fails here: RuntimeError: no compiler was found"]
    assert evaluate(model, [rows(5)], causal_lm()).labels == 4
