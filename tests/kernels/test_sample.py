"""Choosing a token natively: what is kept is what engine/sampling.py keeps, and draws follow the distribution."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from native_ops import loaded

from hornbook.engine import sampling
from hornbook.errors import KernelError
from hornbook.kernels import library


@pytest.fixture
def kernels() -> Iterator[Any]:
    found = loaded()
    if found is None:
        pytest.skip("there are no native kernels here")
    yield found


def choose(
    kernels: Any, logits: np.ndarray, uniform: float = 0.5, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
    min_p: float = 0.0, allowed: np.ndarray | None = None, raw: np.ndarray | None = None,
) -> tuple[int, float]:  # fmt: skip
    """The id and its log-probability in ``raw``."""
    bits = (
        None
        if allowed is None
        else np.packbits(np.append(allowed, np.zeros(-len(allowed) % 32, bool)), bitorder="little")
    )
    how, logprob = library.Sampling(temperature, top_p, min_p, top_k), ctypes.c_float(np.nan)
    chosen = kernels.hb_sample(
        logits.ctypes.data, len(logits), None if bits is None else bits.ctypes.data, ctypes.byref(how), uniform,
        None if raw is None else raw.ctypes.data, ctypes.byref(logprob),
    )  # fmt: skip
    return chosen, logprob.value


def distribution(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """What engine/sampling.py makes of the row, in float64."""
    x = sampling.temperature(torch.tensor(logits)[None].double(), temperature)
    x = sampling.top_k(x, top_k) if top_k else x
    x = sampling.top_p(x, top_p) if top_p < 1 else x
    return (sampling.min_p(x, min_p) if min_p else x).softmax(-1)[0].numpy()


def random_logits(n: int, seed: int, scale: float = 2.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(n) * scale).astype(np.float32)


SETTINGS = [
    (1.0, 0, 1.0, 0.0),
    (0.7, 0, 1.0, 0.0),
    (1.0, 5, 1.0, 0.0),
    (1.0, 0, 0.9, 0.0),
    (2.5, 0, 0.3, 0.0),
    (0.8, 0, 1.0, 0.05),
    (0.8, 20, 0.95, 0.02),
    (1.3, 3, 0.99, 0.0),
    (1.0, 0, 1e-6, 0.0),
    (1.0, 10_000, 0.5, 0.3),
]


@pytest.mark.parametrize(("temperature", "top_k", "top_p", "min_p"), SETTINGS)
@pytest.mark.parametrize("n", [3, 64, 1003])
def test_a_draw_inverts_the_distribution_of_the_filters(
    kernels: Any, n: int, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    """Just inside each token's share of 0 .. 1 that token is chosen: so the kept set, its order and its weights are right."""
    logits = random_logits(n, n)
    how = {"temperature": temperature, "top_k": top_k, "top_p": np.float32(top_p), "min_p": np.float32(min_p)}
    shares = distribution(logits, temperature, top_k, float(np.float32(top_p)), float(np.float32(min_p)))
    ends = shares.cumsum()
    for token in np.flatnonzero(shares)[:200]:
        begin = ends[token] - shares[token]
        for place in (0.01, 0.99) if shares[token] > 1e-4 else (0.5,):
            assert choose(kernels, logits, begin + place * shares[token], **how)[0] == token
    kept = np.flatnonzero(shares)
    assert choose(kernels, logits, 0.0, **how)[0] == kept[0]
    assert choose(kernels, logits, 1 - 2**-53, **how)[0] == kept[-1]


