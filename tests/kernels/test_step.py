"""A step of the native kernels: every op by its twin, the same bits in any division, and nothing of a bad batch is run."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Any

import numpy as np
import pytest
import torch
from native_ops import (
    ACT,
    ADD,
    ATTEND,
    CAP,
    EMBED,
    F16,
    F32,
    GATE,
    HEAD_NORM,
    LINEAR,
    NORM,
    PAGE,
    ROTARY,
    SELECT,
    Batch,
    Cache,
    Ops,
)  # fmt: skip

from hornbook.errors import KernelError
from hornbook.kernels import twins
from hornbook.model.config import Rotary

V = 97
ACTIVATIONS = ["silu", "gelu", "gelu_tanh", "relu"]
WIDTHS = [1, 5, 8, 31, 64, 100]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def on_rows(kernels: Any, table: np.ndarray, out: int, kind: int, in_place: bool = False, **what: Any) -> np.ndarray:
    """The op's rows for a table's rows."""
    ops = Ops(kernels, table.shape[1], out)
    ops.add(EMBED, out=0, f=[1.0], weights=[table]).add(kind, 0, 0, 0 if in_place else 1, **what)
    return ops.run(Batch([range(len(table))]))


def close(found: np.ndarray, wanted: Any, tolerance: float) -> None:
    wanted = np.asarray(wanted)
    assert (np.abs(found - wanted) <= tolerance * np.maximum(1.0, np.abs(wanted))).all(), np.abs(found - wanted).max()


# ------------------------------------------------------------------------------------------------------- op by op


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norms(kernels: Any, width: int, kind: str) -> None:
    x, weight, bias = normal(7, width, scale=3) + 1, normal(width, seed=1), normal(width, seed=2)
    for its_bias in (None, bias):
        found = on_rows(kernels, x, width, NORM, i=[kind == "layer"], f=[1e-5], vectors=[weight, its_bias])
        exact = [None if v is None else torch.tensor(v).double() for v in (x, weight, its_bias)]
        close(found, twins.norm(*exact, kind, 1e-5), 3e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_sums_and_caps(kernels: Any, width: int) -> None:
    x = normal(9, width, scale=8)
    close(on_rows(kernels, x, width, ADD), x + x, 0)
    for cap in (0.0, 5.0):
        wanted = twins.cap(torch.tensor(x).double(), 0.3, cap or None)
        close(on_rows(kernels, x, width, CAP, f=[0.3, cap]), wanted, 1e-6)


@pytest.mark.parametrize("activation", range(4))
def test_activations_are_right_to_the_last_digits(kernels: Any, activation: int) -> None:
    x = np.concatenate([np.linspace(-12, 12, 4001), [0.0, -0.0, 1e-30, -1e-8, 60, -60, 500, -500]]).astype(np.float32)
    wanted = twins.act(torch.tensor(x).double(), ACTIVATIONS[activation]).numpy()
    found = on_rows(kernels, x[None], len(x), ACT, i=[activation])[0]
    assert (np.abs(found - wanted) <= 3e-7 * np.abs(x) + 1e-30).all()
    # Far below zero, too, nearly all digits are right: nothing cancels.
    some = (x < -0.5) & (x > -4)
    if activation != 3:
        assert (np.abs(found[some] / wanted[some] - 1) < 3e-6).all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("activation", range(4))
def test_gates(kernels: Any, width: int, activation: int) -> None:
    x = normal(5, 2 * width, scale=2)
    wanted = twins.gate(torch.tensor(x).double(), ACTIVATIONS[activation])
    close(on_rows(kernels, x, width, GATE, i=[activation]), wanted, 1e-6)


def test_norms_of_heads_stay_within_their_columns(kernels: Any) -> None:
    x, weight = normal(6, 3 + 4 * 20 + 5), normal(20, seed=1)
    found = on_rows(kernels, x, 1, HEAD_NORM, in_place=True, i=[3, 4, 20], f=[1e-6], vectors=[weight])
    close(found, twins.head_norm(torch.tensor(x).double(), 3, 4, 20, torch.tensor(weight).double(), 1e-6), 2e-6)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("width", "turned"), [(64, 64), (80, 32), (20, 6)])
def test_rotation(kernels: Any, width: int, turned: int, interleaved: bool) -> None:
    x, rotary = normal(40, 7 + 3 * width), Rotary(base=100.0, width=turned, interleaved=interleaved)
    angles = np.outer(np.arange(40), 1 / 100.0 ** (np.arange(0, turned, 2) / turned))
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    sizes = [7, 3, width, turned, int(interleaved), 40]
    found = on_rows(kernels, x, 1, ROTARY, in_place=True, i=sizes, vectors=[table])
    close(found, twins.turn(torch.tensor(x).double(), 7, 3, width, rotary, torch.arange(40), 40), 3e-5)


def test_embeddings(kernels: Any) -> None:
    tokens, positions = normal(V, 24), normal(12, 24, seed=1)
    ids = [[5, 0, 96, 5], [7]]
    ops = Ops(kernels, 24).add(EMBED, out=0, i=[2, 12], f=[3.0], weights=[tokens], vectors=[positions])
    batch = Batch(ids, [3, 9])
    wanted = twins.embed(*(torch.tensor(v) for v in (batch.ids, batch.positions)), torch.tensor(tokens), scale=3.0,
                         positions=torch.tensor(positions), offset=2)  # fmt: skip
    close(ops.run(batch), wanted, 1e-6)


@pytest.mark.parametrize("tokens", [1, 2, 5, 33, 200])
@pytest.mark.parametrize("rows", [(48,), (30, 7), (16, 64, 1)])
def test_products_side_by_side(kernels: Any, tokens: int, rows: tuple[int, ...]) -> None:
    x = normal(tokens, 36)
    weights = [normal(n, 36, seed=n) for n in rows]
    biases = [None if n == 7 else normal(n, seed=n + 1) for n in rows]
    found = on_rows(kernels, x, sum(rows), LINEAR, i=[len(rows), -1], weights=weights, vectors=biases)
    exact = [None if b is None else torch.tensor(b).double() for b in biases]
    wanted = twins.linear(torch.tensor(x).double(), tuple(torch.tensor(w).double() for w in weights), tuple(exact))
    close(found, wanted, 1e-5)


def test_selected_rows_and_what_follows(kernels: Any) -> None:
    x, head = normal(V, 16), normal(40, 16, seed=3)
    ops = Ops(kernels, 16, 16, 40).add(EMBED, out=0, f=[1.0], weights=[x]).add(SELECT, 0, out=1)
    ops.add(LINEAR, 1, out=2, i=[1, 0], weights=[head]).add(CAP, 2, out=2, f=[1.0, 0.0])
    batch = Batch([[1, 2, 3], [50], [60, 61]], select=[2, 0, 5, 5])
    close(ops.run(batch), x[[3, 1, 61, 61]] @ head.T, 1e-5)


def test_adapters_change_only_their_tokens(kernels: Any) -> None:
    x, weight = normal(V, 24), normal(40, 24, seed=3)
    small, large = (normal(3, 24, seed=4), normal(40, 3, seed=5)), (normal(20, 24, seed=6), normal(40, 20, seed=7))
    ids = [[1, 2, 3, 4], [5, 6]]
    chosen = [-1, 8, 2, 2, 8, -1]
    adapters = [(8, 1, 0.5, *small), (2, 1, 2.0, *large), (8, 0, 9.0, *large), (2, 1, -1.0, *small)]
    exact = torch.tensor(x[sum(ids, [])]).double()
    wanted = exact @ torch.tensor(weight).double().T
    plain = wanted.clone()
    for number, site, scale, a, b in adapters:
        tokens = torch.tensor(chosen) == number
        if site == 1:
            wanted = twins.adapted(wanted, exact, torch.tensor(a).double(), torch.tensor(b).double(), scale, tokens)
    assert not torch.allclose(wanted, plain)
    for select in (None, [5, 2, 1]):
        ops = Ops(kernels, 24, 24, 40).add(EMBED, out=0, f=[1.0], weights=[x])
        if select:
            ops.add(SELECT, 0, out=1)
        ops.add(LINEAR, 1 if select else 0, out=2, i=[1, 1], weights=[weight])
        found = ops.run(Batch(ids, select=select, adapter=chosen, adapters=adapters))
        close(found, wanted[select] if select else wanted, 1e-5)
        untouched = ops.run(Batch(ids, select=select))
        plain_rows = [i for i, t in enumerate(select or range(6)) if chosen[t] < 0]
        assert found[plain_rows].tobytes() == untouched[plain_rows].tobytes()


# ----------------------------------------------------------------------------------------------- a model of two layers


def transformer(kernels: Any, heads: int = 4, kv_heads: int = 2, width: int = 16, causal: bool = True) -> Ops:
    """Two layers of a small Llama with a head of V rows; registers: stream, normed, qkv, mixed, gate and up, inner, logits."""
    E, F = 40, 56
    qkv = (heads + 2 * kv_heads) * width
    ops = Ops(kernels, E, E, qkv, heads * width, 2 * F, F, V)
    angles = np.outer(np.arange(400), 1 / 1000.0 ** (np.arange(0, width, 2) / width))
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    seeds = iter(range(100))

    def weight(rows: int, cols: int) -> np.ndarray:
        return normal(rows, cols, seed=next(seeds), scale=cols**-0.5)

    ops.add(EMBED, out=0, f=[1.0], weights=[normal(V, E, seed=99)])
    for layer in range(2):
        ops.add(NORM, 0, out=1, f=[1e-5], vectors=[np.ones(E)])
        sizes = [heads * width, kv_heads * width, kv_heads * width]
        ops.add(LINEAR, 1, out=2, i=[3, 4 * layer], weights=[weight(n, E) for n in sizes])
        ops.add(ROTARY, 2, out=2, i=[0, heads + kv_heads, width, width, 0, 400], vectors=[table])
        ops.add(ATTEND, 2, out=3, i=[heads, kv_heads, width, layer, 0, int(causal)], f=[width**-0.5, 0.0])
        ops.add(LINEAR, 3, out=1, i=[1, 4 * layer + 1], weights=[weight(E, heads * width)])
        ops.add(ADD, 0, 1, 0).add(NORM, 0, out=1, f=[1e-5], vectors=[np.ones(E)])
        ops.add(LINEAR, 1, out=4, i=[2, 4 * layer + 2], weights=[weight(F, E), weight(F, E)])
        ops.add(GATE, 4, out=5, i=[0]).add(LINEAR, 5, out=1, i=[1, 4 * layer + 3], weights=[weight(E, F)])
        ops.add(ADD, 0, 1, 0)
    ops.add(SELECT, 0, out=1).add(NORM, 1, out=1, f=[1e-5], vectors=[np.ones(E)])
    return ops.add(LINEAR, 1, out=6, i=[1, 8], weights=[weight(V, E)])


def ids_of(*lengths: int) -> list[list[int]]:
    draw = np.random.default_rng(len(lengths))
    return [draw.integers(0, V, n).tolist() for n in lengths]


def logits(ops: Ops, cache: Cache, ids: list[int], cuts: list[int]) -> np.ndarray:
    rows, before, pages = [], 0, np.arange(-(-len(ids) // PAGE), dtype=np.int32)[None]
    for cut in [*cuts, len(ids)]:
        rows.append(ops.run(Batch([ids[before:cut]], [before], pages, select=range(cut - before)), cache.handle))
        before = cut
    return np.concatenate(rows)


def test_the_same_bits_in_one_step_or_many_with_any_threads(kernels: Any) -> None:
    ops, ids = transformer(kernels), ids_of(280)[0]
    whole = logits(ops, Cache(kernels, 2, 2, 16, 18, F16), ids, [])
    assert np.isfinite(whole).all() and np.ptp(whole) > 1
    for threads, cuts in [(1, [5]), (1, [1, 130]), (2, [128]), (2, list(range(200, 280))), (3, [16, 33, 250]), (4, [])]:
        kernels.hb_set_threads(threads)
        assert logits(ops, Cache(kernels, 2, 2, 16, 18, F16), ids, cuts).tobytes() == whole.tobytes()


def test_the_same_bits_from_several_threads_of_python_at_once(kernels: Any) -> None:
    ids, found, wanted = ids_of(150)[0], {}, {}

    def work(number: int) -> None:
        ops = transformer(kernels)
        for _ in range(4):
            found[number] = logits(ops, Cache(kernels, 2, 2, 16, 10), ids, [40, 41, 42])

    wanted = logits(transformer(kernels), Cache(kernels, 2, 2, 16, 10), ids, [])
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[n].tobytes() == wanted.tobytes() for n in range(4))


def _in_child(kernels: Any, ops: Ops, ids: list[int], answer: Any) -> None:
    answer.send((kernels.hb_threads(), logits(ops, Cache(kernels, 2, 2, 16, 10), ids, [40, 41]).tobytes()))


def test_a_forked_process_has_threads_of_its_own(kernels: Any) -> None:
    ops, ids = transformer(kernels), ids_of(150)[0]
    here = logits(ops, Cache(kernels, 2, 2, 16, 10), ids, [])  # the pool has started
    fork = multiprocessing.get_context("fork")
    mine, its = fork.Pipe()
    child = fork.Process(target=_in_child, args=(kernels, ops, ids, its))
    child.start()
    assert mine.poll(30), "the child hangs"
    assert mine.recv() == (2, here.tobytes())
    child.join(10)
    assert child.exitcode == 0
    assert logits(ops, Cache(kernels, 2, 2, 16, 10), ids, [7]).tobytes() == here.tobytes()


def test_a_raised_flag_ends_the_step(kernels: Any) -> None:
    batch = Batch(ids_of(4), pages=[[0]], select=[3])
    batch.cancel[0], cache = 1, Cache(kernels, 2, 2, 16, 1)
    with pytest.raises(InterruptedError):
        transformer(kernels).run(batch, cache.handle)


def test_scratch_is_foretold(kernels: Any) -> None:
    """Registers of 512 tokens, their bytes for products, nothing per layer."""
    ops = transformer(kernels)
    small, large = (kernels.hb_model_bytes(ops.model, n, 1) for n in (1, 512))
    a_token = 4 * (40 + 40 + 128 + 64 + 112 + 56)
    assert abs(large - small - 511 * a_token) < 4096
    ahead = transformer(kernels, causal=False)
    assert kernels.hb_model_bytes(ahead.model, 512, 4) > large


# ------------------------------------------------------------------------------------------------------ what is wrong

GOOD: dict[str, Any] = {"ids": [[1, 2, 3], [4]], "before": [0, 20], "pages": [[0, 0], [1, 2]], "select": [2, 3]}


def spoil(batch: Batch, **values: Any) -> Batch:
    for name, (at, value) in values.items():
        getattr(batch, name)[at] = value
    return batch


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ids": (1, V)}, f"token 1 has id {V}: ids are 0 .. {V - 1}"),
        ({"ids": (0, -1)}, "token 0 has id -1"),
        ({"positions": (3, 400)}, "token 3 has position 400: the model has 0 .. 399"),
        ({"positions": (3, -2)}, "position -2"),
        ({"positions": (1, 2)}, "token 1 has position 2 after 0"),
        ({"sequence": (3, 2)}, "token 3 is of sequence 2: the batch has 0 .. 1"),
        ({"sequence": (0, 1)}, "after sequence 1: they stand in order"),
        ({"lengths": (1, 20)}, "sequence 1 has 20 tokens, but its last position is 20"),
        ({"pages": ((1, 1), 3)}, "page 1 of sequence 1 is 3: the cache has 0 .. 2"),
        ({"pages": ((0, 0), -1)}, "page 0 of sequence 0 is -1"),
        ({"select": (1, 4)}, "row 1 is of token 4: the batch has 0 .. 3"),
    ],
)
def test_a_bad_batch_is_refused_before_any_work(kernels: Any, change: dict[str, Any], words: str) -> None:
    ops, cache = transformer(kernels), Cache(kernels, 2, 2, 16, 3)
    ops.run(Batch(**GOOD), cache.handle)
    held = [cache.read(page).tobytes() for page in range(3)]
    with pytest.raises(KernelError) as error:
        ops.run(spoil(Batch(**GOOD), **change), cache.handle)
    assert words in str(error.value)
    assert [cache.read(page).tobytes() for page in range(3)] == held


def test_batches_that_do_not_fit_model_or_cache_are_refused(kernels: Any) -> None:
    ops, cache = transformer(kernels), Cache(kernels, 2, 2, 16, 3)
    too_few = GOOD | {"pages": [[0], [1]]}
    ahead = transformer(kernels, causal=False)
    for model, batch, handle, words in [
        (ops, Batch(**GOOD), None, "wants a cache"),
        (ops, Batch(**too_few), cache.handle, "sequence 1 has 21 tokens: 1 pages of 16 do not hold them"),
        (ahead, Batch(**GOOD), None, "sequence 1 has 21 tokens, of which 1 are in the batch"),
        (ops, Batch([], pages=[[0]], select=[0]), cache.handle, "a batch of 0 tokens"),
    ]:
        with pytest.raises(KernelError, match=words.replace("(", r"\(")):
            model.run(batch, handle)
    for other in (Cache(kernels, 1, 2, 16, 3), Cache(kernels, 2, 1, 16, 3), Cache(kernels, 2, 2, 32, 3)):
        with pytest.raises(KernelError, match="the model wants layer"):
            ops.run(Batch(**GOOD), other.handle)


def test_plans_that_contradict_themselves_are_refused(kernels: Any) -> None:
    x = normal(V, 16)
    attend = {"i": [2, 1, 4, 0, 0, 1], "f": [0.5, 0.0]}
    bad: list[tuple[list[tuple[Any, ...]], dict[str, Any], str]] = [
        ([(ADD, 0, 1, 2)], {}, "register before it is written"),
        ([(NORM, 0, -1, 9)], {"vectors": [np.ones(16)]}, "writes a register that is none"),
        ([(NORM, 9, -1, 1)], {"vectors": [np.ones(16)]}, "reads a register that is none"),
        ([(NORM, 0, -1, 1)], {}, "a norm without a weight"),
        ([(NORM, 0, -1, 2)], {"vectors": [np.ones(16)]}, "width of out is 8, not 16"),
        ([(GATE, 0, -1, 1)], {"i": [0]}, "width of a is 16, not 32"),
        ([(GATE, 0, -1, 2)], {"i": [4]}, "activation is 4"),
        ([(LINEAR, 0, -1, 1)], {"i": [1, -1], "weights": [normal(16, 12)]}, "columns of the weight is 12, not 16"),
        ([(LINEAR, 0, -1, 1)], {"i": [1, -1], "weights": [normal(12, 16)]}, "rows of the weights is 12, not 16"),
        ([(LINEAR, 0, -1, 0)], {"i": [1, -1], "weights": [normal(16, 16)]}, "cannot work in place"),
        ([(HEAD_NORM, 0, -1, 0)], {"i": [4, 2, 8], "vectors": [np.ones(8)]}, "end of the groups is 20, not 16"),
        ([(ROTARY, 0, -1, 0)], {"i": [0, 2, 8, 3, 0, 5], "vectors": [np.ones((5, 3))]}, "dimensions that turn"),
        ([(ROTARY, 0, -1, 0)], {"i": [0, 2, 8, 8, 0, 5]}, "without a table"),
        ([(ATTEND, 0, -1, 1)], attend, "width of out is 16, not 8"),
        ([(ATTEND, 0, -1, 2)], attend | {"i": [2, 3, 4, 0, 0, 1]}, "do not fit together"),
        ([(SELECT, 0, -1, 1), (ADD, 0, 1, 1)], {}, "rows from before Select"),
        ([(17, 0, -1, 1)], {}, "no such kind"),
    ]
    for kinds, what, words in bad:
        ops = Ops(kernels, 16, 16, 8).add(EMBED, out=0, f=[1.0], weights=[x])
        for kind, a, b, out in kinds:
            ops.add(kind, a, b, out, **what)
        with pytest.raises(KernelError) as error:
            _ = ops.model
        assert words in str(error.value), words


def test_what_is_not_a_number_shows_and_stays_with_its_token(kernels: Any) -> None:
    ops, cache = transformer(kernels), Cache(kernels, 2, 2, 16, 3, F32)
    clean = ops.run(Batch(**GOOD), cache.handle)
    table = normal(V, 40, seed=99)
    table[3] = np.nan
    spoilt = Ops(kernels, 40, 40).add(EMBED, out=0, f=[1.0], weights=[table]).add(NORM, 0, out=1, vectors=[np.ones(40)])
    rows = spoilt.run(Batch(**GOOD))
    assert np.isnan(rows[2]).all() and np.isfinite(rows[[0, 1, 3]]).all() and np.isfinite(clean).all()
