"""Paged attention: right by its definition for every shape, and the same bits however a sequence came to be."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from native_ops import ATTEND, EMBED, F16, F32, I8, PAGE, Batch, Cache, Ops

from hornbook.kernels import twins

V = 211  # ids are rows of random states
TOLERANCE = {F32: 2e-6, F16: 1e-3, I8: 1.2e-2}


def states(width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((V, width)).astype(np.float32)


def attention(
    kernels: Any, table: np.ndarray, heads: int, kv_heads: int, width: int, *, window: int = 0, causal: bool = True,
    softcap: float = 0.0, slopes: Any = None, layer: int = 0,
) -> Ops:  # fmt: skip
    """Embed, Attend: the embedding's row of an id is its [q | k | v]."""
    ops = Ops(kernels, table.shape[1], heads * width)
    ops.add(EMBED, out=0, f=[1.0], weights=[table])
    sizes = [heads, kv_heads, width, layer, window, int(causal)]
    return ops.add(ATTEND, 0, out=1, i=sizes, f=[width**-0.5, softcap], vectors=[slopes])


def plainly(table: np.ndarray, batch: Batch, heads: int, kv_heads: int, width: int, **rule: Any) -> np.ndarray:
    """The twin's answer in float64, of sequences that are whole in the batch."""
    a = torch.from_numpy(table[batch.ids]).double()
    at, sequence = torch.from_numpy(batch.positions).long(), torch.from_numpy(batch.sequence)
    shape = {"heads": heads, "kv_heads": kv_heads, "head_width": width}
    return twins.attend(a, at, sequence, scale=width**-0.5, **shape, **rule).numpy()


def some_ids(*lengths: int, seed: int = 0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, V, n).tolist() for n in lengths]


