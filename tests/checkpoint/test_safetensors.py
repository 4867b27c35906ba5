"""The safetensors readers: what they give, and that every kind of damage is an error that says what and what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hornbook.checkpoint.mapped import TensorInfo
from hornbook.checkpoint.safetensors import MAX_HEADER, SafetensorsFile, SafetensorsFolder
from hornbook.errors import ModelFileError, ModelNotFound, UnsupportedModel

WEIGHTS = {
    "embed.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "half": torch.tensor([0.1, -65504.0, 6e-8, float("inf")], dtype=torch.float16),
    "brain": torch.tensor([[0.1, -2.0], [3e38, float("nan")]], dtype=torch.bfloat16),
    "double": torch.tensor(0.1, dtype=torch.float64),
    "ids": torch.tensor([[-1, 1 << 40]]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "flags": torch.tensor([True, False, True]),
    "empty": torch.zeros(0, 7),
}


def pack(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(encoded) if length is None else length).to_bytes(8, "little") + encoded + data


def tensor(dtype: str = "F32", shape: Any = (2,), start: Any = 0, end: Any = 8) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def save(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_file(WEIGHTS, tmp_path / "model.safetensors", metadata={"format": "pt", "名": "值"})
    return tmp_path / "model.safetensors"


# --------------------------------------------------------------------------------------------------- what they give


@pytest.mark.parametrize("of", ["file", "folder"])
def test_tensors_equal_the_library_s(model: Path, of: str) -> None:
    opened = SafetensorsFile.open(model) if of == "file" else SafetensorsFolder.open(model.parent)
    assert opened.metadata == {"format": "pt", "名": "值"}
    assert opened.tensors.keys() == WEIGHTS.keys()
    assert opened.tensors["brain"] == TensorInfo("brain", (2, 2), "BF16", 8)
    for name, expected in WEIGHTS.items():
        ours = opened.torch(name)
        assert ours.dtype == expected.dtype and ours.shape == expected.shape
        values = opened.tensor(name)
        wide = expected.float() if expected.dtype in (torch.float16, torch.bfloat16) else expected
        assert values.dtype == wide.numpy().dtype and values.shape == tuple(expected.shape)
        np.testing.assert_array_equal(values, wide.numpy())
        np.testing.assert_array_equal(
            ours.numpy(force=True) if expected.dtype != torch.bfloat16 else ours.float(), wide
        )
        assert opened.raw(name).nbytes == opened.tensors[name].nbytes == expected.nbytes


def test_values_go_into_an_array_of_the_caller(model: Path) -> None:
    opened = SafetensorsFile.open(model)
    out = np.zeros((3, 4), np.float32)
    assert opened.tensor("embed.weight", out=out) is out and out[2, 3] == 11
    with pytest.raises(ValueError, match="embed.weight"):
        opened.tensor("embed.weight", out=np.zeros((4, 3), np.float32))


def test_eight_bit_floats_come_as_torch_tensors_only(tmp_path: Path) -> None:
    values = torch.tensor([1.0, -2.0]).to(torch.float8_e4m3fn)
    save_file({"eight": values}, tmp_path / "m.safetensors")
    opened = SafetensorsFile.open(tmp_path / "m.safetensors")
    assert opened.torch("eight").dtype == torch.float8_e4m3fn and opened.torch("eight").float().tolist() == [1, -2]
    with pytest.raises(UnsupportedModel, match="eight is of type F8_E4M3"):
        opened.tensor("eight")


def test_flags_are_true_or_false_whatever_the_byte(tmp_path: Path) -> None:
    content = pack({"flags": tensor("BOOL", [4], 0, 4)}, b"\x00\x01\x02\xff")
    values = SafetensorsFile.open(save(tmp_path / "m.safetensors", content)).tensor("flags")
    assert values.view(np.uint8).tolist() == [0, 1, 1, 1]


def test_arrays_outlive_the_file_and_the_file_closed_says_so(model: Path) -> None:
    with SafetensorsFolder.open(model.parent) as opened:
        raw, shared = opened.raw("embed.weight"), opened.torch("embed.weight")
    assert raw.view(np.float32).tolist() == list(range(12)) and shared.flatten().tolist() == list(range(12))
    for read in (opened.raw, opened.tensor, opened.torch):
        with pytest.raises(ModelFileError, match=r"model\.safetensors was closed"):
            read("embed.weight")


def test_threads_read_at_once_what_one_reads(model: Path) -> None:
    opened = SafetensorsFile.open(model)

    def read(turn: int) -> bool:
        return torch.equal(opened.torch("embed.weight"), WEIGHTS["embed.weight"]) and opened.tensor("half")[0] > 0

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))


@pytest.mark.models
def test_a_real_folder_reads_as_the_library_reads_it(minilm_path: Path) -> None:
    expected = load_file(minilm_path / "model.safetensors")
    with SafetensorsFolder.open(minilm_path) as opened:
        assert opened.tensors.keys() == expected.keys()
        for name in list(expected)[:20]:
            assert torch.equal(opened.torch(name), expected[name])
            np.testing.assert_array_equal(opened.tensor(name), expected[name].numpy())


@pytest.mark.models
def test_a_real_file_cut_short_says_the_numbers_and_to_pull_it_again(minilm_path: Path, tmp_path: Path) -> None:
    with (minilm_path / "model.safetensors").open("rb") as whole:
        cut = save(tmp_path / "model.safetensors", whole.read(1_000_000))
    with pytest.raises(ModelFileError, match="truncated .* the file ends at 1,000,000") as caught:
        SafetensorsFolder.open(cut.parent)
    assert "hornbook pull" in caught.value.remedy


# ------------------------------------------------------------------------------------------------------------ shards


def shards(folder: Path, changes: Mapping[str, str] | None = None) -> Path:
    save_file({"a": torch.ones(2), "b": torch.ones(3)}, folder / "model-00001-of-00002.safetensors")
    save_file({"c": torch.full((4,), 7.0)}, folder / "model-00002-of-00002.safetensors")
    weight_map = dict.fromkeys("ab", "model-00001-of-00002.safetensors") | {"c": "model-00002-of-00002.safetensors"}
    index = {"metadata": {"total_size": 36}, "weight_map": weight_map | dict(changes or {})}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_a_folder_of_shards_reads_as_one(tmp_path: Path) -> None:
    opened = SafetensorsFolder.open(shards(tmp_path))
    assert {name: info.shape for name, info in opened.tensors.items()} == {"a": (2,), "b": (3,), "c": (4,)}
    assert opened.tensor("c").tolist() == opened.torch("c").tolist() == [7.0] * 4


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"d": "../secret.safetensors"}, "names '../secret.safetensors', which is not a .safetensors file in the same"),
        ({"d": "/etc/secret.safetensors"}, "not a .safetensors file in the same folder"),
        ({"d": "..\\secret.safetensors"}, "not a .safetensors file in the same folder"),
        ({"d": "model.bin"}, "not a .safetensors file in the same folder"),
        ({"d": ".."}, "not a .safetensors file in the same folder"),
        ({"d": "model-3.safetensors"}, "1 of the 3 files of model.safetensors.index.json are missing: model-3"),
        ({"d": "model-00002-of-00002.safetensors"}, "disagree on 1 tensors: d is not in it"),
        ({"a": "model-00002-of-00002.safetensors"}, "disagree on 1 tensors: a is in it and not in the index"),
        ({"a": 3}, "weight_map does not give a file for each tensor"),
    ],
)
def test_an_index_that_is_wrong_says_where(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    with pytest.raises(ModelFileError, match=says):
        SafetensorsFolder.open(shards(tmp_path, changes))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "[" * 100_000, ""])
def test_an_index_that_is_no_index_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelFileError, match=r"model\.safetensors\.index\.json is (damaged|empty)"):
        SafetensorsFolder.open(tmp_path)


def test_a_folder_of_pickles_says_how_to_convert_them(tmp_path: Path) -> None:
    save(tmp_path / "pytorch_model.bin", b"PK\x03\x04")
    with pytest.raises(ModelFileError, match="pytorch_model.bin and no model.safetensors; a pickle can run") as caught:
        SafetensorsFolder.open(tmp_path)
    assert "safetensors.torch.save_file" in caught.value.remedy


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="holds no model.safetensors"):
        SafetensorsFolder.open(tmp_path)
    with pytest.raises(ModelNotFound):
        SafetensorsFolder.open(tmp_path / "absent")


# ------------------------------------------------------------------------------------------------------------ damage

DATA = bytes(8)
DAMAGED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "short": (b"\x08\x00", "is not a safetensors file: at byte 8 it has b''"),
    "not JSON": (pack(b"{'a': 1}"), "its header is not JSON"),
    "not UTF-8": (pack(b'{"\xff": 1}'), "its header is not JSON"),
    "deep": (pack(b'{"a":' * 100_000), "its header is not JSON"),
    "endless number": (pack(b'{"a":' + b"9" * 5000 + b"}"), "its header is not JSON"),
    "two objects": (pack(b"{} {}"), "its header is not JSON"),
    "huge header": (pack({}, length=MAX_HEADER + 1), "its header would have 33,554,433 bytes; the limit is 33,554,432"),
    "header past the end": (pack({}, length=1000), "the header ends at byte 1,008, the file ends at 10"),
    "name twice": (pack(b'{"a": 1, "a": 2}'), "the key 'a' is there twice"),
    "key twice": (pack(b'{"a": {"dtype": "F32", "dtype": "F16"}}'), "the key 'dtype' is there twice"),
    "metadata": (pack({"__metadata__": {"a": 1}}), "__metadata__ is not an object of strings"),
    "no shape": (pack({"a": {"dtype": "F32"}}), "a is not described by dtype, shape and data_offsets"),
    "a list": (pack({"a": [1]}), "a is not described by"),
    "dtype": (pack({"a": tensor(3)}, DATA), "the dtype of a is not a string"),
    "negative": (pack({"a": tensor(shape=[-2])}, DATA), "the shape of a is not a list of"),
    "fraction": (pack({"a": tensor(shape=[2.0])}, DATA), "the shape of a is not a list of"),
    "true": (pack({"a": tensor(shape=[True, 2])}, DATA), "the shape of a is not a list of"),
    "rank": (pack({"a": tensor(shape=[1] * 65)}, DATA), "list of at most 64"),
    "three offsets": (
        pack({"a": tensor() | {"data_offsets": [0, 4, 8]}}, DATA),
        "data_offsets of a are not a start and",
    ),
    "backwards": (pack({"a": tensor(start=8, end=0)}, DATA), "data_offsets of a are not a start and an end"),
    "span": (pack({"a": tensor(shape=[3])}, DATA), r"a needs 12 bytes for F32 of shape \(3,\), and has 8"),
    "overflow": (pack({"a": tensor(shape=[0, 1 << 63], end=0)}), "which is beyond 63 bits"),
    "product": (pack({"a": tensor(shape=[1 << 33, 1 << 33])}, DATA), "which is beyond 63 bits"),
    "past the end": (pack({"a": tensor(shape=[4], end=16)}, DATA), "the data end at byte .*, the file ends at"),
    "trailing": (pack({"a": tensor()}, DATA + b"x"), "1 bytes follow the last tensor"),
    "overlap": (
        pack({"a": tensor(), "b": tensor(start=4, end=12)}, bytes(12)),
        "b starts at 4, inside a, which ends at 8",
    ),
    "gap": (pack({"a": tensor(), "b": tensor(start=9, end=17)}, bytes(17)), "b starts at 9, apart from a, which ends"),
    "half a character": (pack({"\ud800": tensor()}, DATA), "is not text"),
    "terminal": (pack({"\x1b[2J": 1}), r"damaged: \\x1b\[2J is not described"),
    "gguf": (b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00", "is a GGUF file"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "page": (b"<html><body>", "a web page"),
    "pickle": (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00", "a Python pickle"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_each_kind_of_damage_is_named(tmp_path: Path, kind: str) -> None:
    content, says = DAMAGED[kind]
    with pytest.raises(ModelFileError, match=says) as caught:
        SafetensorsFile.open(save(tmp_path / "model.safetensors", content))
    assert caught.value.what.isprintable() and caught.value.remedy


def test_types_that_are_not_known_are_named(tmp_path: Path) -> None:
    content = pack({"a": tensor("F6_E2M3", [8], 0, 6)}, bytes(6))
    with pytest.raises(UnsupportedModel, match="a is of type F6_E2M3") as caught:
        SafetensorsFile.open(save(tmp_path / "model.safetensors", content))
    assert "BF16" in caught.value.remedy


@pytest.mark.parametrize("length", [640, 1152, 0x8B1F])
def test_a_header_length_that_looks_like_another_format_does_not_mislead(tmp_path: Path, length: int) -> None:
    header = json.dumps({"a": tensor()}).encode()
    content = pack(header + b" " * (length - len(header)), DATA)
    assert SafetensorsFile.open(save(tmp_path / "model.safetensors", content)).tensor("a").tolist() == [0, 0]
