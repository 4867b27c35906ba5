"""Weights in the kernels' tiles: the same values as the file's, the same product whatever else is multiplied with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hornbook.checkpoint.dequantize import BY_NAME, dequantize
from hornbook.errors import KernelError
from hornbook.kernels import library
from hornbook.kernels.weight import TYPES, Weight
from hornbook.settings import Settings

BLOCKS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
FLOATS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
HALVES = {  # where the half-precision scales stand in a block
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip
ISAS = ("avx512vnni", "avx2", "neon", "portable")
Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.skipif(library.library(Settings()) is None, reason="the native kernels are not built here")


@pytest.fixture(scope="module", params=ISAS)
def kernels(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The library with each instruction set that this machine has, and what was asked of it given back afterwards."""
    found = library.library(Settings())
    assert found is not None
    before, threads = found.isa, found.threads
    try:
        found.hb_set_isa(request.param.encode())
    except KernelError:
        pytest.skip(f"this machine has no {request.param}")
    yield found
    found.hb_set_isa(before.encode())
    found.hb_set_threads(threads)


def source(type: str, rows: int, cols: int, rng: np.random.Generator) -> Array:
    """Random rows as a file has them: every bit of a block may be set."""
    if type in FLOATS:
        values = rng.standard_normal((rows, cols)).astype("<f4")
        return (values.view("<u4") >> 16).astype("<u2") if type == "BF16" else values.astype(FLOATS[type])
    format = BY_NAME[type]
    blocks = rng.integers(0, 256, (rows * cols // format.block, format.nbytes), dtype=np.uint8)
    for at in HALVES[type]:
        blocks[:, at : at + 2] = (0.01 * rng.standard_normal((len(blocks), 1))).astype("<f2").view(np.uint8)
    return blocks.reshape(rows, -1)


def values_of(type: str, raw: Array, rows: int, cols: int) -> Array:
    out = np.empty((rows, cols), np.float32)
    dequantize(raw.reshape(-1).view(np.uint8), BY_NAME[type], out.reshape(-1))
    return out


def unpack(kernels: Any, weight: Weight, first: int, rows: int, cols: int) -> Array:
    out = np.full((rows + 1, cols), 777, np.float32)
    kernels.hb_unpack(weight.handle, first, rows, out.ctypes.data)
    assert (out[rows] == 777).all()
    return out[:rows]


def linear(kernels: Any, weight: Weight, x: Array, rows: int, bias: Array | None = None) -> Array:
    x, out = np.ascontiguousarray(x, np.float32), np.full((len(x) + 1, rows), 777, np.float32)
    kernels.hb_linear(
        weight.handle, bias.ctypes.data if bias is not None else None, x.ctypes.data, len(x), out.ctypes.data
    )
    assert (out[len(x)] == 777).all(), "written past the end"
    return out[: len(x)]


def as_multiplied(x: Array) -> Array:
    """What the integer types see of ``x`` [T, cols]: of each 32 values bytes, and one float32 scale. float64."""
    blocks = x.reshape(len(x), -1, 32)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        inverse = np.where(largest > 1e-35, np.float32(127) / largest, np.float32(0))
    q = np.rint(blocks * inverse)
    scale = np.where(largest > 1e-35, largest / np.float32(127), np.float32(0))
    return (q.astype(np.float64) * scale).reshape(x.shape)


def shapes(type: str) -> list[tuple[int, int]]:
    block = BY_NAME[type].block
    if block == 1:
        return [(1, 1), (15, 7), (17, 33), (33, 512), (16, 31)]
    return [(1, block), (15, 2 * block), (17, 256), (33, 1536), (64, 768)]


@pytest.mark.parametrize("type", [*BLOCKS, *FLOATS])
def test_unpacked_values_are_those_of_the_file_to_the_bit(kernels: Any, type: str) -> None:
    rng = np.random.default_rng(1)
    for rows, cols in shapes(type):
        raw = source(type, rows, cols, rng)
        expected = values_of(type, raw, rows, cols)
        weight = Weight(kernels, type, rows, cols, raw)
        assert np.array_equal(unpack(kernels, weight, 0, rows, cols).view("u4"), expected.view("u4"))
        assert np.array_equal(unpack(kernels, weight, rows - 1, 1, cols), expected[-1:])
        padded = (rows + 15) // 16 * 16
        assert kernels.hb_weight_bytes(weight.handle) <= 1.05 * raw.nbytes / rows * padded + 96


@pytest.mark.parametrize("type", [*BLOCKS, *FLOATS])
def test_the_product_is_that_of_the_unpacked_values(kernels: Any, type: str) -> None:
    rng = np.random.default_rng(2)
    for rows, cols in shapes(type):
        raw = source(type, rows, cols, rng)
        values = values_of(type, raw, rows, cols).astype(np.float64)
        weight = Weight(kernels, type, rows, cols, raw)
        x, bias = rng.standard_normal((9, cols)).astype(np.float32), rng.standard_normal(rows).astype(np.float32)
        seen = as_multiplied(x) if type in BLOCKS else x.astype(np.float64)
        y = linear(kernels, weight, x, rows, bias)
        # float32 sums of exact integers: what is left is their rounding
        assert (np.abs(y - (seen @ values.T + bias)) <= 1e-6 * (np.abs(seen) @ np.abs(values).T + np.abs(bias))).all()
        if type in BLOCKS:
            exact = x.astype(np.float64) @ values.T + bias
            spread = np.sqrt((values**2).sum(axis=1)) * np.abs(x).max() / 127
            assert (np.abs(y - exact) < 2 * spread).all()
        assert np.array_equal(y, linear(kernels, weight, x, rows) + bias)


@pytest.mark.parametrize("type", ["Q4_1", "Q6_K", "F16"])
def test_rows_come_in_the_order_asked_for(kernels: Any, type: str) -> None:
    rng = np.random.default_rng(3)
    raw, order = source(type, 40, 256, rng), rng.permutation(40)[:21].astype(np.int32)
    weight = Weight(kernels, type, 21, 256, raw, order)
    expected = values_of(type, raw, 40, 256)[order]
    assert np.array_equal(unpack(kernels, weight, 0, 21, 256), expected)
    x = rng.standard_normal((3, 256)).astype(np.float32)
    whole = linear(kernels, Weight(kernels, type, 40, 256, raw), x, 40)
    assert np.array_equal(linear(kernels, weight, x, 21), whole[:, order])


@pytest.mark.parametrize("type", [*BLOCKS, *FLOATS])
def test_a_token_gets_the_same_bits_in_any_company_and_on_any_threads(kernels: Any, type: str) -> None:
    rng = np.random.default_rng(4)
    rows, cols, tokens = 83, 512 if type in BLOCKS else 67, 70
    weight = Weight(kernels, type, rows, cols, source(type, rows, cols, rng))
    x = (rng.standard_normal((tokens, cols)) * np.exp(rng.standard_normal((tokens, 1)))).astype(np.float32)
    kernels.hb_set_threads(1)
    alone = np.concatenate([linear(kernels, weight, x[t : t + 1], rows) for t in range(tokens)])
    for threads in (1, 2, 3):
        kernels.hb_set_threads(threads)
        for count in (2, 3, 5, 7, 8, 13, 31, 70):
            assert np.array_equal(linear(kernels, weight, x[-count:], rows), alone[-count:]), (count, threads)


@pytest.mark.parametrize("type", BLOCKS)
def test_the_largest_integers_do_not_overflow(kernels: Any, type: str) -> None:
    """Every bit of the weights set, or none, and activations of 127 and -127: the farthest that sums can go."""
    format = BY_NAME[type]
    for byte in (0, 127, 128, 255):
        raw = np.full((16, 512 // format.block * format.nbytes), byte, np.uint8)
        blocks = raw.reshape(-1, format.nbytes)
        for at in HALVES[type]:
            blocks[:, at : at + 2] = np.array([0.01], "<f2").view(np.uint8)
        weight, values = Weight(kernels, type, 16, 512, raw), values_of(type, raw, 16, 512).astype(np.float64)
        signs = np.sign(np.random.default_rng(5).standard_normal((4, 512)))
        x = np.concatenate([signs, np.ones((1, 512)), -np.ones((1, 512)), np.sign(values[:1] + 1e-9)]).astype(
            np.float32
        )
        bound = 1e-6 * np.abs(x).astype(np.float64) @ np.abs(values).T + 1e-6
        assert (np.abs(linear(kernels, weight, x, 16) - x.astype(np.float64) @ values.T) <= bound + 32 * bound).all()


def test_zeros_and_tiny_values_are_no_division_by_zero(kernels: Any) -> None:
    rng = np.random.default_rng(6)
    weight = Weight(kernels, "Q5_1", 16, 64, source("Q5_1", 16, 64, rng))
    x = np.zeros((3, 64), np.float32)
    x[1], x[2, :32] = 1e-42, 3e33
    y = linear(kernels, weight, x, 16)
    assert (y[0] == 0).all() and (np.abs(y[1]) < 1e-30).all() and np.isfinite(y[2]).all()


@pytest.mark.parametrize("type", ["Q4_0", "Q4_1", "Q8_0", "Q2_K", "Q6_K", "F32"])
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_spoils_its_token_and_no_other(kernels: Any, type: str, poison: float) -> None:
    rng = np.random.default_rng(7)
    weight = Weight(kernels, type, 16, 256, source(type, 16, 256, rng))
    x = rng.standard_normal((6, 256)).astype(np.float32)
    clean = linear(kernels, weight, x, 16)
    x[2, 77] = poison
    y = linear(kernels, weight, x, 16)
    assert not np.isfinite(y[2]).any()
    assert np.array_equal(np.delete(y, 2, axis=0), np.delete(clean, 2, axis=0))


def test_what_cannot_be_packed_is_refused_with_the_numbers(kernels: Any) -> None:
    byte = np.zeros(1 << 16, np.uint8)
    assert [type for type in range(64) if kernels.hb_can_pack(type)] == sorted(TYPES[name].number for name in TYPES)
    with pytest.raises(KernelError, match="type 9 "):
        kernels.hb_pack(9, 16, 256, byte.ctypes.data, None)
    with pytest.raises(KernelError, match=r"rows of 48 .* 32 values"):
        kernels.hb_pack(TYPES["Q4_0"].number, 16, 48, byte.ctypes.data, None)
    with pytest.raises(KernelError, match="0 rows"):
        kernels.hb_pack(TYPES["Q4_0"].number, 0, 32, byte.ctypes.data, None)
    with pytest.raises(KernelError, match="packed row 1 comes from row -3"):
        kernels.hb_pack(TYPES["Q4_0"].number, 2, 32, byte.ctypes.data, np.array([0, -3], np.int32).ctypes.data)
    weight = Weight(kernels, "Q4_0", 16, 32, byte[: 16 * 18])
    out = np.empty((16, 32), np.float32)
    for first, rows in ((-1, 1), (0, 17), (16, 1), (3, -1)):
        with pytest.raises(KernelError, match="are not in a weight of 16"):
            kernels.hb_unpack(weight.handle, first, rows, out.ctypes.data)
