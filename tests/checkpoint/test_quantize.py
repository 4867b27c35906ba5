"""Every block format is written byte for byte as ggml writes it, and as the gguf package does where it can.

ggml is the one inside the xllamacpp wheel, called through its C interface without an importance matrix.
"""

from __future__ import annotations

import ctypes
import platform
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from hornbook.checkpoint.dequantize import BY_NAME, FORMATS, THREADS, dequantize
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.quantize import PACKERS, PIECE, WORTH_THREADS, quantize
from hornbook.errors import ModelFileError, UnsupportedModel

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
K_TYPES = TYPES[8:]
Quantizer = Callable[[np.ndarray, str], np.ndarray]


@pytest.fixture(scope="module")
def ggml() -> Quantizer:
    xllamacpp = pytest.importorskip("xllamacpp")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("compilers fuse multiplications and additions here, so that ggml's own bytes differ")
    library = ctypes.CDLL(str(next(Path(xllamacpp.__file__).parent.glob("xllamacpp*.so"))))
    chunk = library.ggml_quantize_chunk
    chunk.restype, size, pointer = ctypes.c_size_t, ctypes.c_int64, ctypes.c_void_p
    chunk.argtypes = [ctypes.c_int, pointer, pointer, size, size, size, pointer]
    numbers = {format.name: number for number, format in FORMATS.items()}

    def quantizer(values: np.ndarray, type: str) -> np.ndarray:
        if type == "F32":  # ggml_quantize_chunk copies it; nothing to compare
            return values.view(np.uint8)
        rows, n = values.shape
        out = np.zeros((rows, n // BY_NAME[type].block * BY_NAME[type].nbytes), np.uint8)
        assert chunk(numbers[type], values.ctypes.data, out.ctypes.data, 0, rows, n, None) == out.nbytes
        return out

    return quantizer


def values_of(packed: np.ndarray, type: str) -> np.ndarray:
    """[rows, bytes] -> [rows, n] float32."""
    format = BY_NAME[type]
    out = np.empty(packed.size // format.nbytes * format.block, np.float32)
    with np.errstate(all="ignore"):
        dequantize(packed.reshape(-1), format, out)
    return out.reshape(len(packed), -1)


def difficult() -> np.ndarray:
    """Rows of 256 that come near the searches' special cases."""
    generator = np.random.default_rng(1)
    rows = generator.standard_normal((48, 256)).astype(np.float32)
    rows[0], rows[1], rows[2], rows[3] = 0, -0.0, 1.5, -1.5
    rows[4], rows[5] = np.abs(rows[4]), -np.abs(rows[5])
    rows[6], rows[6, 100] = 0, 3
    rows[7], rows[7, 3] = rows[7] * 1e-4, 100
    rows[8, :32], rows[8, 32:64], rows[8, 64:80] = 0, 0.25, -0.25
    rows[9] = np.sign(rows[9])
    rows[10] = 5 + rows[10] * np.float32(1e-6)
    rows[11], rows[12] = np.linspace(-1, 1, 256), np.linspace(0, 1, 256) ** 8
    rows[13], rows[14] = np.rint(rows[13]), rows[14].astype(np.float16)
    rows[15, :128] *= 1e-9
    for row, factor in enumerate((1e4, 1e-4, 1e-6, 1e-7, 1e-10, 1e-14, 1e-15, 1e-16, 1e-20, 1e-30), 16):
        rows[row] *= factor
    rows[26:] = generator.standard_cauchy((22, 256))
    return rows


@pytest.mark.parametrize("type", TYPES)
def test_difficult_rows_are_packed_as_ggml_packs_them(type: str, ggml: Quantizer) -> None:
    rows = difficult()
    assert np.array_equal(quantize(rows, type), ggml(rows, type))


@pytest.fixture(scope="module")
def real_weights(smollm2_path: Path, gemma_path: Path) -> dict[str, np.ndarray]:
    weights: dict[str, np.ndarray] = {}
    for path, names in (
        (smollm2_path, ("blk.0.attn_v.weight", "blk.4.ffn_down.weight")),
        (gemma_path, ("blk.0.ffn_down.weight", "blk.17.attn_q.weight")),
    ):
        with GGUF.open(path) as file:
            weights |= {f"{path.stem} {name}": file.tensor(name)[:256].reshape(-1, 256) for name in names}
    return weights


@pytest.mark.models
@pytest.mark.parametrize("type", TYPES)
def test_real_weights_are_packed_as_ggml_packs_them(
    type: str, ggml: Quantizer, real_weights: dict[str, np.ndarray]
) -> None:
    for name, weights in real_weights.items():
        assert np.array_equal(quantize(weights, type), ggml(weights, type)), name


@pytest.mark.parametrize("type", TYPES[:8])
def test_the_gguf_package_packs_the_same_bytes(type: str) -> None:
    weights = np.random.default_rng(2).standard_normal((300, 320)).astype(np.float32)
    expected = gguf.quants.quantize(weights, gguf.GGMLQuantizationType[type])
    assert np.array_equal(quantize(weights, type), np.ascontiguousarray(expected).view(np.uint8).reshape(300, -1))


@pytest.mark.parametrize("type", ["Q8_0", "Q4_K", "Q3_K"])
def test_pieces_and_threads_leave_no_seam(type: str, ggml: Quantizer) -> None:
    rows = (2 * PIECE + WORTH_THREADS) // 768 + 3
    weights = np.random.default_rng(3).standard_normal((rows, 768)).astype(np.float32)
    assert np.array_equal(quantize(weights, type), ggml(weights, type))


@pytest.mark.parametrize("type", TYPES[:8])
def test_values_that_came_from_a_type_go_back_into_it_unchanged(type: str) -> None:
    weights = np.random.default_rng(4).standard_normal((64, 512)).astype(np.float32) * np.float32(0.02)
    once = values_of(quantize(weights, type), type)
    assert np.array_equal(values_of(quantize(once, type), type), once)


@pytest.mark.parametrize("type", K_TYPES)
def test_values_that_came_from_a_k_type_go_back_with_a_fraction_of_its_error(type: str) -> None:
    # The search may find better scales for rounded values than those they came from; ggml's does so too.
    weights = np.random.default_rng(4).standard_normal((64, 512)).astype(np.float32) * np.float32(0.02)
    once = values_of(quantize(weights, type), type)
    again = values_of(quantize(once, type), type)
    assert (once == again).mean() > 0.85
    assert np.square(again - once).mean() < 0.05 * np.square(once - weights).mean()


def test_more_bits_give_smaller_errors() -> None:
    weights = np.random.default_rng(5).standard_normal((64, 512)).astype(np.float32)
    order = ["Q2_K", "Q3_K", "Q4_0", "Q4_K", "Q5_0", "Q5_K", "Q6_K", "Q8_0", "BF16", "F16", "F32"]
    errors = [float(np.square(values_of(quantize(weights, type), type) - weights).mean()) for type in order]
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0


@pytest.mark.parametrize("type", ["I8", "I16", "I32", "I64", "F64"])
def test_whole_numbers_stay_what_they_are(type: str) -> None:
    numbers = np.arange(-60, 60).reshape(3, 40)
    packed = quantize(numbers, type)
    assert np.array_equal(packed.view(BY_NAME[type].dtype), numbers)
    if type != "F64":
        with pytest.raises(ModelFileError, match=f"which {type} cannot hold"):
            quantize(numbers + 0.5, type)


def test_other_floats_are_taken_as_float32() -> None:
    weights = np.random.default_rng(6).standard_normal((4, 64))
    for given in (weights, weights.astype(np.float16), np.asfortranarray(weights.astype(np.float32)), weights[:, ::-1]):
        assert np.array_equal(quantize(given, "Q8_0"), quantize(np.ascontiguousarray(given, np.float32), "Q8_0"))
    assert quantize(np.empty((0, 64), np.float32), "Q8_0").shape == (0, 68)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(type: str, bad: float) -> None:
    weights = np.ones((3, 256), np.float32)
    weights[1, 200] = bad
    with pytest.raises(ModelFileError, match=r"blk\.0\.x has values that are not numbers .*: 1 of the 768 looked at"):
        quantize(weights, type, name="blk.0.x")


@pytest.mark.parametrize("type", TYPES[1:])
def test_what_a_type_cannot_hold_is_refused_and_does_not_become_infinite(type: str) -> None:
    weights = np.random.default_rng(7).standard_normal((2, 256)).astype(np.float32)
    weights[1, 7], weights[1, 8] = 3.4e38, -3.4e38
    with pytest.raises(ModelFileError, match=rf"values up to 3\.4e\+38, too large for {type}"):
        quantize(weights, type)


def test_rows_that_blocks_do_not_fill_are_refused() -> None:
    with pytest.raises(ModelFileError, match=r"x has rows of 576, which is not a multiple of Q4_K's 256"):
        quantize(np.ones((2, 576), np.float32), "Q4_K", name="x")
    with pytest.raises(UnsupportedModel, match=r"cannot write the tensor type IQ4_XS\n.*Q4_K"):
        quantize(np.ones((2, 256), np.float32), "IQ4_XS")


def test_every_type_that_is_read_is_written() -> None:
    assert set(PACKERS) == {name for name, format in BY_NAME.items() if format.unpack}


def test_scratch_memory_stays_small() -> None:
    weights = np.random.default_rng(8).standard_normal((1024, 2048)).astype(np.float32)
    tracemalloc.start()
    packed = quantize(weights, "Q6_K")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - packed.nbytes < THREADS * 20 * PIECE * 4