def some_pages(lengths: list[int], seed: int = 0) -> np.ndarray:
    """Pages all over the cache; what is not used is 0."""
    need = [-(-n // PAGE) for n in lengths]
    table = np.zeros((len(lengths), max(need)), np.int32)
    order = iter(np.random.default_rng(seed).permutation(sum(need)) + 1)
    for row, n in zip(table, need, strict=True):
        row[:n] = [next(order) for _ in range(n)]
    return table


def pages_of(table: np.ndarray) -> int:
    return int(table.max()) + 1


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    assert np.abs(found - wanted).max() <= tolerance * max(1.0, np.abs(wanted).max()), np.abs(found - wanted).max()


SHAPES = [  # heads, key heads, width, window, softcap, ALiBi
    (9, 3, 64, 0, 0.0, False),
    (4, 4, 16, 0, 0.0, True),
    (4, 1, 80, 5, 0.0, False),
    (8, 2, 96, 130, 3.0, False),
    (2, 2, 128, 0, 1.5, True),
    (4, 1, 256, 64, 0.0, False),
    (14, 2, 20, 16, 0.0, False),
    (60, 1, 8, 0, 0.0, False),
]


@pytest.mark.parametrize(("heads", "kv_heads", "width", "window", "softcap", "alibi"), SHAPES)
@pytest.mark.parametrize("type", [F32, F16, I8])
def test_is_attention_by_its_definition(
    kernels: Any, heads: int, kv_heads: int, width: int, window: int, softcap: float, alibi: bool, type: int
) -> None:
    table = states((heads + 2 * kv_heads) * width, heads)
    slopes = np.linspace(0.5, 0.01, heads) if alibi else None
    ids = some_ids(37, 1, 290, 16)
    pages = some_pages([37, 1, 290, 16])
    batch = Batch(ids, pages=pages)
    ops = attention(kernels, table, heads, kv_heads, width, window=window, softcap=softcap, slopes=slopes)
    cache = Cache(kernels, 1, kv_heads, width, pages_of(pages), type)
    found = ops.run(batch, cache.handle)
    rule = {"window": window or None, "softcap": softcap or None}
    wanted = plainly(
        table, batch, heads, kv_heads, width, slopes=None if slopes is None else torch.tensor(slopes), **rule
    )
    close(found, wanted, TOLERANCE[type])


@pytest.mark.parametrize("window", [0, 7])
def test_attention_that_looks_ahead_needs_no_cache(kernels: Any, window: int) -> None:
    table = states(6 * 24)
    batch = Batch(some_ids(5, 290, 1, 33))
    found = attention(kernels, table, 4, 1, 24, window=window, causal=False).run(batch)
    close(found, plainly(table, batch, 4, 1, 24, causal=False, window=window or None), TOLERANCE[F32])


def in_steps(ops: Ops, cache: Cache, ids: list[int], cuts: list[int], pages: np.ndarray) -> np.ndarray:
    """The sequence's rows, given to the model piece by piece."""
    rows, before = [], 0
    for cut in [*cuts, len(ids)]:
        rows.append(ops.run(Batch([ids[before:cut]], [before], pages), cache.handle))
        before = cut
    return np.concatenate(rows)


@pytest.mark.parametrize("type", [F32, F16, I8])
@pytest.mark.parametrize(("heads", "kv_heads", "window"), [(9, 3, 0), (4, 4, 0), (6, 1, 150), (2, 2, 20)])
def test_prefill_chunks_and_decoding_give_the_same_bits(
    kernels: Any, type: int, heads: int, kv_heads: int, window: int
) -> None:
    width, length = 32, 560
    table = states((heads + 2 * kv_heads) * width)
    ops = attention(kernels, table, heads, kv_heads, width, window=window)
    ids, pages = some_ids(length)[0], some_pages([length])
    whole = in_steps(ops, Cache(kernels, 1, kv_heads, width, pages_of(pages), type), ids, [], pages)
    cuts = [[1, 17, 18, 256, 257, 500], [200, 255, 260], [250, *range(490, length)]]
    for threads, cut in itertools.product([1, 2, 4], cuts):
        kernels.hb_set_threads(threads)
        cache = Cache(kernels, 1, kv_heads, width, pages_of(pages), type)
        assert in_steps(ops, cache, ids, cut, pages).tobytes() == whole.tobytes(), (threads, cut[:4])


def test_a_sequence_has_the_same_bits_in_any_company(kernels: Any) -> None:
    heads, kv_heads, width, lengths = 6, 2, 48, [200, 3, 64, 129]
    table = states(10 * 48)
    ops = attention(kernels, table, heads, kv_heads, width, softcap=5.0)
    ids, pages = some_ids(*lengths), some_pages(lengths, 1)
    alone = [
        in_steps(ops, Cache(kernels, 1, 2, width, pages_of(pages), F16), one, [], p[None])
        for one, p in zip(ids, pages, strict=True)
    ]
    draw = np.random.default_rng(5)
    for _ in range(5):
        cache = Cache(kernels, 1, kv_heads, width, pages_of(pages), F16)
        before, rows = [0] * 4, [[] for _ in range(4)]
        while any(b < n for b, n in zip(before, lengths, strict=True)):
            running = [s for s in range(4) if before[s] < lengths[s] and draw.random() < 0.7]
            take = [int(min(draw.integers(1, 90), lengths[s] - before[s])) for s in running]
            if not running:
                continue
            new = [ids[s][before[s] : before[s] + n] for s, n in zip(running, take, strict=True)]
            out = ops.run(Batch(new, [before[s] for s in running], pages[running]), cache.handle)
            for s, n, part in zip(running, take, np.split(out, np.cumsum(take)[:-1]), strict=True):
                before[s] += n
                rows[s].append(part)
        for mine, wanted in zip(rows, alone, strict=True):
            assert np.concatenate(mine).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("type", [F32, F16, I8])
def test_what_an_old_page_holds_does_not_leak(kernels: Any, type: int) -> None:
    """Nor what later tokens of the same step hold."""
    width, length = 32, 45
    table = states(3 * width)
    table[0] = np.nan
    ops = attention(kernels, table, 1, 1, width)
    ids, pages = some_ids(length)[0], np.arange(3, dtype=np.int32)[None]
    ids = [1 + i % (V - 1) for i in ids]
    clean = in_steps(ops, Cache(kernels, 1, 1, width, 3, type), ids, [20], pages)
    assert np.isfinite(clean).all()
    stale = Cache(kernels, 1, 1, width, 3, type)
    ops.run(Batch([[0] * 48], pages=pages), stale.handle)
    assert np.isnan(stale.read(2)).all()
    assert in_steps(ops, stale, ids, [20], pages).tobytes() == clean.tobytes()
    spoilt = ops.run(Batch([[*ids, 0, 3]], pages=pages), stale.handle)
    assert spoilt[:length].tobytes() == clean.tobytes()
    assert np.isnan(spoilt[length:]).all(), "a token that sees it shows it"


@pytest.mark.parametrize(("type", "tolerance"), [(F32, 0.0), (F16, 1e-3), (I8, 5e-3)])
def test_pages_can_be_read_and_copied(kernels: Any, type: int, tolerance: float) -> None:
    width = 20
    table = states(2 * 3 * width)
    ops = attention(kernels, table, 2, 2, width, layer=1)
    cache = Cache(kernels, 2, 2, width, 3, type)
    ids = some_ids(18)[0]
    ops.run(Batch([ids], pages=[[2, 1]]), cache.handle)
    keys, values = (
        table[ids][:, a : a + 2 * width].reshape(18, 2, width).transpose(1, 0, 2) for a in (2 * width, 4 * width)
    )
    held = cache.read(2)
    assert not held[0].any()
    for part, wanted in zip(held[1], (keys, values), strict=True):
        assert np.abs(part - wanted[:, :16]).max() <= tolerance * 4
    kernels.hb_cache_copy(cache.handle, 2, 0)
    assert cache.read(0).tobytes() == held.tobytes()
    for from_, to in ((0, 3), (-1, 0)):
        with pytest.raises(Exception, match="page -?[0-9] of a cache of 3"):
            kernels.hb_cache_copy(cache.handle, from_, to)


def test_page_bytes_are_those_of_the_numbers(kernels: Any) -> None:
    assert kernels.hb_cache_page_bytes(30, 3, 64, F32) == 30 * 3 * 2 * 16 * 64 * 4
    assert kernels.hb_cache_page_bytes(30, 3, 64, F16) == 30 * 3 * 2 * 16 * 64 * 2
    assert kernels.hb_cache_page_bytes(30, 3, 64, I8) == 30 * 3 * 2 * 16 * (64 + 4)
    assert kernels.hb_cache_page_bytes(30, 3, 64, 3) == 0
    for bad in ((0, 1, 8, 1, F32), (1, 1, 8, 0, F32), (1, 1, 8, 1, 7)):
        with pytest.raises(Exception, match="no cache of"):
            kernels.hb_cache_create(*bad)


def test_scores_beyond_any_float_stay_exact(kernels: Any) -> None:
    """Only the differences of scores count, whatever their size; a chunk far below the others adds nothing."""
    width, length = 16, 260
    table = states(3 * width)
    table[:, :width] *= 1e4
    batch = Batch(some_ids(length), pages=some_pages([length]))
    ops = attention(kernels, table, 1, 1, width)
    cache = Cache(kernels, 1, 1, width, 18, F32)
    found = ops.run(batch, cache.handle)
    assert np.isfinite(found).all()
    scores = np.float64(table[batch.ids][:, :width]) @ np.float64(table[batch.ids][:, width : 2 * width]).T
    scores[np.triu_indices(length, 1)] = -np.inf
    clear = np.sort(scores, axis=1)[:, -1] - np.sort(scores, axis=1)[:, -2] > 400
    best = table[batch.ids][scores.argmax(1), 2 * width :]
    assert clear.mean() > 0.5
    close(found[clear], best[clear], 1e-6)
