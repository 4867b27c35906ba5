"""What the writer writes, our reader and the gguf package's read back bit for bit; and nothing is ever half there."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from hornbook.checkpoint import gguf_writer
from hornbook.checkpoint.gguf import GGUF
from hornbook.checkpoint.gguf_writer import OutTensor, write
from hornbook.checkpoint.quantize import quantize
from hornbook.errors import ModelFileError, StoreError, UnsupportedModel, UsageError

METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.name": "Fibel 课本 🙂",
    "empty": "",
    "yes": True,
    "no": False,
    "small": 7,
    "negative": -7,
    "large": 2**40,
    "largest": 2**64 - 1,
    "very negative": -(2**40),
    "epsilon": 1e-5,
    "exact": np.float64(0.1),
    "byte": np.uint8(200),
    "short": np.int16(-300),
    "tokens": ["a", "", "Ġ", "深い", "\x00"],
    "none": [],
    "flags": [True, False, True],
    "types": [1, 3, -1],
    "counts": [1, 2],
    "unsigned": [1, 2**32 - 1],
    "wide": [2**40, -1],
    "scores": [0.5, -1000.0, 1],
    "halves of bytes": np.arange(5, dtype=np.uint16),
    "doubles": np.array([0.1, 1e300]),
    "bools": np.array([True, False]),
    "big endian": np.arange(3, dtype=">i4"),
    "nested": [[1, 2], [3]],
}


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensor(name: str, data: Any, type: str = "F32") -> OutTensor:
    return OutTensor(name, tuple(data.shape), type, lambda: data)


def test_metadata_comes_back_as_it_was_through_both_readers(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path, METADATA, [tensor("x", values(2, 32))])
    theirs = gguf.GGUFReader(path)
    with GGUF.open(path) as file:
        assert list(file.metadata) == list(METADATA)
        for key, value in METADATA.items():
            ours = file.metadata[key]
            if key == "nested":  # the package's reader cannot
                assert [list(part) for part in ours] == value
                continue
            if key in ("epsilon", "scores"):  # float32 on disk
                value = np.float32(value).tolist()
            assert np.array_equal(ours, value) and np.array_equal(theirs.fields[key].contents(), value), key
        assert file.metadata["types"].dtype == file.metadata["counts"].dtype == np.int32
        assert file.metadata["unsigned"].dtype == np.uint32
        assert file.metadata["halves of bytes"].dtype == np.uint16 and file.metadata["doubles"].dtype == np.float64
    kinds = gguf.GGUFValueType
    expected = {
        "small": kinds.UINT32, "negative": kinds.INT32, "large": kinds.UINT64, "very negative": kinds.INT64,
        "yes": kinds.BOOL, "epsilon": kinds.FLOAT32, "exact": kinds.FLOAT64, "byte": kinds.UINT8, "short": kinds.INT16,
    }  # fmt: skip
    assert {key: theirs.fields[key].types[0] for key in expected} == expected


def test_tensors_come_back_as_they_were_through_both_readers(tmp_path: Path) -> None:
    path, experts, weights = tmp_path / "model.gguf", values(3, 5, 512), values(48, 256, seed=1)
    half = torch.from_numpy(weights).to(torch.bfloat16)
    packed = quantize(weights, "Q4_K")
    given = [
        tensor("norm", values(7)),
        tensor("experts", experts, "Q6_K"),
        tensor("torch", half, "BF16"),
        tensor("transposed", torch.from_numpy(weights).T, "F16"),
        tensor("parameter", torch.nn.Parameter(half[:, :64]), "Q8_0"),
        OutTensor("packed", (48, 256), "Q4_K", lambda: packed),
        OutTensor("packed, in torch", (48, 256), "Q4_K", lambda: torch.from_numpy(packed)),
        tensor("ids", np.arange(-4, 4), "I32"),
        tensor("scalar", np.float32(3)),
    ]
    write(path, METADATA, given)
    theirs = {found.name: found for found in gguf.GGUFReader(path).tensors}
    with GGUF.open(path) as file:
        assert list(file.tensors) == list(theirs) == [out.name for out in given]
        for out in given:
            info = file.tensors[out.name]
            assert (info.shape, info.type) == (tuple(out.shape), out.type) and theirs[out.name].data_offset % 32 == 0
            assert np.array_equal(file.raw(out.name), theirs[out.name].data.reshape(-1).view(np.uint8))
        assert np.array_equal(file.raw("experts"), quantize(experts.reshape(15, 512), "Q6_K").reshape(-1))
        assert torch.equal(file.torch("torch"), half)
        assert np.array_equal(file.tensor("transposed"), weights.T.astype(np.float16))
        assert np.array_equal(file.raw("parameter"), quantize(half[:, :64].float().numpy(), "Q8_0").reshape(-1))
        assert np.array_equal(file.raw("packed"), packed.reshape(-1))
        assert np.array_equal(file.raw("packed"), file.raw("packed, in torch"))
        assert file.tensor("ids").tolist() == list(range(-4, 4)) and file.tensor("scalar") == 3


@pytest.mark.models
def test_a_published_file_is_written_again_to_the_byte(smollm2_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    with GGUF.open(smollm2_path) as file:
        tensors = [
            OutTensor(name, info.shape, info.type, lambda name=name: file.raw(name))
            for name, info in file.tensors.items()
        ]
        write(copy, file.metadata, tensors)
    assert copy.read_bytes() == smollm2_path.read_bytes()


def test_alignment_is_kept_and_parts_become_one(tmp_path: Path) -> None:
    metadata = {"general.alignment": 64, "split.no": 0, "split.count": 3, "split.tensors.count": 9}
    write(tmp_path / "model.gguf", metadata, [tensor("a", values(3)), tensor("b", values(3))])
    with GGUF.open(tmp_path / "model.gguf") as file:
        assert dict(file.metadata) == {"general.alignment": 64}
        assert file.raw("b").ctypes.data % 64 == 0
    with pytest.raises(ModelFileError, match="alignment is 48"):
        write(tmp_path / "other.gguf", {"general.alignment": 48}, [])


def test_tensors_are_asked_for_one_at_a_time_and_progress_is_told(tmp_path: Path) -> None:
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    told: list[tuple[str, int, int]] = []

    def data() -> torch.Tensor:
        assert not alive, "the tensor before is still held"
        values = torch.ones(64, 256)
        alive.add(values)
        return values

    tensors = [OutTensor(f"t{i}", (64, 256), "Q8_0", data) for i in range(4)]
    tensors.append(tensor("needs padding", values(3)))
    write(tmp_path / "m.gguf", {}, tensors, progress=lambda *said: told.append(said))
    whole = (tmp_path / "m.gguf").stat().st_size
    assert len(told) == 6 and told[-1] == ("m.gguf", whole, whole) and told == sorted(told)


BAD_TENSORS: list[tuple[Callable[[], list[OutTensor]], type[Exception], str]] = [
    (lambda: [tensor("x", values(2)), tensor("x", values(2))], ModelFileError, "x is there twice"),
    (lambda: [tensor("x", values(2, 48), "Q8_0")], ModelFileError, "x has rows of 48, .* Q8_0's 32"),
    (lambda: [tensor("x", values(2, 0))], ModelFileError, r"x has the shape \(2, 0\)"),
    (lambda: [tensor("x", values(1, 1, 1, 1, 1))], ModelFileError, r"x has the shape \(1, 1, 1, 1, 1\)"),
    (lambda: [tensor("x" * 64, values(2))], ModelFileError, "more than 63 bytes"),
    (lambda: [tensor("x", values(2), "Q9")], UnsupportedModel, "no tensor type Q9"),
    (lambda: [tensor("x", values(2, 256), "IQ4_XS")], UnsupportedModel, "x: Hornbook cannot write .* IQ4_XS"),
    (lambda: [OutTensor("x", (3, 4), "F32", lambda: values(4, 3))], ModelFileError, r"x came in the shape \(4, 3\)"),
    (lambda: [OutTensor("x", (2, 32), "Q8_0", lambda: np.zeros(67, np.uint8))], ModelFileError, "67 bytes; .* 68"),
    (lambda: [tensor("x", np.full((2, 32), np.nan), "Q4_0")], ModelFileError, "x has values that are not numbers .* 64 of the 64"),
]  # fmt: skip


@pytest.mark.parametrize("make, error, words", BAD_TENSORS, ids=[words for *_, words in BAD_TENSORS])
def test_what_gguf_cannot_hold_is_refused_and_leaves_nothing(
    make: Callable[[], list[OutTensor]], error: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        write(tmp_path / "model.gguf", METADATA, make())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value, error",
    [
        (None, TypeError), ({"a": 1}, TypeError), (b"bytes", TypeError), (1j, TypeError), ([1, "a"], TypeError),
        ([True, 1], TypeError), (np.float16(1), TypeError), (2**64, ModelFileError), ([2**64], ModelFileError),
        (1e300, ModelFileError), ([1e300], ModelFileError), ("\ud800", ModelFileError), (["\udfff"], ModelFileError),
    ],
)  # fmt: skip
def test_metadata_without_a_value_type_are_refused_by_name(value: Any, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="the.key"):
        write(tmp_path / "model.gguf", {"the.key": value}, [])
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_stays_unless_it_is_to_be_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path, {"number": 1}, [])
    before = path.read_bytes()
    with pytest.raises(UsageError, match="model.gguf is there already"):
        write(path, {"number": 2}, [])
    with pytest.raises(ZeroDivisionError):
        write(path, {"number": 2}, [OutTensor("x", (1,), "F32", lambda: 1 / 0)], overwrite=True)  # type: ignore[arg-type, return-value]
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    write(path, {"number": 2}, [], overwrite=True)
    with GGUF.open(path) as file:
        assert file.metadata["number"] == 2


def test_a_file_can_be_written_over_itself_while_it_is_read(tmp_path: Path) -> None:
    path, weights = tmp_path / "model.gguf", values(64, 256)
    write(path, {}, [tensor("x", weights)])
    with GGUF.open(path) as file:
        write(path, {}, [OutTensor("x", (64, 256), "Q8_0", lambda: file.tensor("x"))], overwrite=True)
        assert np.array_equal(file.tensor("x"), weights)
    with GGUF.open(path) as file:
        assert np.array_equal(file.raw("x"), quantize(weights, "Q8_0").reshape(-1))


def test_of_several_writers_one_wins_and_the_file_is_whole(tmp_path: Path) -> None:
    path, ready, outcomes = tmp_path / "model.gguf", threading.Barrier(4), []

    def run(number: int) -> None:
        def data() -> np.ndarray:
            ready.wait(10)  # all have found the name free
            return np.full((8, 32), number, np.float32)

        try:
            write(path, {}, [OutTensor("x", (8, 32), "F32", data)])
            outcomes.append(number)
        except UsageError:
            outcomes.append(None)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number in outcomes if number is not None]
    with GGUF.open(path) as file:
        assert (file.tensor("x") == winner).all()
    assert len(outcomes) == 4 and list(tmp_path.iterdir()) == [path]


def test_places_that_are_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        write(tmp_path, {}, [], overwrite=True)
    with pytest.raises(UsageError, match="is a device or a pipe"):
        write(os.devnull, {}, [], overwrite=True)
    with pytest.raises(UsageError, match="there is no folder"):
        write(tmp_path / "missing" / "model.gguf", {}, [])


def test_a_disk_too_small_is_told_with_the_room_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(gguf_writer.shutil, "disk_usage", lambda path: room)
    with pytest.raises(StoreError, match=r"model.gguf takes 4\.2 MB and 1\.0 MB are free"):
        write(tmp_path / "model.gguf", {}, [OutTensor("x", (1024, 1024), "F32", lambda: values(1024, 1024))])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_midway_is_told_and_leaves_nothing(
    failure: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(gguf_writer.os, "fsync", fsync)
    words = r"model.gguf takes 0\.0 MB" if failure == errno.ENOSPC else "model.gguf cannot be written: .*error"
    with pytest.raises(StoreError, match=words):
        write(tmp_path / "model.gguf", {}, [tensor("x", values(4))])
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys, time
import numpy as np
from hornbook.checkpoint.gguf_writer import OutTensor, write

def last():
    print("written", flush=True)
    time.sleep(60)

first = OutTensor("a", (256, 1024), "F32", lambda: np.ones((256, 1024), np.float32))
write(sys.argv[1], {}, [first, OutTensor("b", (1,), "F32", last)])
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_writer_that_is_stopped_leaves_no_file_under_the_name(end: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None and writer.stdout.readline() == b"written\n"
    writer.send_signal(end)
    _, said = writer.communicate(timeout=20)
    assert writer.returncode != 0 and not path.exists()
    if end == signal.SIGINT:
        assert b"KeyboardInterrupt" in said and list(tmp_path.iterdir()) == []
