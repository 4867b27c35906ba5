"""GGUF, the file format of llama.cpp: metadata and tensors in one file, or in several that belong together.

    "GGUF"  version u32  tensor count u64  metadata count u64
    metadata: key, value type u32, value          ... once each
    tensors:  name, dimensions u32, size u64 each (fastest first), type u32, offset u64     ... once each
    padding to general.alignment
    data: each tensor at its offset from here

A string is its length u64 and its UTF-8 bytes; everything is little endian. The file is mapped, not read, and nothing
in it is believed: every count is held against the bytes that are left before anything is allocated for it, every offset
against the size of the file, and every tensor against its neighbours. Specification: docs/gguf.md of the ggml project.
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hornbook.checkpoint.dequantize import BY_NAME, FORMATS, dequantize
from hornbook.checkpoint.mapped import FETCH_AGAIN, Bytes, MappedFile, damaged
from hornbook.errors import HornbookError, ModelFileError, UnsupportedModel

if TYPE_CHECKING:
    import torch

# The format allows more; no sound file comes near, and Python objects take many times the bytes they are read from.
MAX_KEY = 65_535  # bytes, from the specification
MAX_STRING = 1 << 26  # bytes of one metadata string
MAX_STRINGS = 1 << 24  # strings in one array
MAX_METADATA = 1 << 16
MAX_TENSORS = 1 << 20
MAX_DIMENSIONS = 8  # ggml itself has four
MAX_ELEMENTS = 1 << 63
MAX_NESTING = 4  # arrays within arrays

_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_WIDTHS = {code: np.dtype(name).itemsize for code, name in _NUMBERS.items()} | {_BOOL: 1}
_WITHDRAWN = {4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8"} | {
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
_SHARD = re.compile(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf$", re.DOTALL)


class TensorInfo(NamedTuple):
    """What a file says of one tensor. ``shape`` is row-major, as torch has it; ``type`` is the stored one."""

    name: str
    shape: tuple[int, ...]
    type: str
    nbytes: int


class _Tensor(NamedTuple):
    info: TensorInfo
    file: MappedFile
    start: int  # bytes from the start of that file


class _Strings:
    """An array of strings of which only the places are known: string i lies between starts[i] and starts[i + 1]."""

    def __init__(self, file: MappedFile, key: str, starts: array[int]) -> None:
        self.file, self.key, self.starts = file, key, starts

    def decode(self) -> list[str]:
        base = self.starts[0]
        data = self.file.view(base, self.starts[-1] - base).tobytes()
        ends = [start - base for start in self.starts]
        try:
            return [data[start + 8 : end].decode() for start, end in pairwise(ends)]
        except UnicodeDecodeError as error:
            raise damaged(self.file.path, f"the strings of {self.key} are not UTF-8 ({error})") from error


class Metadata(Mapping[str, Any]):
    """Key -> int, float, bool, str, list[str], a numpy array of numbers, or a list of these where arrays nest.

    A vocabulary of 262,144 strings is decoded when it is first asked for, and then kept.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, _Strings):
            value = self._values[key] = value.decode()  # two threads at once do the same work twice, no more
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __repr__(self) -> str:
        return f"Metadata({', '.join(self._values)})"


