"""A mixture of experts in the native kernels: its twin's numbers, the same bits in any company, and nothing of a bad plan is run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from native_ops import ADD, EMBED, LINEAR, MIX, SELECT, WEIGH, Batch, Ops

from hornbook.checkpoint.dequantize import BY_NAME, dequantize
from hornbook.checkpoint.quantize import quantize
from hornbook.errors import KernelError
from hornbook.kernels import twins
from hornbook.kernels.weight import Weight
from hornbook.model.config import Experts

V = 60
ACTIVATIONS = ["silu", "gelu", "gelu_tanh", "relu"]


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)


def weights_of(experts: Experts, width: int) -> dict[str, np.ndarray]:
    up = (experts.count, experts.width, width)
    shapes = {
        "router.weight": (experts.count, width),
        "gate": up,
        "up": up,
        "down": (experts.count, width, experts.width),
    }
    return {name: normal(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items(), 1)}


def mixture(
    kernels: Any, table: np.ndarray, weights: dict[str, np.ndarray], experts: Experts, activation: int = 0
) -> Ops:
    """Registers: tokens [V, C], scores, out."""
    ops = Ops(kernels, table.shape[1], experts.count, table.shape[1]).add(EMBED, out=0, f=[1.0], weights=[table])
    ops.add(LINEAR, 0, out=1, i=[1, -1], weights=[weights["router.weight"]])
    sizes = [experts.top, int(experts.renormalise), activation]
    return ops.add(MIX, 0, 1, 2, i=sizes, weights=[weights[name] for name in ("gate", "up", "down")])


def exact(table: np.ndarray, weights: dict[str, np.ndarray], experts: Experts, activation: int = 0) -> torch.Tensor:
    doubles = {name: torch.tensor(weight).double() for name, weight in weights.items()}
    return twins.mix(torch.tensor(table).double(), doubles, experts, ACTIVATIONS[activation])


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize(("count", "top", "width"), [(1, 1, 16), (4, 2, 33), (5, 5, 7), (40, 6, 16)])
def test_a_mixture_is_its_twin(kernels: Any, count: int, top: int, width: int, renormalise: bool) -> None:
    experts, table = Experts(count, top, width, renormalise), normal(V, 36) * 6
    weights, activation = weights_of(experts, 36), count % 4
    found = mixture(kernels, table, weights, experts, activation).run(Batch([range(V)]))
    wanted = exact(table, weights, experts, activation).numpy()
    assert np.abs(found - wanted).max() < 2e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("type", ["Q4_0", "Q8_0", "Q4_K", "F16"])
def test_quantised_experts_are_packed_as_they_are_and_only_activations_are_rounded(kernels: Any, type: str) -> None:
    count, rows, cols, format = 3, 20, 256, BY_NAME[type]
    source = quantize(normal(count * rows, cols), type)
    values = np.empty(count * rows * cols, np.float32)
    dequantize(source.reshape(-1), format, values)
    weight = Weight(kernels, type, rows, cols, source, experts=count)
    np.testing.assert_array_equal(weight.unpack(), values.reshape(-1, cols))
    np.testing.assert_array_equal(weight.unpack(rows + 3, 2 * rows - 3), values.reshape(-1, cols)[rows + 3 :])
    with pytest.raises(KernelError, match=r"rows 1 to 60 of a weight of 60 rows"):
        weight.unpack(1, 60)
    with pytest.raises(KernelError, match="a stack of 3 experts is no one matrix"):
        kernels.hb_linear(weight.handle, None, values.ctypes.data, 1, values.ctypes.data)


def test_of_equal_scores_the_first_experts_are_taken(kernels: Any) -> None:
    experts, table = Experts(9, 3, 16), normal(V, 32)
    weights = weights_of(experts, 32) | {"router.weight": np.zeros((9, 32), np.float32)}
    found = mixture(kernels, table, weights, experts).run(Batch([range(V)]))
    first = {name: weight[:3] for name, weight in weights.items()}
    np.testing.assert_allclose(found, exact(table, first, Experts(3, 3, 16)), atol=1e-6)


def test_company_and_threads_change_no_bit(kernels: Any) -> None:
    experts, table = Experts(12, 3, 48, False), normal(V, 64)
    ops = mixture(kernels, table, weights_of(experts, 64), experts)
    ids = np.random.default_rng(3).integers(0, V, 150).tolist()
    whole = ops.run(Batch([ids]))
    for threads in (1, 3):
        kernels.hb_set_threads(threads)
        for cuts in ([0, 150], [0, 1, 2, 40, 150], [0, 77, 78, 150]):
            parts = [ops.run(Batch([ids[a:b]])) for a, b in zip(cuts, cuts[1:], strict=False)]
            assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_what_is_not_a_number_shows_and_stays_with_its_token(kernels: Any) -> None:
    experts, table = Experts(7, 2, 16), normal(V, 32)
    ops = mixture(kernels, table, weights_of(experts, 32), experts)
    clean = ops.run(Batch([[1, 2, 3]]))
    for bad in (np.nan, np.inf, -np.inf):
        spoilt = table.copy()
        spoilt[2, 5] = bad
        found = mixture(kernels, spoilt, weights_of(experts, 32), experts).run(Batch([[1, 2, 3]]))
        assert np.isnan(found[1]).all()
        assert found[[0, 2]].tobytes() == clean[[0, 2]].tobytes()


def test_a_sigmoid_weighs_each_token(kernels: Any) -> None:
    table, weight = normal(V, 24) * 20, normal(1, 24, seed=1) * 40
    ops = Ops(kernels, 24, 1, 24).add(EMBED, out=0, f=[1.0], weights=[table])
    ops.add(LINEAR, 0, out=1, i=[1, -1], weights=[weight]).add(WEIGH, 0, 1, 2)
    by = 1 / (1 + np.exp(-(table.astype(np.float64) @ weight[0].astype(np.float64))))
    np.testing.assert_allclose(ops.run(Batch([range(V)])), table * by[:, None], rtol=1e-4, atol=1e-12)
    assert (by < 1e-20).any() and (by > 1 - 1e-6).any()


def test_scratch_grows_with_the_experts_of_a_token(kernels: Any) -> None:
    def grown(experts: Experts) -> int:
        ops = mixture(kernels, normal(V, 32), weights_of(experts, 32), experts)
        small, large = (kernels.hb_model_bytes(ops.model, tokens, 1) for tokens in (64, 576))
        return int(large - small) // 512

    of_one = 4 * (3 + 32 + 2 * 16 + 32)  # choice, place, share; what it reads, gate and up, what it gives
    assert grown(Experts(8, 3, 16)) - grown(Experts(8, 1, 16)) == 2 * of_one


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no weights": ({"weights": []}, "a mixture without its weights"),
    "experts": ({"down": (3, 16, 8)}, "experts of a weight is 3, not 4"),
    "a matrix": ({"gate": (8, 16)}, "experts of a weight is 1, not 4"),
    "columns": ({"up": (4, 8, 12)}, "columns of the weight is 12, not 16"),
    "up": ({"up": (4, 9, 16)}, "rows of up is 9, not 8"),
    "down": ({"down": (4, 16, 9)}, "columns of down is 9, not 8"),
    "out": ({"down": (4, 15, 8)}, "rows of down is 15, not 16"),
    "none chosen": ({"i": [0, 1, 0]}, "experts for a token is 0, not 4"),
    "too many": ({"i": [5, 1, 0]}, "experts for a token is 5, not 4"),
    "activation": ({"i": [2, 1, 7]}, "activation is 7"),
    "after Select": ({"select": True}, "a mixture after Select"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mixture_that_contradicts_itself_is_refused(kernels: Any, name: str) -> None:
    change, words = BAD[name]
    shapes = {"gate": (4, 8, 16), "up": (4, 8, 16), "down": (4, 16, 8)}
    stacks = [normal(*change.get(part, shape)) for part, shape in shapes.items()]
    ops = Ops(kernels, 16, 4, 16).add(EMBED, out=0, f=[1.0], weights=[normal(V, 16)])
    if change.get("select"):
        ops.add(SELECT, 0, out=2)
    ops.add(LINEAR, 2 if change.get("select") else 0, out=1, i=[1, -1], weights=[normal(4, 16)])
    a = 2 if change.get("select") else 0
    ops.add(MIX, a, 1, 2, i=change.get("i", [2, 1, 0]), weights=change.get("weights", stacks))
    with pytest.raises(KernelError) as error:
        _ = ops.model
    assert words in str(error.value)


def test_a_stack_is_for_mixtures_only(kernels: Any) -> None:
    for kind, words in ((EMBED, "an embedding without a weight that is one matrix"), (LINEAR, "a part without")):
        ops = Ops(kernels, 16, 16)
        ops.add(EMBED, out=0, f=[1.0], weights=[normal(2, V, 16) if kind == EMBED else normal(V, 16)])
        ops.add(LINEAR, 0, out=1, i=[1, -1], weights=[normal(2, 16, 16)])
        with pytest.raises(KernelError, match=words):
            _ = ops.model
    ops = Ops(kernels, 16, 2).add(EMBED, out=0, f=[1.0], weights=[normal(V, 16)]).add(ADD, 0, 0, 0)
    with pytest.raises(KernelError, match="width of b is 16, not 1"):
        _ = ops.add(WEIGH, 0, 0, 0).model
