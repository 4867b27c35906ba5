"""The engine's choice is that of sampling.py, token for token; native and numpy choose alike; what changes logits is exact."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from hornbook.engine.choose import Chooser, Draw, NativeSample, Sample, likeliest, log_sum, sample
from hornbook.engine.executor import Floats
from hornbook.engine.sampling import Sampler
from hornbook.engine.uniforms import uniform
from hornbook.errors import GenerationError
from hornbook.kernels.library import library
from hornbook.types import SamplingParams

V = 301


@pytest.fixture(params=["numpy", "native"])
def chosen_by(request: pytest.FixtureRequest) -> Sample:
    if request.param == "numpy":
        return sample
    kernels = library()
    if kernels is None:
        pytest.skip("the native kernels are not built here")
    return NativeSample(kernels)


def logits_of(seed: int, size: int = V) -> Floats:
    return (np.random.default_rng(seed).normal(size=size) * 4).astype(np.float32)


GREEDY = SamplingParams()
PARAMS = [
    GREEDY,
    SamplingParams(repetition_penalty=1.4, frequency_penalty=0.3, presence_penalty=0.2),
    SamplingParams(repetition_penalty=1.4, repetition_window=0),
    SamplingParams(repetition_penalty=1.4, repetition_window=2),
    SamplingParams(temperature=0.8, repetition_penalty=5.0, repetition_window=1, presence_penalty=0.2),
    SamplingParams(repetition_penalty=1.4, repetition_window=99),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.3),
    SamplingParams(temperature=1e-12),
    SamplingParams(temperature=1.2, top_k=1),
    SamplingParams(temperature=1.2, top_k=7),
    SamplingParams(temperature=1.2, top_p=0.8),
    SamplingParams(temperature=1.2, top_p=1e-9),
    SamplingParams(temperature=1.2, min_p=0.1),
    SamplingParams(temperature=0.9, top_k=40, top_p=0.9, min_p=0.02, repetition_penalty=1.1, logit_bias={5: 4, 9: -50}),
]


@pytest.mark.parametrize("params", PARAMS, ids=lambda params: f"t{params.temperature}k{params.top_k}p{params.top_p}")
def test_the_choice_is_that_of_the_plain_sampler(chosen_by: Sample, params: SamplingParams) -> None:
    for seed in range(60):
        prompt = [seed % V, 3, 3]
        raw = logits_of(seed)
        seeded = SamplingParams(**{name: getattr(params, name) for name in params.__slots__} | {"seed": seed})
        plain = Sampler(seeded, prompt_length=3)
        chooser = Chooser(seeded, prompt, chosen_by, seed=seed)
        ids = list(prompt)
        for _ in range(4):
            choice = chooser.choose(ids, raw)
            assert choice.id == plain.choose(ids, torch.from_numpy(raw))
            assert choice.logprob == pytest.approx(float(torch.from_numpy(raw).log_softmax(-1)[choice.id]), abs=1e-4)
            chooser.accept(choice.id)
            ids.append(choice.id)


def test_a_repetition_penalty_with_a_window_forgets_what_lies_before_it(chosen_by: Sample) -> None:
    """Logits 4, 3, 2, 1 and a penalty of 100: the likeliest token that is not among the last ``window``."""

    def said(window: int) -> list[int]:
        params = SamplingParams(repetition_penalty=100.0, repetition_window=window)
        raw, ids = np.array([4, 3, 2, 1], np.float32), [0]
        chooser = Chooser(params, ids, chosen_by, seed=0)
        for _ in range(5):
            id = chooser.choose(ids, raw).id
            chooser.accept(id)
            ids = [*ids, id]
        return ids[1:]

    assert said(0) == [0, 0, 0, 0, 0]
    assert said(1) == [1, 0, 1, 0, 1]
    assert said(2) == [1, 2, 0, 1, 2]
    assert said(-1) == said(99) == [1, 2, 3, 0, 0]


def test_ties_go_to_the_lowest_id(chosen_by: Sample) -> None:
    logits = np.zeros(V, np.float32)
    assert chosen_by(logits, logits, None, GREEDY, 0.0)[0] == 0
    logits[[200, 9, 77]] = 2.0
    assert chosen_by(logits, logits, None, GREEDY, 0.0)[0] == 9
    assert [id for id, _ in likeliest(logits, 3)] == [9, 77, 200]


@pytest.mark.parametrize(("number", "expected"), [(0.0, 1), (1.0 - 2**-53, 3)])
def test_a_draw_at_either_end_never_takes_an_impossible_token(chosen_by: Sample, number: float, expected: int) -> None:
    logits = np.array([-np.inf, 0.0, -np.inf, 0.0, -np.inf], np.float32)
    assert chosen_by(logits, logits, None, SamplingParams(temperature=1.0), number)[0] == expected


def test_only_what_is_allowed_is_chosen_and_its_logprob_is_the_models_own(chosen_by: Sample) -> None:
    raw = logits_of(1)
    allowed_ids = [4, 31, 32, 299]
    bits = np.zeros(10, np.uint32)
    for id in allowed_ids:
        bits[id // 32] |= np.uint32(1 << (id % 32))
    drawn = Counter()
    for n in range(200):
        for params in (GREEDY, SamplingParams(temperature=5.0), SamplingParams(temperature=5.0, top_k=2)):
            id, logprob = chosen_by(raw, raw, bits, params, n / 200)
            assert logprob == pytest.approx(float(raw[id]) - log_sum(raw), abs=1e-4)
            drawn[id] += 1
    assert sorted(drawn) == allowed_ids
    assert chosen_by(raw, raw, bits, GREEDY, 0.0)[0] == max(allowed_ids, key=lambda id: raw[id])


@pytest.mark.parametrize("params", [GREEDY, SamplingParams(temperature=1.0), SamplingParams(logprobs=False)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_logits_are_a_named_error(chosen_by: Sample, params: SamplingParams, bad: float) -> None:
    for place in (0, 17, V - 1):
        raw = logits_of(2)
        raw[place] = bad
        with pytest.raises(GenerationError, match="1 of 301 logits"):
            Chooser(params, [1], chosen_by, seed=1).choose([1], raw)


def test_a_grammar_that_allows_nothing_is_a_named_error(chosen_by: Sample) -> None:
    class Nothing:
        is_done = False

        def allowed(self) -> Any:
            return np.zeros(10, np.uint32)

    for params in (GREEDY, SamplingParams(temperature=1.0)):
        chooser = Chooser(params, [1], chosen_by, seed=1, matcher=Nothing())  # type: ignore[arg-type]
        with pytest.raises(GenerationError, match="allows no token"):
            chooser.choose([1], logits_of(3))


def test_draws_follow_the_distribution(chosen_by: Sample) -> None:
    """Chi-square over 8 tokens, 7 degrees of freedom: 24.3 is exceeded once in a thousand; the seed is fixed."""
    logits = np.array([2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0, -np.inf, 1.5], np.float32)
    params, n = SamplingParams(temperature=1.0), 6000
    counts = Counter(chosen_by(logits, logits, None, params, uniform(11, 0, i))[0] for i in range(n))
    weights = np.exp(logits)
    assert counts[7] == 0
    mean = weights / weights.sum() * n
    assert sum((counts[i] - mean[i]) ** 2 / mean[i] for i in range(9) if i != 7) < 24.3


def test_processors_come_first_and_the_models_logits_stay_as_they_are(chosen_by: Sample) -> None:
    raw = logits_of(4)
    before = raw.copy()

    def only_five(ids: Any, logits: Floats) -> Floats:
        logits[:] = -np.inf
        logits[5] = 0.0
        return logits

    params = SamplingParams(repetition_penalty=2.0, logit_bias={6: 1.0})
    choice = Chooser(params, [1, 2], chosen_by, seed=1, processors=(only_five,)).choose([1, 2], raw)
    assert choice.id == 5 and np.array_equal(raw, before)
    assert choice.logprob == pytest.approx(float(raw[5]) - log_sum(raw), abs=1e-4)


def test_rows_side_by_side_are_chosen_as_each_alone() -> None:
    kernels = library()
    if kernels is None:
        pytest.skip("the native kernels are not built here")
    native, size = NativeSample(kernels), 20_011
    bits = np.zeros(-(-size // 32), np.uint32)
    bits[100:140] = 0x55555555
    draws = []
    for seed in range(24):
        raw = logits_of(seed, size)
        changed = raw + logits_of(100 + seed, size) if seed % 3 == 0 else raw
        if seed == 17:
            raw[4_321] = np.nan
        k = (0, 3, 40, 500)[seed % 4]
        params = SamplingParams(temperature=seed % 5 / 3, top_k=k, top_p=0.9, logprobs=seed % 2 == 0)
        draws.append(Draw(changed, raw, bits if seed % 7 == 0 else None, params, (seed * 0.618) % 1))
    rows = native.rows(draws)
    assert rows[17][0] == -1
    for draw, (id, logprob) in zip(draws, rows, strict=True):
        alone_id, alone_logprob = native(*draw)
        twin_id, twin_logprob = sample(*draw)
        assert id == alone_id == twin_id
        if id >= 0:
            assert logprob == alone_logprob
            assert not draw.params.logprobs or logprob == pytest.approx(twin_logprob, abs=1e-4)


def test_uniforms_are_uniform_and_differ_in_every_coordinate() -> None:
    """16 bins of each coordinate's walk, chi-square with 15 degrees of freedom: 37.7 is exceeded once in a thousand."""
    walks = {
        "tokens": [uniform(1, 0, i) for i in range(8000)],
        "samples": [uniform(1, i, 0) for i in range(8000)],
        "seeds": [uniform(i - 4000, 0, 0) for i in range(8000)],
    }
    for numbers in walks.values():
        assert all(0 <= number < 1 for number in numbers) and len(set(numbers)) == 8000
        bins = Counter(int(number * 16) for number in numbers)
        assert sum((bins[i] - 500) ** 2 / 500 for i in range(16)) < 37.7
        pairs = Counter((int(a * 4), int(b * 4)) for a, b in zip(numbers[::2], numbers[1::2], strict=True))
        assert sum((count - 250) ** 2 / 250 for count in pairs.values()) < 37.7
    assert uniform(2**64 + 5, 1, 2) == uniform(5, 1, 2)
