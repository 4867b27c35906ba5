"""The training loop: what a step's gradient is, what ends it, how the rate goes, how weights begin."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import repeat

import pytest
import torch
from torch import Tensor

from hornbook.errors import DataError, TrainingError, UsageError
from hornbook.model.config import Experts, LayerKind, ModelConfig, Relative, Rotary
from hornbook.model.transformer import Transformer
from hornbook.train import schedule
from hornbook.train.average import Average
from hornbook.train.batch import IGNORED, Batch, by_tokens, pad, shift_right, translation
from hornbook.train.initialise import initialise
from hornbook.train.loop import train
from hornbook.train.losses import causal_lm

CONFIG = ModelConfig(
    vocab_size=31, layers=2, width=16, heads=2, kv_heads=1, head_width=8, feedforward_width=24, context_length=32,
    pattern=(LayerKind(rotary=Rotary()),),
)  # fmt: skip


def made(config: ModelConfig = CONFIG, seed: int = 0) -> Transformer:
    return initialise(Transformer(config), generator=torch.Generator().manual_seed(seed))


def rows(*lengths: int, ignored: int = 0) -> Batch:
    """Random rows padded to the longest; the first ``ignored`` labels of each teach nothing."""
    draw = torch.Generator().manual_seed(sum(lengths))
    texts = [torch.randint(31, (length,), generator=draw).tolist() for length in lengths]
    labels = pad(texts, IGNORED)
    labels[:, :ignored] = IGNORED
    return Batch(pad(texts, 0), labels, mask=pad([[1] * length for length in lengths], 0).bool())


def one_step(batches: list[Batch], accumulate: int, **more: object) -> tuple[Transformer, float]:
    model = made()
    done = train(
        model, batches, causal_lm(), torch.optim.SGD(model.parameters(), lr=1.0), steps=1, accumulate=accumulate, **more
    )
    return model, done.steps[0].loss


@pytest.mark.parametrize("ignored", [1, 3])
def test_micro_batches_of_unequal_length_step_as_their_whole(ignored: int) -> None:
    """Even where one has no label at all."""
    short, long = rows(3, ignored=ignored), rows(17, 12)
    whole = Batch(
        pad([short.ids[0].tolist() + [0] * 14, *long.ids.tolist()], 0),
        pad([short.labels[0].tolist() + [IGNORED] * 14, *long.labels.tolist()], IGNORED),
        mask=torch.cat([torch.nn.functional.pad(short.mask, (0, 14)), long.mask]),
    )
    together, loss = one_step([whole], 1)
    apart, sum_of_parts = one_step([short, long], 2)
    assert sum_of_parts == pytest.approx(loss, abs=1e-6)
    for (name, a), b in zip(together.named_parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)
    if ignored == 1:
        mean_of_means = (one_step([short], 1)[1] + one_step([long], 1)[1]) / 2
        assert abs(mean_of_means - loss) > 1e-4, "the batches are too alike to tell a mean of means from the mean"


def test_a_clipped_gradient_has_the_norm_that_was_asked_for() -> None:
    before = made()
    after, _ = one_step([rows(9)], 1, clip=0.01)
    moved = torch.stack([(a - b).norm() for a, b in zip(after.parameters(), before.parameters(), strict=True)]).norm()
    assert moved.item() == pytest.approx(0.01, rel=1e-3)


def test_a_loss_that_is_no_number_ends_the_run_before_it_reaches_the_weights() -> None:
    model = made()
    steps: list[int] = []

    def spoil(step: object) -> None:
        steps.append(1)
        if len(steps) == 2:
            with torch.no_grad():
                model.embed.tokens.weight[0, 0] = torch.nan

    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with pytest.raises(TrainingError, match="step 3 has a loss of nan"):
        train(model, repeat(rows(5, 3)), causal_lm(), optimizer, steps=9, on_step=[spoil])
    assert len(steps) == 2
    assert torch.isfinite(model.blocks[0].feedforward.up.weight).all()
    assert all(p.grad is None for p in model.parameters())


def test_batches_that_end_and_labels_that_teach_nothing_are_named() -> None:
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TrainingError, match="ended in step 2 of 3"):
        train(model, [rows(5)] * 3, causal_lm(), optimizer, steps=3, accumulate=2)
    with pytest.raises(TrainingError, match="no label for the loss 'next token', of 2 rows of 5 tokens"):
        train(model, [rows(5, 4, ignored=5)], causal_lm(), optimizer, steps=1)


def test_rates_follow_the_schedule_and_are_given_back() -> None:
    model = made().eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    done = train(model, repeat(rows(5)), causal_lm(), optimizer, steps=4, schedule=schedule.linear(5, warmup=2))
    assert [step.rate for step in done.steps] == pytest.approx([0.25, 0.5, 1 / 3, 1 / 6])
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert not model.training, "the model is given back in the mode in which it came"


def test_gradients_are_gone_when_the_hooks_are_called() -> None:
    """A validation has the room that they took."""
    model, held = made(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def look(step: object) -> None:
        held.append([p.grad for p in model.parameters() if p.grad is not None])

    train(model, repeat(rows(5)), causal_lm(), optimizer, steps=2, on_step=[look])
    assert held == [[], []]


def test_the_last_snapshots_are_averaged() -> None:
    model = made()
    average, seen = Average(model, last=7, snapshots=3, apart=2), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    watch = [lambda step: seen.append(model.embed.tokens.weight.detach().clone()), average]
    train(model, repeat(rows(5)), causal_lm(), optimizer, steps=7, on_step=watch)
    average.settle()
    torch.testing.assert_close(model.embed.tokens.weight, (seen[2] + seen[4] + seen[6]) / 3)


def test_schedules_are_their_formulas() -> None:
    """arXiv 1706.03762, eq. 3, word for word; half a cosine; warm-up in a straight line."""
    warm, width = 40, 512
    ours, peak = schedule.inverse_sqrt(warmup=warm), schedule.peak_rate(width, warm)
    for step in (1, 7, 40, 41, 1000):
        assert peak * ours(step) == pytest.approx(width**-0.5 * min(step**-0.5, step * warm**-1.5))
    half = schedule.cosine(110, warmup=10, end=0.1)
    assert [half(s) for s in (5, 10, 60, 110, 500)] == pytest.approx([0.5, 1.0, 0.55, 0.1, 0.1])
    line = schedule.linear(110, warmup=10, end=0.2)
    assert [line(s) for s in (1, 10, 60, 110, 500)] == pytest.approx([0.1, 1.0, 0.6, 0.2, 0.2])
    assert [schedule.constant(warmup=4)(s) for s in (1, 4, 99)] == [0.25, 1.0, 1.0]


def test_warmup_stable_decay_and_slanted_triangles_are_their_formulas() -> None:
    """arXiv 2404.06395, eq. 1 with 2405.18392, eq. 2; arXiv 1801.06146, eq. 3, word for word."""
    for shape, halfway in (("linear", 0.55), ("1-sqrt", 1 - 0.9 * math.sqrt(0.5))):
        rate = schedule.wsd(100, warmup=10, decay=20, end=0.1, shape=shape)  # type: ignore[arg-type]
        assert [rate(s) for s in (5, 10, 50, 80, 90, 100)] == pytest.approx([0.5, 1, 1, 1, halfway, 0.1])
    total, share, ratio = 200, 0.1, 32
    cut = math.floor(total * share)
    rate = schedule.slanted(total)
    for t in (1, 19, 20, 21, 110, 200):
        p = t / cut if t < cut else 1 - (t - cut) / (cut * (1 / share - 1))
        assert rate(t) == pytest.approx((1 + p * (ratio - 1)) / ratio)
    assert schedule.slanted(100, warmup=50)(75) == pytest.approx((1 + 0.5 * 31) / 32)
    with pytest.raises(UsageError, match="a warm-up of 90 and a decay of 20 steps do not fit in 100"):
        schedule.wsd(100, warmup=90, decay=20)


def test_every_schedule_has_a_name_and_stays_between_nothing_and_one() -> None:
    for name in schedule.SCHEDULES:
        for steps, warmup in ((1, 0), (7, 2), (50, 5), (10, 9)):
            rate = schedule.make(name, steps, warmup=warmup, end=0.05)
            values = [rate(step) for step in range(1, steps + 1)]
            assert all(0 < value <= 1 for value in values), (name, values)
            assert steps == 1 or max(values) == 1.0, (name, values)
            if warmup:
                assert rate(warmup) == 1.0, name
    with pytest.raises(UsageError, match="no schedule 'step'"):
        schedule.make("step", 10)
    with pytest.raises(UsageError, match="a warm-up of 11 steps does not fit in 10"):
        schedule.make("cosine", 10, warmup=11)


# ------------------------------------------------------------------------------------------------------- beginnings


BOTH = replace(
    CONFIG, norm="layer", norm_placement="post", gated=False, positions="sinusoidal", embedding_scale=4.0,
    encoder=replace(CONFIG, causal=False, language_head=False, norm="layer", norm_placement="post", gated=False),
    shared_tokens=True, tied_head=True, head_bias=True, width=16, layers=8, feedforward_width=512, vocab_size=997,
)  # fmt: skip


def spread(weight: Tensor) -> float:
    return weight.std().item()


def test_every_weight_is_drawn_by_the_fields_of_the_configuration() -> None:
    model = made(BOTH)
    assert spread(model.embed.tokens.weight) * 4.0 == pytest.approx(1.0, rel=0.05), "unit variance, once scaled"
    up = model.blocks[0].feedforward.up.weight
    assert up.abs().max().item() == pytest.approx(math.sqrt(6 / (16 + 512)), rel=0.01), "Xavier's bound"
    bert = made(replace(BOTH, embedding_scale=1.0, encoder=None, shared_tokens=False))
    assert spread(bert.blocks[3].feedforward.down.weight) == pytest.approx(0.02, rel=0.05)
    gpt = made(replace(CONFIG, layers=8, feedforward_width=512, vocab_size=997))
    assert spread(gpt.blocks[3].feedforward.up.weight) == pytest.approx(0.02, rel=0.05)
    assert spread(gpt.blocks[3].feedforward.down.weight) == pytest.approx(0.02 / 4, rel=0.05), "1 / sqrt(2 layers)"
    t5 = made(replace(CONFIG, query_scale=1.0, relative=Relative(), heads=16, kv_heads=16, width=128))
    query, key = t5.blocks[0].attention.query.weight, t5.blocks[0].attention.key.weight
    assert spread(key) / spread(query) == pytest.approx(8**0.5, rel=0.05)


def test_nothing_of_what_was_there_before_remains() -> None:
    sparse = replace(
        CONFIG, pattern=(LayerKind(), LayerKind(sparse=True)), experts=Experts(3, 2, 8, shared_width=8),
        relative=Relative(), norm_offset=1.0, pooler=True, next_sentence=True, head_transform=True,
    )  # fmt: skip
    for config in (sparse, BOTH):
        models = [Transformer(config), Transformer(config)]
        for value, model in zip((3.0, -7.0), models, strict=True):
            for parameter in model.parameters():
                torch.nn.init.constant_(parameter, value)
            initialise(model, generator=torch.Generator().manual_seed(5))
        for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
            assert torch.equal(a, b), name


# ---------------------------------------------------------------------------------------------------------- batches


def test_batches_of_like_size_hold_every_row_once_and_keep_the_budget() -> None:
    sizes = torch.randint(1, 40, (200,), generator=torch.Generator().manual_seed(1)).tolist()

    def round_of(batches: Iterator[list[int]]) -> list[list[int]]:
        taken: list[list[int]] = []
        while sum(map(len, taken)) < len(sizes):
            taken.append(next(batches))
        return taken

    batches = by_tokens(sizes, 120, torch.Generator().manual_seed(2))
    first, second = round_of(batches), round_of(batches)
    for taken in (first, second):
        assert sorted(row for batch in taken for row in batch) == list(range(200))
        assert all(max(sizes[row] for row in batch) * len(batch) <= 120 for batch in taken)
    assert first != second
    used = sum(sizes) / sum(max(sizes[row] for row in batch) * len(batch) for batch in first)
    assert used > 0.9, f"{1 - used:.0%} of the tokens are padding"
    with pytest.raises(DataError, match="an example has 39 tokens, a batch takes 30"):
        next(by_tokens(sizes, 30, torch.Generator()))


def test_a_decoder_reads_what_it_said_one_place_later() -> None:
    labels = torch.tensor([[5, 6, 0], [7, 0, IGNORED]])
    assert shift_right(labels, 9, 8).tolist() == [[9, 5, 6], [9, 7, 0]]
    batch = translation([([1, 2, 0], [5, 0]), ([3, 0], [6, 7, 0])], start=9, padding=9)
    assert batch.source_mask is not None and batch.mask is not None
    assert batch.source_mask.sum(1).tolist() == [3, 2] and batch.mask.sum(1).tolist() == [2, 3]
    assert batch.ids.tolist() == [[9, 5, 0], [9, 6, 7]]
