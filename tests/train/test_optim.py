"""Optimizers are those of their papers, as others have written them; states of one byte are nearly as good as of four."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hornbook.errors import UsageError
from hornbook.model.config import LayerKind, ModelConfig, Relative
from hornbook.model.transformer import Transformer
from hornbook.train import adamw8bit, optim, resume
from hornbook.train.adafactor import Adafactor
from hornbook.train.adamw8bit import AdamW8bit
from hornbook.train.muon import Muon, orthogonalise

SHAPES = {"blocks.0.wide": (24, 40), "blocks.0.tall": (40, 24), "blocks.0.bias": (40,), "embed.tokens.weight": (31, 24)}


def drawn(seed: int = 0) -> dict[str, nn.Parameter]:
    draw = torch.Generator().manual_seed(seed)
    return {name: nn.Parameter(torch.randn(shape, generator=draw)) for name, shape in SHAPES.items()}


def walk(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, steps: int = 6) -> None:
    """Steps with gradients of very different sizes."""
    draw = torch.Generator().manual_seed(7)
    for step in range(steps):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape, generator=draw) * 10.0 ** (step % 3 - 2)
        optimizer.step()


def assert_same(ours: dict[str, nn.Parameter], theirs: dict[str, nn.Parameter], tolerance: float) -> None:
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("relative", [True, False])
def test_adafactor_is_that_of_transformers(relative: bool) -> None:
    from transformers.optimization import Adafactor as Theirs

    ours, theirs = drawn(), drawn()
    walk(ours, Adafactor(ours.values(), rate=0.02, weight_decay=0.1, relative=relative))
    walk(
        theirs,
        Theirs(theirs.values(), lr=0.02, weight_decay=0.1, relative_step=False, scale_parameter=relative),
    )
    assert_same(ours, theirs, 2e-6)


@pytest.mark.parametrize(("scale", "adjust"), [("shape", "original"), ("adam", "match_rms_adamw")])
def test_muon_is_that_of_torch(scale: str, adjust: str) -> None:
    ours, theirs = ({name: p for name, p in drawn().items() if p.ndim == 2} for _ in range(2))
    walk(ours, Muon(ours.values(), rate=0.02, weight_decay=0.1, scale=scale, dtype=torch.bfloat16))  # type: ignore[arg-type]
    walk(theirs, torch.optim.Muon(theirs.values(), lr=0.02, weight_decay=0.1, adjust_lr_fn=adjust))
    assert_same(ours, theirs, 1e-6)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    for shape in ((24, 40), (40, 24)):
        wide = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e3
        found = torch.linalg.svdvals(orthogonalise(wide))
        assert found.min() > 0.6 and found.max() < 1.3, f"{found}"


def test_muon_moves_matrices_of_blocks_and_adamw_the_rest() -> None:
    ours, theirs = drawn(), drawn()
    both = optim.make("muon", ours, rate=0.02, weight_decay=0.1)
    matrices = [p for name, p in theirs.items() if optim.is_block_matrix(name, p)]
    assert len(matrices) == 2
    rest = {name: p for name, p in theirs.items() if not optim.is_block_matrix(name, p)}
    apart = [Muon(matrices, rate=0.02, weight_decay=0.1), optim.make("adamw", rest, rate=0.02, weight_decay=0.1)]
    for group in both.param_groups:
        group["lr"] = 0.01  # as a schedule sets it
    for one in apart:
        one.param_groups[0]["lr"] = 0.01
    walk(ours, both)
    draw = torch.Generator().manual_seed(7)
    for step in range(6):
        for parameter in theirs.values():
            parameter.grad = torch.randn(parameter.shape, generator=draw) * 10.0 ** (step % 3 - 2)
        for one in apart:
            one.step()
    assert_same(ours, theirs, 0.0)


def test_weight_decay_leaves_norms_biases_and_embeddings_alone() -> None:
    config = ModelConfig(
        vocab_size=31, layers=1, width=16, heads=2, kv_heads=1, head_width=8, feedforward_width=24, context_length=32,
        norm="layer", qkv_bias=True, positions="learned", relative=Relative(), pattern=(LayerKind(),),
    )  # fmt: skip
    named = dict(Transformer(config).named_parameters())
    by_parameter = {p: name for name, p in named.items()}
    for name in optim.OPTIMIZERS:
        groups = optim.make(name, named, rate=1e-3, weight_decay=0.1).param_groups
        pulled = {by_parameter[p] for group in groups if group["weight_decay"] for p in group["params"]}
        assert pulled and all(by_parameter[p] in named for group in groups for p in group["params"])
        assert sum(len(group["params"]) for group in groups) == len(named)
        left = set(named) - pulled
        assert {"embed.tokens.weight", "embed.positions.weight", "relative.weight", "norm.weight"} <= left
        assert "blocks.0.attention.query.bias" in left and "blocks.0.attention.query.weight" in pulled
        assert all("norm" in n or "bias" in n or "embed" in n or "relative" in n for n in left), sorted(left)
    everything = optim.make("adamw", named, rate=1e-3, weight_decay=0.1, decay_all=True).param_groups
    assert [group["weight_decay"] for group in everything] == [0.1]


def test_an_unknown_optimizer_and_nothing_to_train_are_named() -> None:
    with pytest.raises(UsageError, match="no optimizer 'adam'") as error:
        optim.make("adam", drawn(), rate=1.0)
    assert "adamw8bit" in error.value.remedy
    with pytest.raises(UsageError, match="nothing to train"):
        optim.make("adamw", {}, rate=1.0)
    with pytest.raises(UsageError, match="none is trained"):
        optim.make("muon", {"blocks.0.bias": drawn()["blocks.0.bias"]}, rate=1.0)


# ------------------------------------------------------------------------------------------------- states of one byte


@pytest.mark.parametrize("signed", [True, False])
def test_the_values_are_the_dynamic_map_and_each_number_is_the_nearest(signed: bool) -> None:
    found = adamw8bit.values(signed)
    table = found.values
    assert table.tolist() == sorted(set(table.tolist())) and len(table) == 256
    assert table[found.zero] == 0.0 and table[-1] == 1.0
    # arXiv 2110.02861, section 2.2: a stretch for each of seven powers of ten, each cut twice as finely as the one below
    for power in range(7):
        inside = ((table > 10.0 ** (power - 7)) & (table < 10.0 ** (power - 6))).sum()
        assert inside == 2 ** (power + (not signed)), power
    if signed:
        torch.testing.assert_close(table[:127], -table[128:255].flip(0), rtol=0, atol=0)
    draw = torch.Generator().manual_seed(3)
    size = 10.0 ** (-9 * torch.rand(64, adamw8bit.BLOCK, generator=draw))
    x = size * (torch.randn(size.shape, generator=draw).sign() if signed else 1.0)
    x[:8] = table[torch.randint(1, 255, (8, adamw8bit.BLOCK), generator=draw)]
    x[:, 5], x[1, 7] = 1.0, 0.0
    numbers, scales = adamw8bit.quantise(x.flatten(), signed=signed)
    nearest = (x.flatten()[:, None] - table).abs().min(1).values
    ours = (x.flatten() - table[numbers.int()]).abs()
    real = numbers > 1 if not signed else numbers >= 0
    torch.testing.assert_close(ours[real], nearest[real], rtol=0, atol=0)
    assert torch.equal(scales, torch.ones(64))
    assert torch.equal(adamw8bit.dequantise(numbers, scales, signed=signed), table[numbers.int()])
    if not signed:
        assert (numbers > 0).all(), "no second moment is rounded down to nothing"


def test_upper_bits_never_hold_two_middles() -> None:
    """Else the number that is looked up would be put right by one comparison too few."""
    for signed in (True, False):
        middles = adamw8bit.values(signed).middles[:-1]
        assert len(torch.unique(middles.view(torch.int32) >> 16)) == 255


def test_states_of_one_byte_learn_as_those_of_four_and_take_a_quarter() -> None:
    """A regression with matrices that are not multiples of a block, against AdamW on the same batches."""
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 67, generator=draw)
    targets = torch.randn(256, 9, generator=draw) + (inputs[:, :9] * inputs[:, 9:18]).tanh()

    def learn(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> tuple[list[float], int]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(67, 99), nn.Tanh(), nn.Linear(99, 99), nn.Tanh(), nn.Linear(99, 9))
        optimizer, losses = make(list(model.parameters())), []
        for _ in range(150):
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        kept = sum(
            v.numel() * v.element_size() for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)
        )
        return losses, kept

    full, bytes_of_full = learn(lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.01))
    eight, bytes_of_eight = learn(lambda p: AdamW8bit(p, rate=3e-3, weight_decay=0.01))
    assert full[-1] < 0.8 * full[0]
    assert abs(eight[-1] - full[-1]) < 0.03 * (full[0] - full[-1])
    assert max(abs(a - b) for a, b in zip(full, eight, strict=True)) < 0.05 * (full[0] - full[-1])
    assert bytes_of_eight < 0.33 * bytes_of_full  # biases and the small last matrix are whole


@pytest.mark.parametrize("name", list(optim.OPTIMIZERS))
def test_an_optimizer_goes_on_from_a_checkpoint_bit_by_bit(name: str, tmp_path: Path) -> None:
    def start() -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
        parameters = drawn()
        parameters["blocks.0.big"] = nn.Parameter(torch.linspace(-1, 1, 5000).view(50, 100).clone())
        return parameters, optim.make(name, parameters, rate=0.01, weight_decay=0.1)

    through, optimizer = start()
    walk(through, optimizer)
    path = resume.save(tmp_path, 6, through, optimizer, {}, {})
    walk(through, optimizer)
    again, fresh = start()
    resume.restore(path, again, fresh)
    for parameter, state in optimizer.state.items():
        assert {key: getattr(value, "dtype", None) for key, value in state.items()} == {
            key: getattr(value, "dtype", None)
            for key, value in fresh.state[again[next(n for n, p in through.items() if p is parameter)]].items()
        }
    walk(again, fresh)
    for key, parameter in through.items():
        assert torch.equal(parameter, again[key]), key
