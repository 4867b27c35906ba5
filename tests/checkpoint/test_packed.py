"""A model opened for the native kernels: the same weights as torch loads, bit for bit, and torch stays away."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_family_decoders
from family_parity import Case, as_gguf, loaded

from hornbook.checkpoint.dequantize import BY_NAME, dequantize
from hornbook.checkpoint.finite import not_finite
from hornbook.checkpoint.fitting import Fitted
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.mapped import TensorInfo
from hornbook.checkpoint.packed import PackedTensor, held, open_packed, pack, rounded
from hornbook.checkpoint.quantize import quantize
from hornbook.checkpoint.rules import Behind, Interleaved, Rule, Shift, Stacked, Transform, Transposed
from hornbook.errors import HornbookError, ModelFileError, UnsupportedModel

QUANTISED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
FIRSTS = {case.model: case for case in reversed(test_family_decoders.CASES)}.values()  # one of each family


def unpacked(tensor: PackedTensor) -> np.ndarray[Any, Any]:
    """What the kernels make of it: rows of blocks, in the order that is said."""
    cols, format = tensor.shape[-1], BY_NAME[tensor.type]
    rows = tensor.raw.reshape(-1, cols // format.block * format.nbytes)
    rows = rows if tensor.order is None else rows[tensor.order]
    values = np.empty(rows.shape[0] * cols, np.float32)
    dequantize(np.ascontiguousarray(rows).reshape(-1), format, values)
    return values.reshape(tensor.shape)


def check(path: Path, parameters: dict[str, Any]) -> None:
    with open_packed(path) as packed:
        assert list(packed.weights) == list(parameters)
        for name, tensor in packed.weights.items():
            np.testing.assert_array_equal(unpacked(tensor), parameters[name].numpy(), name)
            np.testing.assert_array_equal(tensor.values(), parameters[name].numpy(), name)


# ----------------------------------------------------------------------------------------------------- every family


@pytest.mark.parametrize("case", [case for case in FIRSTS if case.in_gguf], ids=str)
def test_a_gguf_file_of_a_family_unpacks_to_the_weights_that_torch_has(case: Case, tmp_path: Path) -> None:
    path, checkpoint, _ = as_gguf(case, tmp_path)
    check(path, checkpoint.model.state_dict())


@pytest.mark.parametrize("case", FIRSTS, ids=str)
def test_a_folder_of_a_family_unpacks_to_the_weights_that_torch_has(case: Case, tmp_path: Path) -> None:
    check(tmp_path, loaded(case, tmp_path).model.state_dict())


def test_rows_of_blocks_are_moved_and_their_bytes_kept(smollm2_path: Path) -> None:
    """Llama's queries stand in rotary pairs of neighbours; SmolLM2's are Q4_1."""
    with open_packed(smollm2_path) as packed, GGUF.open(smollm2_path) as file:
        query, key, value = (packed.weights[f"blocks.3.attention.{name}.weight"] for name in ("query", "key", "value"))
        assert {tensor.type for tensor in (query, key, value)} == {"Q4_1"}
        for tensor, theirs, heads in ((query, "attn_q", 9), (key, "attn_k", 3)):
            (expected,) = Interleaved(heads).ours((file.tensor(f"blk.3.{theirs}.weight"),))
            np.testing.assert_array_equal(unpacked(tensor), expected)
        assert value.order is None, "values do not turn"
        assert packed.config.tied_head and "head.tokens.weight" not in packed.weights


PROGRAM = """
import sys
from hornbook.checkpoint.packed import open_packed
with open_packed(sys.argv[1]) as packed:
    ids = packed.chat_template.render([{"role": "user", "content": "你好"}], reply=True).ids
    print(packed.config.layers, len(packed.weights), len(ids), packed.tokenizer.decode(ids[-3:]))
