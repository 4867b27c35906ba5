"""The GGUF reader: what it gives, and that every kind of damage is an error that says what and what to do."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_writer import ARRAY, BOOL, F32, F64, I8, I32, I64, STRING, U8, U16, U32, U64, Written, write_gguf

from hornbook.checkpoint.gguf import GGUF
from hornbook.errors import HornbookError, ModelFileError, ModelNotFound, UnsupportedModel

WORDS = ["<s>", "", "hello", "▁wörld", "你好", "東京", "🙂", "a\nb"]
METADATA = [
    ("general.architecture", STRING, "llama"),
    ("llama.block_count", U32, 2),
    ("llama.rope.freq_base", F32, 10000.0),
    ("x.small", I8, -5),
    ("x.big", U64, 1 << 63),
    ("x.minus", I64, -(1 << 62)),
    ("x.double", F64, 0.1),
    ("tokenizer.ggml.add_bos_token", BOOL, True),
    ("tokenizer.ggml.tokens", (ARRAY, STRING), WORDS),
    ("tokenizer.ggml.scores", (ARRAY, F32), [0.5] * len(WORDS)),
    ("tokenizer.ggml.token_type", (ARRAY, I32), list(range(len(WORDS)))),
    ("x.flags", (ARRAY, BOOL), [True, False]),
    ("x.nested", (ARRAY, (ARRAY, U8)), [[1, 2], [], [3]]),
    ("x.nested_strings", (ARRAY, (ARRAY, STRING)), [["a"], ["b", "c"]]),
    ("x.none", (ARRAY, STRING), []),
]
GRID = np.arange(12, dtype="<f4").reshape(3, 4)
TENSORS = [
    ("grid", (4, 3), 0, GRID.tobytes()),
    ("half", (5,), 1, np.arange(5, dtype="<f2").tobytes()),
    ("quantised", (64, 2), 8, bytes(range(136))),
    ("counts", (3,), 27, np.array([-1, 0, 1 << 40], "<i8").tobytes()),
    ("precise", (2,), 28, np.array([0.1, 0.2], "<f8").tobytes()),
    ("brain", (2, 2), 30, np.array([0x3F80, 0x4000, 0xBF80, 0], "<u2").tobytes()),
    ("scalar", (), 0, np.float32(2.5).tobytes()),
]


def save(path: Path, content: bytes | bytearray | Written) -> Path:
    path.write_bytes(content.data if isinstance(content, Written) else content)
    return path


@pytest.fixture
def sound() -> Written:
    return write_gguf(METADATA, TENSORS)


@pytest.fixture
def model(tmp_path: Path, sound: Written) -> Path:
    return save(tmp_path / "model.gguf", sound)


# --------------------------------------------------------------------------------------------------- what it gives


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_come_back_as_they_were_written(tmp_path: Path, version: int) -> None:
    opened = GGUF.open(save(tmp_path / "model.gguf", write_gguf(METADATA, version=version)))
    assert list(opened.metadata) == [key for key, _, _ in METADATA]
    for key, kind, value in METADATA:
        ours = opened.metadata[key]
        if kind in ((ARRAY, F32), (ARRAY, I32), (ARRAY, BOOL)):
            assert isinstance(ours, np.ndarray) and ours.tolist() == value
        elif key == "x.nested":
            assert [array.tolist() for array in ours] == value
        else:
            assert type(ours) is type(value) and ours == value
    assert "tokenizer.ggml.tokens" in opened.metadata and "nothing" not in opened.metadata
    assert opened.metadata.get("nothing", 3) == 3


def test_tensors_come_back_in_torch_shapes(model: Path) -> None:
    opened = GGUF.open(model)
    assert [tuple(info) for info in opened.tensors.values()] == [
        ("grid", (3, 4), "F32", 48),
        ("half", (5,), "F16", 10),
        ("quantised", (2, 64), "Q8_0", 136),
        ("counts", (3,), "I64", 24),
        ("precise", (2,), "F64", 16),
        ("brain", (2, 2), "BF16", 8),
        ("scalar", (), "F32", 4),
    ]
    np.testing.assert_array_equal(opened.tensor("grid"), GRID)
    np.testing.assert_array_equal(opened.tensor("brain"), [[1, 2], [-1, 0]])
    assert opened.tensor("scalar").shape == () and opened.tensor("scalar") == 2.5
    assert {opened.tensor(name).dtype.name for name in ("grid", "half", "quantised", "brain")} == {"float32"}
    assert opened.tensor("counts").tolist() == [-1, 0, 1 << 40]
    assert opened.tensor("precise").tolist() == [0.1, 0.2]
    assert opened.raw("quantised").tobytes() == bytes(range(136))


def test_values_go_into_an_array_of_the_caller(model: Path) -> None:
    opened = GGUF.open(model)
    out = np.zeros((2, 3, 4), np.float32)
    assert opened.tensor("grid", out=out[1]).base is out
    np.testing.assert_array_equal(out[1], GRID)
    for wrong in (np.zeros((4, 3), np.float32), np.zeros((3, 4)), np.zeros((4, 3), np.float32).T):
        with pytest.raises(ValueError, match="grid"):
            opened.tensor("grid", out=wrong)


def test_torch_tensors_keep_the_stored_float_type(model: Path) -> None:
    import torch

    opened = GGUF.open(model)
    kinds = {name: opened.torch(name).dtype for name in opened.tensors}
    assert kinds == {
        **{"grid": torch.float32, "half": torch.float16, "quantised": torch.float32, "counts": torch.int64},
        **{"precise": torch.float64, "brain": torch.bfloat16, "scalar": torch.float32},
    }
    for name in opened.tensors:
        np.testing.assert_array_equal(opened.torch(name).double().numpy(), opened.tensor(name).astype(np.float64))


def test_a_file_of_the_reference_writer_reads_the_same(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "llama")
    writer.add_token_list(WORDS)
    writer.add_float32("x", 1.5)
    generator = np.random.default_rng(0)
    weights = {f"w{i}": generator.standard_normal((3, 5, 64)[-i:]).astype(np.float32) for i in (1, 2, 3)}
    for name, values in weights.items():
        writer.add_tensor(name, values)
    packed = gguf.quants.quantize(weights["w2"], gguf.GGMLQuantizationType.Q5_1)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q5_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened = GGUF.open(tmp_path / "theirs.gguf")
    assert opened.metadata["tokenizer.ggml.tokens"] == WORDS and opened.metadata["x"] == 1.5
    for name, values in weights.items():
        np.testing.assert_array_equal(opened.tensor(name), values)
    expected = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q5_1)
    np.testing.assert_array_equal(opened.tensor("packed"), expected)


def test_arrays_outlive_the_file_and_the_file_closed_says_so(model: Path) -> None:
    with GGUF.open(model) as opened:
        raw = opened.raw("quantised")
    assert raw.tobytes() == bytes(range(136)) and not raw.flags.writeable
    assert opened.tensors["grid"].shape == (3, 4)
    for read in (opened.raw, opened.tensor, opened.torch):
        with pytest.raises(ModelFileError, match=r"model\.gguf was closed"):
            read("grid")
    assert opened.metadata["tokenizer.ggml.tokens"] == WORDS  # not asked for before
    opened.close()


def test_threads_read_at_once_what_one_reads(model: Path) -> None:
    opened = GGUF.open(model)
    expected = {name: GGUF.open(model).tensor(name) for name in opened.tensors}

    def read(turn: int) -> bool:
        assert opened.metadata["tokenizer.ggml.tokens"] == WORDS
        return all(np.array_equal(opened.tensor(name), values) for name, values in expected.items())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(200)))


def test_closing_while_others_read_gives_each_its_values_or_the_error(model: Path) -> None:
    def read(opened: GGUF) -> bool:
        try:
            return np.array_equal(opened.tensor("grid"), GRID)
        except ModelFileError as error:
            return "was closed" in error.what

    with ThreadPoolExecutor(4) as pool:
        for _ in range(50):
            opened = GGUF.open(model)
            answers = [pool.submit(read, opened) for _ in range(8)]
            opened.close()
            assert all(answer.result() for answer in answers)


@pytest.mark.models
def test_a_vocabulary_of_262144_opens_fast_and_whole(gemma_path: Path) -> None:
    started = time.process_time()
    opened = GGUF.open(gemma_path)
    assert time.process_time() - started < 0.5  # 0.07 s on a quiet machine
    tokens = opened.metadata["tokenizer.ggml.tokens"]
    assert len(tokens) == 262_144 and tokens[2] == "<bos>" and opened.metadata["tokenizer.ggml.tokens"] is tokens


# ------------------------------------------------------------------------------------------------------ split files


def parts(folder: Path, count: int = 3, **changes: int) -> list[Path]:
    """``count`` files of one tensor each; ``changes`` overrules split.no, split.count, or the announced total."""
    paths = []
    for i in range(count):
        metadata = [
            ("split.no", U16, changes.get(f"no{i}", i)),
            ("split.count", U16, changes.get(f"count{i}", count)),
            ("split.tensors.count", I32, changes.get("total", count)),
        ]
        first = [("general.architecture", STRING, "llama")] if i == 0 else []
        name = "w0" if changes.get("twice") else f"w{i}"
        content = np.full(4, i, "<f4").tobytes()
        path = folder / f"big-{i + 1:05d}-of-{count:05d}.gguf"
        paths.append(save(path, write_gguf(first + metadata, [(name, (4,), 0, content)])))
    return paths


@pytest.mark.parametrize("which", [0, 1, 2])
def test_any_part_opens_the_whole_model(tmp_path: Path, which: int) -> None:
    opened = GGUF.open(parts(tmp_path)[which])
    assert opened.metadata["general.architecture"] == "llama"
    assert {name: opened.tensor(name)[0] for name in opened.tensors} == {"w0": 0, "w1": 1, "w2": 2}


def test_a_model_that_the_reference_has_split_opens_whole(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "llama", split_max_tensors=2)
    writer.add_token_list(WORDS)
    weights = {f"w{i}": np.full((2, i + 1), i, np.float32) for i in range(5)}
    for name, values in weights.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    opened = GGUF.open(tmp_path / "theirs-00002-of-00003.gguf")
    assert opened.metadata["tokenizer.ggml.tokens"] == WORDS and opened.metadata["split.count"] == 3
    assert list(opened.tensors) == list(weights)
    for name, values in weights.items():
        np.testing.assert_array_equal(opened.tensor(name), values)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    paths = parts(tmp_path)
    paths[0].unlink()
    paths[2].unlink()
    with pytest.raises(ModelFileError, match="2 of 3 parts are missing: big-00001-of-00003.gguf, big-00003-of"):
        GGUF.open(paths[1])


def test_a_part_under_another_name_says_what_its_name_must_be(tmp_path: Path) -> None:
    lone = parts(tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(ModelFileError, match="one of 3 parts") as caught:
        GGUF.open(lone)
    assert "NAME-00001-of-00003.gguf" in caught.value.remedy


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"no1": 2}, "by its name it is part 2 of 3, by its metadata part 3 of 3"),
        ({"count2": 4}, "by its name it is part 3 of 3, by its metadata part 3 of 4"),
        ({"total": 5}, "it announces 5 tensors, but the 3 parts have 3"),
        ({"twice": 1}, "the tensor w0 is in an earlier part too"),
        ({"total": -1}, "split.tensors.count must be a whole number, not -1"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path, changes: dict[str, int], says: str) -> None:
    with pytest.raises(ModelFileError, match=says):
        GGUF.open(parts(tmp_path, **changes)[0])


# ------------------------------------------------------------------------------------------------------------ damage

HUGE = (1 << 64) - 1
TORN = [  # a number in the header, what it becomes, what the error says
    ("tensor count", HUGE, "announces 18,446,744,073,709,551,615 tensors; the limit is 131,072"),
    ("tensor count", 1000, "truncated or damaged: it announces 1,000 tensors, which take at least 24,000 bytes"),
    ("metadata count", HUGE, "metadata values; the limit is 65,536"),
    ("metadata count", 1000, "announces 1,000 metadata values, which take at least 13,000 bytes"),
    ("length of key llama.block_count", HUGE, "metadata key 1 has 18,446,744,073,709,551,615 bytes"),
    ("length of key llama.block_count", 50_000, "truncated or damaged: metadata key 1 takes 50,000 bytes"),
    ("length of general.architecture", HUGE, "general.architecture has 18,446,744,073,709,551,615 bytes"),
    ("type of llama.block_count", 13, "llama.block_count is of value type 13, at byte"),
    ("count of tokenizer.ggml.tokens", HUGE, "strings in tokenizer.ggml.tokens; the limit is"),
    ("count of tokenizer.ggml.tokens", 10_000, "announces 10,000 strings in tokenizer.ggml.tokens, which take at"),
    ("length of tokenizer.ggml.tokens[2]", HUGE, "string 2 of tokenizer.ggml.tokens is at byte .* and too long"),
    ("length of tokenizer.ggml.tokens[2]", 9_999, "string 2 of tokenizer.ggml.tokens is at byte .* and too long"),
    ("count of tokenizer.ggml.scores", HUGE, "values in tokenizer.ggml.scores; the limit is"),
    ("count of tokenizer.ggml.scores", 5_000, "5,000 values in tokenizer.ggml.scores, which take at least 20,000"),
    ("element type of tokenizer.ggml.scores", 99, "tokenizer.ggml.scores is of value type 99"),
    ("count of x.nested", HUGE, "arrays within arrays; the limit is 65,536"),
    ("count of x.nested", 60_000, "announces 60,000 arrays in x.nested, which take at least 720,000 bytes"),
    ("length of name grid", HUGE, "the name of tensor 0 has 18,446,744,073,709,551,615 bytes"),
    ("rank of grid", 0xFFFFFFFF, "grid has 4,294,967,295 dimensions; the limit is 8"),
    ("size 0 of grid", 0, r"grid has the shape \(3, 0\): no size may be 0"),
    ("size 1 of grid", 1 << 63, "no size may be 0, nor the product reach 2\\^63"),
    ("size 1 of grid", HUGE, "nor the product reach"),
    ("size 1 of grid", 1 << 40, "truncated or damaged: the tensor grid ends at byte 17,592,186,0"),
    ("size 1 of grid", 8, "half starts at 64, inside grid, which ends at 128"),
    ("size 0 of quantised", 63, "quantised has rows of 63, which is not a multiple of Q8_0's 32"),
    ("offset of half", 65, "half starts at 65, which is not a multiple of 32"),
    ("offset of half", HUGE - 31, "the tensor half ends at byte 18,446,744,073,70"),
    ("offset of half", 0, "half starts at 0, inside grid, which ends at 48|grid starts at 0, inside half"),
]


@pytest.mark.parametrize(("what", "value", "says"), TORN, ids=[f"{what} {value}" for what, value, _ in TORN])
def test_each_number_that_is_wrong_is_named(tmp_path: Path, sound: Written, what: str, value: int, says: str) -> None:
    path = save(tmp_path / "torn.gguf", sound.spoilt(what, value))
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=says) as caught:
            GGUF.open(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20  # nothing is allocated on the word of the file
    assert "torn.gguf" in caught.value.what and "\n" not in caught.value.what
    assert "hornbook pull" in caught.value.remedy


def test_versions_and_byte_orders_that_are_not_read_are_named(tmp_path: Path, sound: Written) -> None:
    for version, says in (
        (3 << 24, "big-endian"),
        (1, "GGUF version 1"),
        (0, "GGUF version 0"),
        (4, "GGUF version 4; Hornbook reads 2 and 3"),
    ):
        with pytest.raises(UnsupportedModel, match=says):
            GGUF.open(save(tmp_path / "other.gguf", sound.spoilt("version", version)))


@pytest.mark.parametrize(("kind", "says"), [(4, "Q4_2, which was withdrawn"), (77, "number 77")])
def test_unknown_tensor_types_are_named(tmp_path: Path, sound: Written, kind: int, says: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"grid is of an unknown tensor type .{says}"):
        GGUF.open(save(tmp_path / "new.gguf", sound.spoilt("type of grid", kind)))


def test_a_tensor_of_a_type_that_can_only_be_listed_does_not_hide_the_others(tmp_path: Path) -> None:
    tensors = [("odd", (256,), 23, bytes(136)), *TENSORS]
    opened = GGUF.open(save(tmp_path / "mixed.gguf", write_gguf(METADATA, tensors)))
    assert opened.tensors["odd"].type == "IQ4_XS" and opened.raw("odd").nbytes == 136
    np.testing.assert_array_equal(opened.tensor("grid"), GRID)
    with pytest.raises(UnsupportedModel, match="odd is of type IQ4_XS"):
        opened.tensor("odd")


def test_arrays_nest_to_a_limit(tmp_path: Path) -> None:
    four = (ARRAY, (ARRAY, (ARRAY, (ARRAY, U8))))
    opened = GGUF.open(save(tmp_path / "four.gguf", write_gguf([("deep", four, [[[[1]]]])])))
    assert opened.metadata["deep"][0][0][0].tolist() == [1]
    content = write_gguf([("deep", ARRAY, [])]).data  # the type is given, the array itself follows
    content += struct.pack("<IQ", ARRAY, 1) * 100_000 + struct.pack("<IQ", U8, 0)
    with pytest.raises(ModelFileError, match="the arrays of deep are nested more than 4 deep"):
        GGUF.open(save(tmp_path / "deep.gguf", content))


@pytest.mark.parametrize(
    ("metadata", "tensors", "says"),
    [
        ([("a", U8, 1), ("a", U8, 2)], [], "the metadata key a is there twice"),
        ([], [TENSORS[0], TENSORS[0]], "the tensor grid is there twice"),
        ([(b"\xff\xfe", U8, 1)], [], "metadata key 0, at byte 32, is not UTF-8"),
        ([("a", STRING, b"\xe4\xbd")], [], "a, at byte .* is not UTF-8"),
        ([], [(b"\xc3", (4,), 0, bytes(16))], "the name of tensor 0, at byte .* is not UTF-8"),
        ([("general.alignment", U32, 0)], [], "general.alignment is 0, which is not a power of two"),
        ([("general.alignment", U32, 48)], [], "general.alignment is 48, which is not a power of two"),
        ([("general.alignment", STRING, "x" * 999)], [], "general.alignment must be a whole number, not 'xxx"),
        ([("general.alignment", (ARRAY, U8), [1])], [], "general.alignment must be a whole number, not ndarray"),
        ([("split.count", F32, 2.0)], [], "split.count must be a whole number, not 2.0"),
        ([("\x1b[2Jred\n", U8, 1), ("\x1b[2Jred\n", U8, 1)], [], r"the metadata key \\x1b\[2Jred\\n is there twice"),
    ],
)
def test_contradictions_are_named(tmp_path: Path, metadata: list, tensors: list, says: str) -> None:
    with pytest.raises(ModelFileError, match=says) as caught:
        GGUF.open(save(tmp_path / "odd.gguf", write_gguf(metadata, tensors)))
    assert caught.value.what.isprintable() and len(caught.value.what) < 400


def test_a_token_that_is_not_utf8_is_named_when_the_tokens_are_asked_for(tmp_path: Path) -> None:
    # Joined, the two would be one good character: each string is held to account on its own.
    tokens = ["good", b"\xe4\xbd", b"\xa0"]
    opened = GGUF.open(save(tmp_path / "m.gguf", write_gguf([("tokenizer.ggml.tokens", (ARRAY, STRING), tokens)])))
    with pytest.raises(ModelFileError, match="a string of tokenizer.ggml.tokens is not UTF-8"):
        opened.metadata["tokenizer.ggml.tokens"]


def test_many_tensors_of_one_name_are_refused_in_no_time(tmp_path: Path) -> None:
    names = [f"t{i}" for i in range(20_000)]
    tensors = [(name, (), 0, bytes(4)) for name in [*names, names[-1]]]
    path = save(tmp_path / "many.gguf", write_gguf([("general.alignment", U32, 4)], tensors, alignment=4))
    started = time.process_time()
    with pytest.raises(ModelFileError, match="the tensor t19999 is there twice"):
        GGUF.open(path)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"GG", "not a GGUF file: at byte 0 it has b'GG', not b'GGUF'"),
        (b"GGUF\x03", "truncated or damaged: the version takes 4 bytes from byte 4 on, the file ends at 5"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a web page"),
        (b"\xef\xbb\xbf\n<HTML><head>", "a web page"),
        (b"PK\x03\x04\x00\x00archive/data.pkl", "pickle .* which can run code and is never loaded"),
        (b"\x80\x02}q\x00.", "a Python pickle, which can run code"),
        (b"tjgg\x03\x00\x00\x00", "a GGML file of before August 2023"),
        (b"\x1f\x8b\x08\x00", "a compressed file"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}\x00", "a safetensors file"),
        (b"some text that is no model", "at byte 0 it has b'some', not b'GGUF'"),
    ],
)
def test_what_is_given_instead_of_a_model_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(ModelFileError, match=says) as caught:
        GGUF.open(save(tmp_path / "model.gguf", content))
    assert caught.value.remedy


def test_places_where_no_file_can_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="there is no file"):
        GGUF.open(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match="is a folder"):
        GGUF.open(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.gguf")  # opening it would wait for a writer for ever
        with pytest.raises(ModelFileError, match="not a regular file"):
            GGUF.open(tmp_path / "pipe.gguf")


@pytest.mark.parametrize("step", [1, 7])
def test_a_file_cut_anywhere_is_an_error_and_only_the_whole_one_opens(
    tmp_path: Path, sound: Written, step: int
) -> None:
    for cut in range(step - 1, len(sound.data), step * 11):
        with pytest.raises(HornbookError):
            GGUF.open(save(tmp_path / f"cut{cut}.gguf", sound.data[:cut]))


@pytest.mark.models
@pytest.mark.parametrize("size", [1000, 500_000, 50_000_000])
def test_a_real_model_cut_short_says_the_numbers_and_to_pull_it_again(
    smollm2_path: Path, tmp_path: Path, size: int
) -> None:
    cut = tmp_path / "SmolLM2.gguf"
    with smollm2_path.open("rb") as whole:
        cut.write_bytes(whole.read(size))
    with pytest.raises(ModelFileError, match=f"SmolLM2.gguf is truncated .* the file ends at {size:,}") as caught:
        GGUF.open(cut)
    assert "hornbook pull" in caught.value.remedy