@pytest.mark.parametrize(("temperature", "top_k", "top_p", "min_p"), SETTINGS)
def test_a_whole_vocabulary_keeps_what_the_filters_keep(
    kernels: Any, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = random_logits(49_152, 7, 3.0)
    how = {"temperature": temperature, "top_k": top_k, "top_p": np.float32(top_p), "min_p": np.float32(min_p)}
    shares = distribution(logits, temperature, top_k, float(np.float32(top_p)), float(np.float32(min_p)))
    ends = shares.cumsum()
    kept = np.flatnonzero(shares)
    assert choose(kernels, logits, 0.0, **how)[0] == kept[0]
    for uniform in np.random.default_rng(1).random(300):
        token = np.searchsorted(ends, uniform, side="right")
        found = choose(kernels, logits, uniform, **how)[0]
        assert shares[found] > 0
        # Weights are float32: at the very border of two tokens' shares either is right.
        assert found == token or min(abs(uniform - ends[token]), abs(uniform - ends[token] + shares[token])) < 1e-6


def test_ties_are_kept_by_top_k_and_broken_by_id_in_top_p(kernels: Any) -> None:
    logits = np.array([0, 1, 1, 0, 1, -5] * 300, np.float32)
    draws = np.linspace(0, 1, 4001, endpoint=False)
    assert {choose(kernels, logits, u, top_k=2)[0] for u in draws} == set(np.flatnonzero(logits == 1))
    wanted = {1, 2, 4, 7}
    share = np.exp(1) / np.exp(np.float64(logits)).sum()
    assert {choose(kernels, logits, u, top_p=3.5 * share)[0] for u in draws} == wanted
    assert {choose(kernels, np.zeros(5000, np.float32), u, top_k=1)[0] for u in (0.0, 0.5, 0.9999)} == {0, 2500, 4999}


def test_draws_follow_the_distribution(kernels: Any) -> None:
    """Chi-square over 40 tokens: 20,000 draws stay below the 99.9th percentile."""
    logits = random_logits(40, 3, 1.0)
    how = {"temperature": 0.9, "top_p": 0.97, "top_k": 30, "min_p": 0.01}
    shares = distribution(logits, 0.9, 30, 0.97, 0.01)
    uniform = np.random.default_rng(11).random(20_000)
    counts = np.bincount([choose(kernels, logits, u, **how)[0] for u in uniform], minlength=40)
    kept = shares > 0
    assert not counts[~kept].any()
    statistic = ((counts[kept] - 20_000 * shares[kept]) ** 2 / (20_000 * shares[kept])).sum()
    degrees = kept.sum() - 1
    assert statistic < degrees + 3.1 * np.sqrt(2 * degrees) + 7  # Wilson and Hilferty's bound, rounded up


@pytest.mark.parametrize("n", [1, 7, 8, 33, 257, 5000])
def test_the_best_is_the_first_of_the_largest(kernels: Any, n: int) -> None:
    logits = random_logits(n, n)
    raw = random_logits(n, n + 1)
    chosen, logprob = choose(kernels, logits, temperature=0, raw=raw)
    assert chosen == logits.argmax()
    assert logprob == pytest.approx(torch.tensor(raw).double().log_softmax(-1)[chosen].item(), abs=1e-5)
    logits[:] = -3.0
    assert choose(kernels, logits, temperature=0)[0] == 0


def test_only_what_is_allowed_is_chosen(kernels: Any) -> None:
    logits = random_logits(1000, 1)
    allowed = np.zeros(1000, bool)
    allowed[[3, 31, 32, 500, 999]] = True
    draws = np.random.default_rng(0).random(200)
    for how in ({}, {"top_p": 0.999}, {"top_k": 4}, {"top_k": 900}, {"min_p": 0.001}):
        assert all(allowed[choose(kernels, logits, u, allowed=allowed, **how)[0]] for u in draws)
    assert choose(kernels, logits, allowed=allowed, temperature=0)[0] == max(
        np.flatnonzero(allowed), key=lambda i: logits[i]
    )
    alone = np.zeros(1000, bool)
    alone[998] = True
    assert choose(kernels, logits, 0.99, allowed=alone, top_p=0.5)[0] == 998


def test_where_nothing_can_be_chosen_nothing_is(kernels: Any) -> None:
    logits = random_logits(100, 1)
    assert choose(kernels, logits, allowed=np.zeros(100, bool))[0] == -1
    for bad in (np.nan, np.inf):
        for place in (0, 50, 99):
            spoilt = logits.copy()
            spoilt[place] = bad
            for temperature in (0.0, 1.0):
                assert choose(kernels, spoilt, temperature=temperature)[0] == -1
    assert choose(kernels, np.full(100, -np.inf, np.float32))[0] == -1
    masked = np.where(np.arange(100) == 77, logits, -np.inf).astype(np.float32)
    assert choose(kernels, masked, 0.3)[0] == 77


@pytest.mark.parametrize("temperature", [1e-30, 1e-6, 1e4])
def test_temperatures_at_either_end(kernels: Any, temperature: float) -> None:
    logits = random_logits(500, 2, 30.0)
    found = {choose(kernels, logits, u, temperature=temperature, top_p=0.9)[0] for u in (0.0, 0.5, 0.999)}
    assert found == {logits.argmax()} if temperature < 1 else len(found) == 3


def test_log_probabilities_of_rows(kernels: Any) -> None:
    rows = np.stack([random_logits(1001, seed) for seed in range(9)])
    targets = np.array([*rows[:4].argmax(1), 5, 6, 7, 8, 1000], np.int32)
    logprob, best = np.empty(9, np.float32), np.empty(9, np.int32)
    kernels.hb_logprobs(rows.ctypes.data, 9, 1001, targets.ctypes.data, logprob.ctypes.data, best.ctypes.data)
    wanted = torch.tensor(rows).double().log_softmax(-1).numpy()[np.arange(9), targets]
    assert np.abs(logprob - wanted).max() < 1e-5
    assert best.tolist() == (rows.argmax(1) == targets).tolist()
    targets[4] = 1001
    with pytest.raises(KernelError, match="row 4 asks for token 1001 of 1001"):
        kernels.hb_logprobs(rows.ctypes.data, 9, 1001, targets.ctypes.data, logprob.ctypes.data, best.ctypes.data)
