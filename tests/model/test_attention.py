"""The fused kernel answers as the definition does; masks hide what they must; positions follow their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from hornbook.errors import ModelFileError
from hornbook.model.attention import AttentionRule, Uncached, attend, attend_plainly, see
from hornbook.model.config import Rotary, RotaryScaling
from hornbook.model.positions import frequencies, order, rotate, turn


def random(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("heads", "shared"), [(6, 6), (6, 3), (6, 2), (6, 1)])
@pytest.mark.parametrize(("new", "held"), [(1, 1), (1, 9), (4, 9), (9, 9)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_fused_kernel_is_the_definition(heads: int, shared: int, new: int, held: int, masked: bool) -> None:
    q, k, v = random(2, heads, new, 8), random(2, shared, held, 8, seed=2), random(2, shared, held, 8, seed=3)
    visible = (random(2, 1, new, held, seed=4) > 0) if masked else None
    if visible is not None:
        visible[..., 0] = True
    rule = AttentionRule(scale=0.4)
    found = attend(q, k, v, rule, visible=visible)
    torch.testing.assert_close(found, attend_plainly(q, k, v, rule, visible=visible), rtol=1e-5, atol=1e-6)
    if new == held and not masked:
        causal = attend(q, k, v, rule, causal=True)
        torch.testing.assert_close(causal, attend_plainly(q, k, v, rule, causal=True), rtol=1e-5, atol=1e-6)


def test_soft_capped_scores_never_pass_the_cap() -> None:
    """One key scored 100 and one scored 0 with a cap of 2: weights e^2 : 1, not e^100 : 1."""
    q, k, v = torch.tensor([[[[100.0]]]]), torch.tensor([[[[1.0], [0.0]]]]), torch.tensor([[[[1.0], [0.0]]]])
    found = attend(q, k, v, AttentionRule(scale=1.0, softcap=2.0)).item()
    assert found == pytest.approx(math.exp(2) / (math.exp(2) + 1), rel=1e-6)


@pytest.mark.parametrize("window", [None, 1, 2, 5, 99])
@pytest.mark.parametrize("causal", [True, False])
def test_a_window_counts_the_token_itself(window: int | None, causal: bool) -> None:
    place = torch.arange(7)[None]
    visible = see(place, place, window, causal)[0]
    for q in range(7):
        for k in range(7):
            assert visible[q, k] == ((k <= q or not causal) and (window is None or abs(q - k) < window))


@pytest.mark.parametrize("window", [None, 2])
def test_padding_is_neither_seen_nor_nan(window: int | None) -> None:
    mask = torch.tensor([[False, False, True, True, True], [True, True, True, False, False]])
    q, k, v = random(2, 2, 5, 4), random(2, 2, 5, 4, seed=2), random(2, 2, 5, 4, seed=3)
    rule = AttentionRule(scale=0.5, window=window)
    found = Uncached(mask).attend(0, q, k, v, rule)
    assert torch.isfinite(found).all()
    for row in range(2):
        alone = [x[row : row + 1, :, mask[row]] for x in (q, k, v)]
        expected = Uncached(None).attend(0, *alone, rule)
        torch.testing.assert_close(found[row : row + 1, :, mask[row]], expected, rtol=1e-5, atol=1e-6)


def test_rotation_turns_each_pair_by_its_angle_and_scores_depend_on_distance_alone() -> None:
    """arXiv 2104.09864, eq. 13: (x1, x2) turns by m * theta_i; q_m . k_n is a function of m - n."""
    on = frequencies(Rotary(10_000.0), 8)
    torch.testing.assert_close(on, torch.tensor([10_000.0 ** (-2 * i / 8) for i in range(4)]))
    x, position = random(1, 1, 1, 8), torch.tensor([[5]])
    found = rotate(x, turn(position, on, Rotary()))[0, 0, 0]
    for i in range(4):
        pair = complex(x[0, 0, 0, i], x[0, 0, 0, i + 4]) * complex(math.cos(5 * on[i]), math.sin(5 * on[i]))
        assert complex(found[i], found[i + 4]) == pytest.approx(pair, abs=1e-5)

    def score(m: int, n: int) -> float:
        q, k = (
            rotate(random(1, 1, 1, 8, seed=s), turn(torch.tensor([[at]]), on, Rotary())) for s, at in ((1, m), (2, n))
        )
        return (q * k).sum().item()

    assert score(3, 1) == pytest.approx(score(103, 101), abs=1e-4)


@pytest.mark.parametrize("kind", ["default", "linear", "llama3"])
def test_frequencies_equal_those_of_transformers(kind: str) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    said = {"rope_type": kind, "rope_theta": 500_000.0}
    scaling = None
    if kind != "default":
        said["factor"], scaling = 8.0, RotaryScaling(kind, 8.0)
    if kind == "llama3":
        said |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        scaling = RotaryScaling("llama3", 8.0, 8192, slow=1.0, fast=4.0)
    reference = LlamaRotaryEmbedding(LlamaConfig(hidden_size=128, num_attention_heads=1, rope_parameters=said))
    found = frequencies(Rotary(500_000.0, scaling), 128)
    torch.testing.assert_close(found, reference.inv_freq, rtol=1e-6, atol=0)


def test_factors_by_frequency_divide_and_must_be_as_many() -> None:
    plain = frequencies(Rotary(10_000.0), 8)
    scaled = frequencies(Rotary(10_000.0, RotaryScaling("factors", factors=(1.0, 2.0, 4.0, 8.0))), 8)
    torch.testing.assert_close(scaled, plain / torch.tensor([1.0, 2.0, 4.0, 8.0]))
    with pytest.raises(ModelFileError, match="2 rotary factors for 4 frequencies"):
        frequencies(Rotary(10_000.0, RotaryScaling("factors", factors=(1.0, 2.0))), 8)


def test_places_count_real_tokens_only() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 0, 1]], dtype=torch.bool)
    assert order(mask)[mask].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
