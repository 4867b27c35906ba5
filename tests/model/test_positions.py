"""Each way of telling a model where a token stands is its paper's formula."""

from __future__ import annotations

import math

import pytest
import torch

from hornbook.model.config import Relative, Rotary, RotaryScaling
from hornbook.model.position_tables import larger_base
from hornbook.model.positions import Alibi, RelativeBias, bucket, frequencies, rotate, sinusoids, turn


@pytest.mark.parametrize("width", [8, 7])
def test_sinusoids_are_those_of_2017_in_halves(width: int) -> None:
    """arXiv 1706.03762, section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(the same)."""
    found = sinusoids(torch.tensor([[0, 1, 57]]), width)[0]
    half = (width + 1) // 2
    for row, position in enumerate([0, 1, 57]):
        for i in range(width):
            pair = i if i < half else i - half
            angle = position / 10_000 ** (2 * pair / width)
            assert found[row, i].item() == pytest.approx((math.sin if i < half else math.cos)(angle), abs=1e-5)


@pytest.mark.parametrize(("interleaved", "pairs"), [(False, [(0, 2), (1, 3)]), (True, [(0, 1), (2, 3)])])
def test_a_part_of_the_head_turns_and_the_rest_stays(interleaved: bool, pairs: list[tuple[int, int]]) -> None:
    """arXiv 2104.09864, eq. 34, over the first four of seven dimensions, pairs as halves or as neighbours."""
    rotary = Rotary(100.0, width=4, interleaved=interleaved)
    x = torch.randn(1, 2, 3, 7, generator=torch.Generator().manual_seed(0))
    found = rotate(x, turn(torch.tensor([[0, 5, 9]]), frequencies(rotary, 4), rotary))
    assert torch.equal(found[..., 4:], x[..., 4:])
    for t, position in enumerate([0, 5, 9]):
        for number, (a, b) in enumerate(pairs):
            angle = position * 100.0 ** (-2 * number / 4)
            before = torch.complex(x[0, :, t, a], x[0, :, t, b])
            after = before * complex(math.cos(angle), math.sin(angle))
            torch.testing.assert_close(found[0, :, t, a], after.real, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(found[0, :, t, b], after.imag, rtol=1e-5, atol=1e-5)


def test_ntk_keeps_the_highest_frequency_and_divides_the_lowest_by_the_factor() -> None:
    """arXiv 2309.00071, eq. 16: b' = b * s^(d / (d - 2))."""
    plain, scaled = (frequencies(Rotary(base), 64) for base in (10_000.0, larger_base(10_000.0, 4.0, 64)))
    assert scaled[0] == plain[0] == 1.0
    assert scaled[-1].item() == pytest.approx(plain[-1].item() / 4, rel=1e-5)
    torch.testing.assert_close(scaled, (10_000.0 * 4 ** (64 / 62)) ** (-torch.arange(0, 64, 2) / 64), rtol=1e-5, atol=0)


def test_dynamic_is_plain_within_the_context_and_ntk_beyond_it() -> None:
    rotary = Rotary(10_000.0, RotaryScaling("dynamic", 2.0, original_context=100))
    plain = frequencies(Rotary(10_000.0), 64)
    assert torch.equal(frequencies(rotary, 64, 100), plain)
    beyond = frequencies(rotary, 64, 300)  # 2 * 300 / 100 - 1 = 5 times
    torch.testing.assert_close(beyond, frequencies(Rotary(larger_base(10_000.0, 5.0, 64)), 64))


@pytest.mark.parametrize("heads", [1, 2, 8, 12, 71])
def test_alibi_slopes_are_a_geometric_sequence(heads: int) -> None:
    """arXiv 2108.12409, section 3: for 8 heads 1/2, 1/4, ..., 1/256; the score of a key n places back loses n slopes."""
    bias = Alibi(heads, 1.0)(torch.tensor([[[0, -1, -7]]]))
    assert bias.shape == (1, heads, 1, 3)
    slopes = -bias[0, :, 0, 1]
    assert torch.equal(bias[0, :, 0, 0], torch.zeros(heads))
    torch.testing.assert_close(-bias[0, :, 0, 2], 7 * slopes)
    below = 2 ** math.floor(math.log2(heads))
    assert slopes[:below].tolist() == pytest.approx([2 ** (-8 * (i + 1) / below) for i in range(below)])
    twice = [2 ** (-8 * (i + 1) / (2 * below)) for i in range(2 * below)]
    assert slopes[below:].tolist() == pytest.approx(twice[0::2][: heads - below])


def test_relative_buckets_are_exact_near_and_logarithmic_far() -> None:
    """arXiv 1910.10683, section 2.1: 32 buckets, ranges that widen logarithmically up to 128, one bucket beyond."""
    causal = bucket(-torch.arange(0, 300), Relative(32, 128), causal=True).tolist()
    assert causal[:16] == list(range(16))
    assert causal == sorted(causal) and causal[128] == causal[299] == 31 and causal[126] == 31
    assert bucket(torch.tensor([1, 50]), Relative(32, 128), causal=True).tolist() == [0, 0], "no key is ahead"
    both = bucket(torch.arange(-300, 301), Relative(32, 128), causal=False)
    assert both[300] == 0 and set(both[:300].tolist()) == set(range(1, 16))
    assert torch.equal(both[301:], both[:300].flip(0) + 16), "those ahead mirror those behind"


def test_a_relative_bias_is_the_table_at_the_bucket() -> None:
    bias = RelativeBias(Relative(8, 20), heads=3, causal=False)
    torch.nn.init.normal_(bias.weight)
    distance = torch.tensor([[[0, 1, -1], [5, -5, 19]]])
    found = bias(distance)
    assert found.shape == (1, 3, 2, 3)
    for t in range(2):
        for s in range(3):
            number = bucket(distance[0, t, s], Relative(8, 20), causal=False)
            assert torch.equal(found[0, :, t, s], bias.weight[number])
