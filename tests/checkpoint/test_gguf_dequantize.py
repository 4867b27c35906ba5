"""Every block format gives, bit for bit, what the gguf package gives."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from hornbook.checkpoint.dequantize import BY_NAME, FORMATS, PIECE, WORTH_THREADS, dequantize, read
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.mapped import TensorInfo
from hornbook.errors import UnsupportedModel

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]

# Where a block keeps its half-precision numbers.
HALVES = {
    **{"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0]},
    **{"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "F16": [0]},
}
SPECIAL = np.array(
    [0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 1.0, -1.0, 1e-3, -0.37, 65504.0, -65504.0, np.inf, -np.inf, np.nan], "<f2"
)


def random_blocks(name: str, count: int, seed: int) -> np.ndarray:
    """[count, nbytes] of any bits; the scales of every other block are subnormal, negative, infinite and the like."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (count, BY_NAME[name].nbytes), dtype=np.uint8)
    for at in HALVES.get(name, []):
        blocks[::2, at : at + 2] = generator.choice(SPECIAL, len(blocks[::2])).view(np.uint8).reshape(-1, 2)
    return blocks


def reference(blocks: np.ndarray, name: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        flat = gguf.quants.dequantize(blocks.reshape(1, -1), gguf.GGMLQuantizationType[name])
    return np.ascontiguousarray(flat, np.float32).reshape(-1)


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("count", [1, 3, 257, PIECE // 32 + 5])
def test_every_type_equals_the_reference_bit_for_bit(name: str, count: int) -> None:
    blocks = random_blocks(name, count, seed=count)
    out = np.full(count * BY_NAME[name].block, 7, np.float32)
    dequantize(blocks.reshape(-1), BY_NAME[name], out)
    np.testing.assert_array_equal(out.view(np.uint32), reference(blocks, name).view(np.uint32))


@pytest.mark.parametrize("name", ["Q4_1", "Q6_K", "F16"])
def test_several_threads_give_what_one_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hornbook.checkpoint.dequantize.THREADS", 3)
    count = WORTH_THREADS // BY_NAME[name].block + 7
    blocks = random_blocks(name, count, seed=1)
    out = np.empty(count * BY_NAME[name].block, np.float32)
    dequantize(blocks.reshape(-1), BY_NAME[name], out)
    np.testing.assert_array_equal(out.view(np.uint32), reference(blocks, name).view(np.uint32))


def test_scratch_memory_does_not_grow_with_the_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hornbook.checkpoint.dequantize.THREADS", 2)
    raw = random_blocks("Q5_K", 1 << 15, seed=2).reshape(-1)  # 8 million values, 32 MiB
    out = np.empty(1 << 23, np.float32)
    tracemalloc.start()
    try:
        dequantize(raw, BY_NAME["Q5_K"], out)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_the_table_of_types_agrees_with_the_reference() -> None:
    theirs = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    for number, format in FORMATS.items():
        if number in theirs:  # an older gguf package knows fewer
            assert (format.name, format.block, format.nbytes) == theirs[number]
    assert set(theirs) <= set(FORMATS)


def test_a_type_that_can_only_be_listed_is_refused_by_name_with_what_to_take_instead() -> None:
    info = TensorInfo("blk.0.ffn_up.weight", (1, 256), "IQ4_XS", 136)
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.ffn_up\.weight is of type IQ4_XS") as caught:
        read(np.zeros(136, np.uint8), BY_NAME["IQ4_XS"], info, Path("model.gguf"))
    assert "Q4_K" in caught.value.remedy


@pytest.mark.models
@pytest.mark.parametrize(
    ("model", "types"),
    [("smollm2_path", {"F32", "Q4_1", "Q8_0"}), ("gemma_path", {"F32", "Q4_K", "Q5_0", "Q6_K", "Q8_0"})],
)
def test_real_tensors_of_every_stored_type_equal_the_reference(
    model: str, types: set[str], request: pytest.FixtureRequest
) -> None:
    with GGUF.open(request.getfixturevalue(model)) as opened:
        by_size = sorted(opened.tensors.values(), key=lambda info: info.nbytes, reverse=True)
        smallest = {info.type: info for info in by_size}
        assert set(smallest) == types
        for name, info in smallest.items():
            values = opened.tensor(info.name)
            assert values.shape == info.shape
            head = values.reshape(-1)[: 1 << 20]  # a million values; the reference is slow
            blocks = opened.raw(info.name).reshape(-1, BY_NAME[name].nbytes)[: head.size // BY_NAME[name].block]
            np.testing.assert_array_equal(head.view(np.uint32), reference(blocks, name).view(np.uint32))