from hornbook.engine import lower, native
from hornbook.kernels import library
lower.lower(packed.config)
print("torch" in sys.modules)
"""


def test_nothing_on_this_path_imports_torch(smollm2_path: Path) -> None:
    found = subprocess.run([sys.executable, "-c", PROGRAM, smollm2_path], capture_output=True, text=True, check=True)
    first, second = found.stdout.strip().rsplit("\n", 1)
    assert first.startswith("30 272 ") and "assistant" in first
    assert second == "False"


# ------------------------------------------------------------------------------------------------------------ rules


class Source:
    """One tensor, as an open file has it."""

    def __init__(self, values: np.ndarray[Any, Any], type: str) -> None:
        self.bytes = quantize(values, type)
        self.values = values
        self.tensors = {name: TensorInfo(name, values.shape, type, self.bytes.nbytes) for name in "ab"}

    def raw(self, name: str) -> Any:
        return self.bytes.reshape(-1)

    def tensor(self, name: str) -> np.ndarray[Any, Any]:
        return self.values

    def release(self, name: str) -> None:
        pass

    def close(self) -> None:
        pass


def packed_as(transform: Transform, type: str, shape: tuple[int, ...], theirs: str = "a") -> PackedTensor:
    values = np.arange(16 * 32, dtype=np.float32).reshape(16, 32)
    fitted = Fitted([Rule(tuple(theirs), ("ours",), transform)], {name: name for name in theirs})
    return pack(fitted, Source(values, type), {"ours": shape})["ours"]


CHANGES = {"turned": (Transposed(), (32, 16), "a"), "shifted": (Shift(1.0), (16, 32), "a")}
CHANGES |= {"padded": (Behind(2), (18, 32), "a")}


@pytest.mark.parametrize("name", CHANGES)
def test_what_does_more_than_move_rows_is_done_to_floats_and_refused_to_blocks(name: str) -> None:
    transform, shape, theirs = CHANGES[name]
    tensor = packed_as(transform, "F16", shape, theirs)
    source = np.arange(16 * 32, dtype=np.float32).reshape(16, 32)
    (expected,) = transform.ours((source,) * len(theirs))
    assert (tensor.type, tensor.order) == ("F32", None)
    np.testing.assert_array_equal(unpacked(tensor), expected)
    with pytest.raises(UnsupportedModel, match="a is of type Q8_0, and more than the order of its rows"):
        packed_as(transform, "Q8_0", shape, theirs)


@pytest.mark.parametrize("type", ["F16", "Q8_0"])
def test_experts_in_tensors_of_their_own_are_put_one_behind_the_other_as_they_are(type: str) -> None:
    tensor = packed_as(Stacked(), type, (2, 16, 32), "ab")
    assert (tensor.type, tensor.order) == (type, None)
    source = np.arange(16 * 32, dtype=np.float32).reshape(16, 32)
    assert tensor.raw.tobytes() == 2 * quantize(source, type).tobytes()
    np.testing.assert_array_equal(tensor.values(), np.stack([source, source]))


def test_experts_of_different_types_are_one_stack_of_floats_or_none() -> None:
    values = np.arange(16 * 32, dtype=np.float32).reshape(16, 32)
    rule, names = Rule(("a", "b"), ("ours",), Stacked()), {"a": "a", "b": "b"}
    for second, words in (("F32", None), ("Q8_0", "b is of type Q8_0")):
        source = Source(values, "F16")
        source.tensors["b"] = TensorInfo("b", values.shape, second, 0)
        if words is None:
            tensor = pack(Fitted([rule], names), source, {"ours": (2, 16, 32)})["ours"]
            assert tensor.type == "F32"
            np.testing.assert_array_equal(unpacked(tensor), np.stack([values, values]))
        else:
            with pytest.raises(UnsupportedModel, match=words):
                pack(Fitted([rule], names), source, {"ours": (2, 16, 32)})


def test_a_square_matrix_that_is_turned_is_not_taken_for_moved_rows() -> None:
    values = np.random.default_rng(1).normal(size=(32, 32)).astype(np.float32)
    fitted = Fitted([Rule(("a",), ("ours",), Transposed())], {"a": "a"})
    np.testing.assert_array_equal(unpacked(pack(fitted, Source(values, "F32"), {"ours": (32, 32)})["ours"]), values.T)


def test_weights_from_memory_are_quantised_where_asked_and_where_they_fit() -> None:
    values = np.random.default_rng(2).normal(size=(4, 64)).astype(np.float32)
    assert (unpacked(held("w", values)) == values).all()
    assert held("w", values, quantize="q8_0").type == "Q8_0"
    assert np.abs(unpacked(held("w", values, quantize="q8_0")) - values).max() < 0.02
    assert held("w", values[:, :40], quantize="q8_0").type == held("norm", values[0], quantize="q8_0").type == "F32"


def test_a_matrix_of_a_file_is_rounded_when_it_is_read_and_given_back(minilm_path: Path) -> None:
    with open_packed(minilm_path) as packed:
        rows, norm = (packed.weights[f"blocks.0.{name}.weight"] for name in ("attention.query", "attention_post_norm"))
        assert rounded(norm, "Q8_0") is norm
        eight, read, released = rounded(rows, "Q8_0"), [], []
        assert (eight.type, eight.shape, eight.order) == ("Q8_0", rows.shape, None)
        np.testing.assert_array_equal(eight.raw, held("w", rows.values(), quantize="q8_0").raw)
        watched = replace(rows, _values=lambda: read.append(1) or rows.values(), _release=lambda: released.append(1))
        late = rounded(watched, "Q8_0")
        assert read == []
        late.raw, late.release()
        assert (read, released) == ([1], [1])
        small = replace(rows, shape=(*rows.shape[:-1], 40))
        assert rounded(small, "Q8_0") is small


# ---------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("type", QUANTISED)
def test_a_block_whose_scale_is_no_number_is_found(type: str) -> None:
    """Against what unpacking makes of blocks of random bytes, of which a few have such a scale."""
    format = BY_NAME[type]
    blocks = np.random.default_rng(3).integers(0, 256, (600, format.nbytes), np.uint8)
    values = np.empty((600, format.block), np.float32)
    dequantize(blocks.reshape(-1), format, values.reshape(-1))
    bad = ~np.isfinite(values).all(1)
    assert 3 < bad.sum() < 100
    assert [not_finite(block, type) > 0 for block in blocks] == bad.tolist()


@pytest.mark.parametrize("type", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_a_float_that_is_no_number_is_found(type: str, number: float) -> None:
    values = np.random.default_rng(4).normal(size=1000).astype(np.float32)
    bits = values.astype("<f2") if type == "F16" else values
    bits[17] = number
    raw = bits.view("<u2")[1::2].copy() if type == "BF16" else bits
    assert not_finite(raw.view(np.uint8), type) == 1
    raw.view("<u2")[17 if type != "F32" else slice(34, 36)] = 0
    assert not_finite(raw.view(np.uint8), type) == 0


def test_weights_that_are_no_numbers_are_refused_by_name() -> None:
    values = np.ones((2, 32), np.float32)
    values[1, 3] = np.nan
    tensor = held("blocks.0.attention.query.weight", values)
    for read in (lambda: tensor.raw, tensor.values):
        with pytest.raises(
            ModelFileError, match=r"blocks\.0\.attention\.query\.weight has 1 weights that are not finite"
        ):
            read()


def test_a_longer_context_is_asked_for_as_of_torch(smollm2_path: Path) -> None:
    with open_packed(smollm2_path, stretch="yarn:2") as packed:
        assert packed.config.context_length == 16_384
        rotary = packed.config.pattern[0].rotary
        assert rotary is not None and rotary.scaling is not None and rotary.scaling.kind == "yarn"


def test_a_path_that_is_none_and_a_file_that_is_no_model_are_named(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "no.gguf", "there is no file or folder"), (tmp_path, "has no config.json")):
        with pytest.raises(HornbookError, match=words):
            open_packed(path)


def test_a_tokenizer_that_cannot_be_read_is_an_error_when_it_is_asked_for(tmp_path: Path) -> None:
    """A model of which only the weights are wanted needs none."""
    path, _, _ = as_gguf(test_family_decoders.LLAMAS[0], tmp_path)
    with open_packed(path) as packed, pytest.raises(UnsupportedModel, match="the tokenizer model 'no_vocab'"):
        _ = packed.tokenizer
