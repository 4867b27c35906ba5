"""Each filter equals its peer in transformers; draws follow the distribution; bad logits have a name."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from hornbook.engine import sampling
from hornbook.engine.sampling import Sampler
from hornbook.errors import GenerationError
from hornbook.types import SamplingParams

logits_process = pytest.importorskip("transformers.generation.logits_process")

B, V = 5, 301


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(B, V, generator=torch.Generator().manual_seed(7)) * 4


@pytest.fixture
def ids() -> list[list[int]]:
    return torch.randint(0, V, (B, 40), generator=torch.Generator().manual_seed(8)).tolist()


def same(ours: Tensor, theirs: Tensor) -> None:
    """Equal as distributions (a shift of all logits changes nothing), with the same tokens removed."""
    assert torch.equal(torch.isinf(ours), torch.isinf(theirs))
    torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.0])
def test_repetition_penalty_is_that_of_transformers(logits: Tensor, ids: list[list[int]], penalty: float) -> None:
    theirs = logits_process.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor(ids), logits.clone())
    torch.testing.assert_close(sampling.repetition_penalty(ids, logits, penalty), theirs)


@pytest.mark.parametrize("value", [0.1, 0.8, 1.7])
def test_temperature_is_that_of_transformers(logits: Tensor, value: float) -> None:
    same(sampling.temperature(logits, value), logits_process.TemperatureLogitsWarper(value)(None, logits))


@pytest.mark.parametrize("k", [1, 5, 300, 301, 5000])
def test_top_k_is_that_of_transformers(logits: Tensor, k: int) -> None:
    logits[0, :20] = logits[0].max()  # ties
    same(sampling.top_k(logits, k), logits_process.TopKLogitsWarper(k)(None, logits))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
def test_top_p_is_that_of_transformers(logits: Tensor, p: float) -> None:
    same(sampling.top_p(logits, p), logits_process.TopPLogitsWarper(p)(None, logits))


@pytest.mark.parametrize("p", [0.01, 0.2, 1.0])
def test_min_p_is_that_of_transformers(logits: Tensor, p: float) -> None:
    same(sampling.min_p(logits, p), logits_process.MinPLogitsWarper(p)(None, logits))


def test_the_whole_list_in_order_is_that_of_transformers(logits: Tensor, ids: list[list[int]]) -> None:
    params = SamplingParams(temperature=0.7, top_k=40, top_p=0.8, min_p=0.02, repetition_penalty=1.2)
    ours, theirs = logits, logits
    for process in sampling.processors(params, prompt_length=10):
        ours = process(ids, ours)
    for peer in (
        logits_process.RepetitionPenaltyLogitsProcessor(1.2),
        logits_process.TemperatureLogitsWarper(0.7),
        logits_process.TopKLogitsWarper(40),
        logits_process.TopPLogitsWarper(0.8),
        logits_process.MinPLogitsWarper(0.02),
    ):
        theirs = peer(torch.tensor(ids), theirs)
    same(ours, theirs)


def test_count_penalties_count_the_output_and_not_the_prompt(logits: Tensor) -> None:
    ids = [[3, 3, 9, 4, 4, 4, 7]] * B  # the output begins at index 3
    ours = sampling.count_penalty(ids, logits, frequency=0.5, presence=0.25, start=3)
    expected = logits.clone()
    expected[:, 4] -= 3 * 0.5 + 0.25
    expected[:, 7] -= 1 * 0.5 + 0.25
    torch.testing.assert_close(ours, expected)


def test_filters_leave_their_input_alone(logits: Tensor, ids: list[list[int]]) -> None:
    before = logits.clone()
    everything = SamplingParams(
        temperature=0.5, top_k=3, top_p=0.5, min_p=0.5, repetition_penalty=2, frequency_penalty=1, presence_penalty=1
    )
    for process in sampling.processors(everything, prompt_length=0):
        process(ids, logits)
    assert torch.equal(logits, before)


def test_temperature_zero_is_the_argmax_after_penalties(logits: Tensor) -> None:
    best, second = logits[0].topk(2).indices.tolist()
    assert Sampler(SamplingParams(), 0).choose([], logits[0]) == best
    assert Sampler(SamplingParams(presence_penalty=100.0), 0).choose([best], logits[0]) == second
    assert Sampler(SamplingParams(presence_penalty=100.0), 1).choose([best], logits[0]) == best  # it was the prompt's


def test_a_tiny_temperature_is_greedy_and_does_not_overflow(logits: Tensor) -> None:
    for value in (1e-3, 1e-12, 1e-38):
        assert Sampler(SamplingParams(temperature=value), 0).choose([], logits[0] * 100) == int(logits[0].argmax())


def test_draws_follow_the_distribution() -> None:
    """Chi-square over 8 tokens, 7 degrees of freedom: 24.3 is exceeded once in a thousand; the seed is fixed."""
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -torch.inf, 1.5])
    sampler = Sampler(SamplingParams(temperature=1.0, seed=11), 0)
    n = 6000
    counts = Counter(sampler.choose([], logits) for _ in range(n))
    expected = logits.softmax(-1) * n
    assert counts[7] == 0
    assert sum((counts[i] - float(e)) ** 2 / float(e) for i, e in enumerate(expected) if i != 7) < 24.3


@pytest.mark.parametrize(("uniform", "expected"), [(0.0, 1), (1.0 - 2**-53, 3), (1.0, 3)])
def test_a_draw_at_either_end_never_takes_an_impossible_token(uniform: float, expected: int) -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf])
    assert sampling.draw(logits, uniform) == expected


def test_a_seed_repeats_and_another_differs(logits: Tensor) -> None:
    def run(seed: int | None) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.5, seed=seed), 0)
        return [sampler.choose([], row) for row in logits for _ in range(4)]

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(-3) == run(-3)
    assert run(None) != run(None)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=1.0), SamplingParams(top_k=2)])
def test_bad_logits_are_a_named_error(logits: Tensor, bad: float, params: SamplingParams) -> None:
    logits[0, 17] = bad
    with pytest.raises(GenerationError, match="1 of 301 logits"):
        Sampler(params, 0).choose([], logits[0])


def test_a_row_with_nothing_allowed_is_a_named_error() -> None:
    with pytest.raises(GenerationError, match="9 of 9 logits"):
        Sampler(SamplingParams(), 0).choose([], torch.full((9,), -torch.inf))


def test_a_bias_comes_before_the_penalties(logits: Tensor) -> None:
    best, second = logits[0].topk(2).indices.tolist()
    assert Sampler(SamplingParams(logit_bias={best: -100.0}), 0).choose([], logits[0]) == second
    biased = SamplingParams(logit_bias={5: 100.0}, repetition_penalty=1e6)
    assert Sampler(biased, 0).choose([5], logits[0]) == best  # (logit + 100) / 1e6 is less


def test_an_extra_processor_comes_first(logits: Tensor) -> None:
    def only_five(ids: object, scores: Tensor) -> Tensor:
        return torch.full_like(scores, -torch.inf).index_fill(-1, torch.tensor([5]), 0.0)

    assert Sampler(SamplingParams(), 0, [only_five]).choose([], logits[0]) == 5
    assert not Sampler(SamplingParams(), 0, [only_five]).is_plain_greedy