class GGUF:
    """An open model: ``metadata`` and, by name and in the file's order, ``tensors``.

    Reading is safe from several threads at once. Arrays that were handed out outlive ``close``.
    """

    def __init__(self, path: Path, files: list[MappedFile], metadata: Metadata, tensors: dict[str, _Tensor]) -> None:
        self.path = path
        self.metadata = metadata
        self.tensors: dict[str, TensorInfo] = {name: tensor.info for name, tensor in tensors.items()}
        self._files, self._tensors = files, tensors

    @classmethod
    def open(cls, path: str | Path) -> GGUF:
        """Open a GGUF file; of a split one ("...-00001-of-00003.gguf") any part, and the others are found beside it.

        Raises ModelNotFound, ModelFileError (damaged, truncated, a part missing, no GGUF file at all: the message says
        what it is instead) or UnsupportedModel (big endian, version 1, a tensor type that is not known).
        """
        path = Path(path)
        part = _Part(path)
        count = part.setting("split.count", 1)
        if count <= 1:
            return cls(path, [part.file], Metadata(part.metadata), part.tensors)
        parts = [part if other == path else _Part(other) for other in _parts(path, count)]
        return cls(path, [p.file for p in parts], Metadata(parts[0].metadata), _joined(parts))

    def raw(self, name: str) -> Bytes:
        """The tensor's bytes as stored, [nbytes] uint8, a read-only view of the file: nothing is copied."""
        tensor = self._find(name)
        return tensor.file.view(tensor.start, tensor.info.nbytes)

    def tensor(self, name: str, *, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        """The tensor's values in its ``shape``, float32, dequantised where the file holds blocks.

        Integers (I8 to I64) and F64 keep their own type. With ``out``, a contiguous array of that shape and type, the
        values are written there and ``out`` is returned. Raises UnsupportedModel for a type that is listed only.
        """
        info, raw = self._find(name).info, self.raw(name)
        format = BY_NAME[info.type]
        if format.unpack is None and format.dtype is None:
            raise UnsupportedModel(
                f"{self.path.name}: {name} has the type {info.type}, which Hornbook cannot read",
                "Take a file of the same model in Q4_K_M, Q8_0 or another of: " + ", ".join(READABLE) + ".",
            )
        dtype = np.dtype(format.dtype or np.float32)
        if out is None:
            out = np.empty(info.shape, dtype)
        elif out.shape != info.shape or out.dtype != dtype or not out.flags.c_contiguous:
            raise ValueError(f"out must be a contiguous {dtype} array of shape {info.shape}, the shape of {name}")
        if format.unpack is None:
            out[...] = raw.view(dtype).reshape(info.shape)
        else:
            dequantize(raw, format, out.reshape(-1))
        return out

    def torch(self, name: str) -> torch.Tensor:
        """The tensor as torch has it, in the stored type where that is a number's type, else float32."""
        import torch

        info = self._find(name).info
        if info.type in ("F16", "BF16"):
            bits = torch.from_numpy(self.raw(name).view("<i2").reshape(info.shape).copy())
            return bits.view(torch.float16 if info.type == "F16" else torch.bfloat16)
        return torch.from_numpy(self.tensor(name))

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> GGUF:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find(self, name: str) -> _Tensor:
        if name not in self._tensors:
            raise KeyError(f"{self.path.name} has no tensor {name!r}")
        return self._tensors[name]


READABLE = tuple(format.name for format in FORMATS.values() if format.unpack or format.dtype)


# ------------------------------------------------------------------------------------------------- parts of a split


def _parts(path: Path, count: int) -> list[Path]:
    """The files of a split model in their order, each of which is there."""
    match = _SHARD.match(path.name)
    if match is None or int(match["count"]) != count:
        raise ModelFileError(
            f"{path.name} is one of {count} parts, and its name does not say so",
            f"Give the parts back their names: NAME-00001-of-{count:05d}.gguf and so on.",
        )
    paths = [path.with_name(f"{match['stem']}-{i + 1:05d}-of-{count:05d}.gguf") for i in range(count)]
    missing = [other.name for other in paths if not other.is_file()]
    if missing:
        named = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise ModelFileError(f"{len(missing)} of {count} parts are missing: {named}", f"Put them into {path.parent}.")
    return paths


def _joined(parts: list[_Part]) -> dict[str, _Tensor]:
    """The tensors of all parts, once the parts are known to belong together."""
    tensors: dict[str, _Tensor] = {}
    for number, part in enumerate(parts):
        said = part.setting("split.no", 0), part.setting("split.count", 1)
        if said != (number, len(parts)):
            raise damaged(
                part.file.path,
                f"it is part {said[0] + 1} of {said[1]}, its name says part {number + 1} of {len(parts)}",
            )
        twice = sorted(tensors.keys() & part.tensors.keys())
        if twice:
            raise damaged(part.file.path, f"the tensor {twice[0]} is in another part too")
        tensors.update(part.tensors)
    total = parts[0].setting("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise damaged(parts[0].file.path, f"{total} tensors are announced, the {len(parts)} parts have {len(tensors)}")
    return tensors


# ------------------------------------------------------------------------------------------------------- one file


class _Part:
    """One file, parsed: ``metadata`` (arrays of strings not yet decoded) and ``tensors``."""

    def __init__(self, path: Path) -> None:
        self.file = MappedFile(path)
        self.position = 0
        try:
            tensor_count, metadata_count = self._header()
            self.metadata = self._metadata(metadata_count)
            self.tensors = self._tensors(tensor_count)
        except BaseException:
            self.file.close()
            raise

    def setting(self, key: str, default: int) -> int:
        """An integer of the metadata."""
        value = self.metadata.get(key, default)
        if type(value) is not int or value < 0:
            raise self._damaged(f"{key} must be a whole number, not {value!r}")
        return value

    def _damaged(self, what: str) -> HornbookError:
        return damaged(self.file.path, what)

    # -- single values. ``what`` names the thing for the error.

    def _need(self, nbytes: int, what: str) -> int:
        """Step over ``nbytes`` and return where they start."""
        start, left = self.position, self.file.size - self.position
        if nbytes > left:
            raise ModelFileError(
                f"{self.file.path.name} is truncated: {what} needs {nbytes:,} bytes from byte {start:,} on, "
                f"the file ends at {self.file.size:,}",
                FETCH_AGAIN,
            )
        self.position += nbytes
        return start

    def _u32(self, what: str) -> int:
        value: int = struct.unpack_from("<I", self.file.map, self._need(4, what))[0]
        return value

    def _u64(self, what: str) -> int:
        value: int = struct.unpack_from("<Q", self.file.map, self._need(8, what))[0]
        return value

    def _string(self, limit: int, what: str) -> str:
        length = self._u64(f"the length of {what}")
        if length > limit:
            raise self._damaged(f"{what} at byte {self.position - 8:,} has {length:,} bytes, the limit is {limit:,}")
        start = self._need(length, what)
        try:
            return self.file.map[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise self._damaged(f"{what} at byte {start:,} is not UTF-8 ({error.reason})") from error

    def _count(self, count: int, limit: int, smallest: int, what: str) -> int:
        """A count that the bytes left can hold, each thing taking at least ``smallest`` of them."""
        if count > limit:
            raise self._damaged(f"it announces {count:,} {what}, the limit is {limit:,}")
        left = self.file.size - self.position
        if count * smallest > left:
            raise ModelFileError(
                f"{self.file.path.name} is truncated or damaged: it announces {count:,} {what} at byte {self.position:,}, "
                f"which take at least {count * smallest:,} bytes; {left:,} are left",
                FETCH_AGAIN,
            )
        return count

    # -- the three stretches of the file

    def _header(self) -> tuple[int, int]:
        path = self.file.path
        if self.file.map[:4] != b"GGUF":
            raise self.file.impostor() or ModelFileError(
                f"{path.name} is not a GGUF file: it starts with {self.file.map[:4]!r}, not b'GGUF'", FETCH_AGAIN
            )
        self._need(4, "the magic number")
        version = self._u32("the version")
        if version and version & 0xFFFF == 0:
            raise UnsupportedModel(
                f"{path.name} is a big-endian GGUF file", "Take the little-endian file of the model."
            )
        if version == 1:
            raise UnsupportedModel(f"{path.name} is of GGUF version 1 (2023)", "Take a newer file of the model.")
        if version not in (2, 3):
            raise UnsupportedModel(
                f"{path.name} is of GGUF version {version:,}; Hornbook reads 2 and 3",
                "If the model is newer than this Hornbook, update Hornbook; else fetch the file again.",
            )
        tensors, metadata = self._u64("the tensor count"), self._u64("the metadata count")
        return (
            self._count(tensors, MAX_TENSORS, 8 + 1 + 4 + 4 + 8, "tensors"),
            self._count(metadata, MAX_METADATA, 8 + 1 + 4 + 1, "metadata values"),
        )

    def _metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for number in range(count):
            key = self._string(MAX_KEY, f"metadata key {number}")
            if key in metadata:
                raise self._damaged(f"the metadata key {key!r} is there twice")
            metadata[key] = self._value(key, self._u32(f"the type of {key}"))
        return metadata

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self._string(MAX_STRING, key)
        if kind == _ARRAY:
            return self._array(key, 1)
        return self._numbers(key, kind, 1).item()

    def _numbers(self, key: str, kind: int, count: int) -> np.ndarray[Any, Any]:
        if kind not in _WIDTHS:
            raise self._damaged(f"{key} at byte {self.position:,} is of value type {kind}, which GGUF does not have")
        raw = self.file.view(self._need(count * _WIDTHS[kind], key), count * _WIDTHS[kind])
        return raw.astype(bool) if kind == _BOOL else raw.view(_NUMBERS[kind]).copy()

    def _array(self, key: str, depth: int) -> Any:
        if depth > MAX_NESTING:
            raise self._damaged(f"the arrays of {key} nest more than {MAX_NESTING} deep")
        kind, count = self._u32(f"the type of {key}"), self._u64(f"the length of {key}")
        if kind == _STRING:
            return self._strings(key, self._count(count, MAX_STRINGS, 8, f"strings in {key}"), lazy=depth == 1)
        if kind == _ARRAY:
            return [
                self._array(key, depth + 1) for _ in range(self._count(count, MAX_METADATA, 12, f"arrays in {key}"))
            ]
        return self._numbers(key, kind, count)

    def _strings(self, key: str, count: int, *, lazy: bool) -> Any:
        """Walk over the strings: each length leads to the next."""
        length_at, data = struct.Struct("<Q").unpack_from, self.file.map
        last, position = self.file.size - 8, self.position
        starts = array("Q", [position])
        for _ in range(count):
            if position > last:
                break
            position += 8 + length_at(data, position)[0]
            starts.append(min(position, self.file.size + 1))
        if len(starts) <= count or position > self.file.size:
            self.position = starts[-2] if len(starts) > 1 else position
            self._need(self.file.size - self.position + 1, f"string {len(starts) - 1:,} of {key}")
        self.position = position
        strings = _Strings(self.file, key, starts)
        return strings if lazy else strings.decode()

    def _tensors(self, count: int) -> dict[str, _Tensor]:
        announced: list[tuple[int, TensorInfo]] = []
        for number in range(count):
            announced.append(self._tensor(number))
        alignment = self.setting("general.alignment", 32)
        if alignment == 0 or alignment & (alignment - 1):
            raise self._damaged(f"general.alignment is {alignment}, which is not a power of two")
        data_start = -(-self.position // alignment) * alignment
        end, before = 0, ""
        for offset, info in sorted(announced, key=lambda pair: pair[0]):
            if offset % alignment:
                raise self._damaged(f"{info.name} starts at {offset:,}, which is not a multiple of {alignment}")
            if offset < end:
                raise self._damaged(f"{info.name} starts at {offset:,}, inside {before}, which ends at {end:,}")
            end, before = offset + info.nbytes, info.name
            if data_start + end > self.file.size:
                raise ModelFileError(
                    f"{self.file.path.name} is truncated: {info.name} ends at byte {data_start + end:,}, "
                    f"the file at {self.file.size:,}",
                    FETCH_AGAIN,
                )
        tensors = {info.name: _Tensor(info, self.file, data_start + offset) for offset, info in announced}
        if len(tensors) < count:
            names = [info.name for _, info in announced]
            raise self._damaged(f"the tensor {next(n for n in names if names.count(n) > 1)!r} is there twice")
        return tensors

    def _tensor(self, number: int) -> tuple[int, TensorInfo]:
        name = self._string(MAX_KEY, f"the name of tensor {number}")
        rank = self._u32(f"the dimensions of {name}")
        if rank > MAX_DIMENSIONS:
            raise self._damaged(f"{name} has {rank:,} dimensions, the limit is {MAX_DIMENSIONS}")
        sizes = struct.unpack_from(f"<{rank}Q", self.file.map, self._need(8 * rank, f"the shape of {name}"))
        elements = prod(sizes)
        if not 0 < elements < MAX_ELEMENTS:
            raise self._damaged(
                f"{name} has the shape {sizes[::-1]}: every size must be at least 1, and all fit in 63 bits"
            )
        kind, offset = self._u32(f"the type of {name}"), self._u64(f"the offset of {name}")
        if kind not in FORMATS:
            known = f"{_WITHDRAWN[kind]}, which was withdrawn" if kind in _WITHDRAWN else f"number {kind}"
            raise UnsupportedModel(
                f"{self.file.path.name}: {name} is of a tensor type that Hornbook does not know ({known})",
                "Take a file of the same model in Q4_K_M or Q8_0.",
            )
        format = FORMATS[kind]
        row = sizes[0] if sizes else 1
        if row % format.block:
            raise self._damaged(
                f"{name} has rows of {row}, which {format.name} cannot hold: it takes {format.block} at a time"
            )
        return offset, TensorInfo(name, sizes[::-1], format.name, elements // format.block * format.nbytes)
