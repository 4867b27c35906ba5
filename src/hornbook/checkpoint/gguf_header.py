"""One GGUF file's metadata and table of tensors, read with nothing in it believed.

    "GGUF"  version u32  tensor count u64  metadata count u64
    metadata: key, value type u32, value                                          ... once each
    tensors:  name, rank u32, sizes u64 (fastest first), type u32, offset u64     ... once each
    padding to general.alignment
    data: each tensor at its offset from here

A string is its length u64 and its UTF-8 bytes, an array its type u32, its length u64 and its values; everything is
little endian. Every count is held against the bytes that are left before anything is allocated for it, every offset
against the file's size, and every tensor against its neighbours. Specification: docs/gguf.md of the ggml project.
"""

from __future__ import annotations

import reprlib
import struct
from array import array
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hornbook.checkpoint.dequantize import FORMATS
from hornbook.checkpoint.mapped import MappedFile, TensorInfo
from hornbook.errors import UnsupportedModel

# The format allows more. No sound file comes near, and Python's objects take many times the bytes they are read from.
MAX_NAME = 65_535  # bytes of a key, from the specification, and of a tensor's name
MAX_VALUE = 1 << 26  # bytes of one string, or of one array of numbers
MAX_STRINGS = 1 << 24  # in one array
MAX_METADATA = 1 << 16  # keys
MAX_NESTED = 1 << 16  # arrays within arrays, all together
MAX_DEPTH = 4
MAX_TENSORS = 1 << 17
MAX_RANK = 8  # ggml itself has four
MAX_ELEMENTS = 1 << 63

_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", _BOOL: "?", 10: "<u8", 11: "<i8"}
_NUMBERS[12] = "<f8"
_WITHDRAWN = {4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8"}
_WITHDRAWN |= {36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8"}


class Place(NamedTuple):
    """Where a tensor's bytes are."""

    file: MappedFile
    start: int


class Strings:
    """An array of strings, still bytes: string i, after its length, ends at starts[i + 1]. Outlives the open file."""

    def __init__(self, file: MappedFile, key: str, starts: array[int]) -> None:
        self._file, self._key, self._starts = file, key, starts
        self._stored = file.view(starts[0], starts[-1] - starts[0])

    def decode(self) -> list[str]:
        """The strings. Raises ModelFileError where one is not UTF-8."""
        data, base = self._stored.tobytes(), self._starts[0]
        try:
            return [data[start + 8 - base : end - base].decode() for start, end in pairwise(self._starts)]
        except UnicodeDecodeError as error:
            raise self._file.damaged(f"a string of {self._key} is not UTF-8 ({error.reason})") from error


class Header:
    """One file, parsed: ``metadata`` (long arrays of strings not yet decoded), ``tensors`` and their ``places``."""

    def __init__(self, path: Path) -> None:
        self.file = MappedFile(path)
        self._position = 0
        self._nested = 0
        self.tensors: dict[str, TensorInfo] = {}
        self.places: dict[str, Place] = {}
        try:
            tensor_count, metadata_count = self._counts()
            self.metadata = self._read_metadata(metadata_count)
            self._read_tensors(tensor_count)
        except BaseException:
            self.file.close()
            raise

    def whole_number(self, key: str, default: int) -> int:
        """A value of the metadata that counts something."""
        value = self.metadata.get(key, default)
        if type(value) is not int or value < 0:
            shown = reprlib.repr(value) if isinstance(value, int | float | str) else type(value).__name__
            raise self.file.damaged(f"{key} must be a whole number, not {shown}")
        return value

    # -------------------------------------------------- single values; ``what`` names the thing should it be missing

    def _take(self, nbytes: int, what: str) -> int:
        """Step over ``nbytes`` and return where they start."""
        start = self._position
        if nbytes > self.file.size - start:
            raise self.file.truncated(f"{what} takes {nbytes:,} bytes from byte {start:,} on")
        self._position += nbytes
        return start

    def _u32(self, what: str) -> int:
        value: int = struct.unpack_from("<I", self.file.map, self._take(4, what))[0]
        return value

    def _u64(self, what: str) -> int:
        value: int = struct.unpack_from("<Q", self.file.map, self._take(8, what))[0]
        return value

    def _string(self, limit: int, what: str) -> str:
        length = self._u64(what)
        if length > limit:
            raise self.file.damaged(
                f"{what} has {length:,} bytes, at byte {self._position - 8:,}; the limit is {limit:,}"
            )
        start = self._take(length, what)
        try:
            return self.file.map[start : start + length].decode()
        except UnicodeDecodeError as error:
            raise self.file.damaged(f"{what}, at byte {start:,}, is not UTF-8 ({error.reason})") from error

    def _check_count(self, count: int, what: str, *, limit: int, each: int) -> None:
        """``count`` things of at least ``each`` bytes must fit into what is left of the file."""
        if count > limit:
            raise self.file.damaged(f"it announces {count:,} {what}; the limit is {limit:,}")
        if count * each > self.file.size - self._position:
            raise self.file.truncated(
                f"it announces {count:,} {what}, which take at least {count * each:,} bytes from byte "
                f"{self._position:,} on"
            )

    # ----------------------------------------------------------------------------- the three stretches of the file

    def _counts(self) -> tuple[int, int]:
        """Check magic number and version; return how many tensors and metadata values are announced."""
        name = self.file.path.name
        self.file.expect(b"GGUF", "GGUF")
        self._take(4, "the magic number")
        version = self._u32("the version")
        if version and version & 0xFFFF == 0:
            raise UnsupportedModel(f"{name} is a big-endian GGUF file", "Take the little-endian file of this model.")
        if version == 1:
            raise UnsupportedModel(f"{name} is of GGUF version 1, of August 2023", "Take a newer file of this model.")
        if version not in (2, 3):
            raise UnsupportedModel(
                f"{name} is of GGUF version {version:,}; Hornbook reads 2 and 3",
                "If the file is sound, it is newer than this Hornbook: update Hornbook.",
            )
        tensors, metadata = self._u64("the number of tensors"), self._u64("the number of metadata values")
        self._check_count(metadata, "metadata values", limit=MAX_METADATA, each=8 + 4 + 1)
        self._check_count(tensors, "tensors", limit=MAX_TENSORS, each=8 + 4 + 4 + 8)
        return tensors, metadata

    def _read_metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for number in range(count):
            key = self._string(MAX_NAME, f"metadata key {number}")
            if key in metadata:
                raise self.file.damaged(f"the metadata key {key} is there twice")
            kind = self._u32(f"the type of {key}")
            if kind == _STRING:
                metadata[key] = self._string(MAX_VALUE, key)
            elif kind == _ARRAY:
                metadata[key] = self._array(key, depth=1)
            else:
                metadata[key] = self._numbers(key, kind, 1).item()
        return metadata

    def _numbers(self, key: str, kind: int, count: int) -> np.ndarray[Any, Any]:
        if kind not in _NUMBERS:
            raise self.file.damaged(f"{key} is of value type {kind}, at byte {self._position:,}; GGUF has 0 to 12")
        dtype = np.dtype(_NUMBERS[kind])
        self._check_count(count, f"values in {key}", limit=MAX_VALUE // dtype.itemsize, each=dtype.itemsize)
        nbytes = count * dtype.itemsize
        raw = self.file.view(self._take(nbytes, key), nbytes)
        return raw.astype(bool) if kind == _BOOL else raw.view(dtype).copy()

    def _array(self, key: str, *, depth: int) -> Any:
        kind, count = self._u32(f"the type of {key}"), self._u64(f"the length of {key}")
        if kind == _STRING:
            strings = self._strings(key, count)
            return strings if depth == 1 else strings.decode()
        if kind != _ARRAY:
            return self._numbers(key, kind, count)
        self._nested += count
        if depth == MAX_DEPTH:
            raise self.file.damaged(f"the arrays of {key} are nested more than {MAX_DEPTH} deep")
        self._check_count(self._nested, "arrays within arrays", limit=MAX_NESTED, each=0)
        self._check_count(count, f"arrays in {key}", limit=MAX_NESTED, each=4 + 8)
        return [self._array(key, depth=depth + 1) for _ in range(count)]

    def _strings(self, key: str, count: int) -> Strings:
        """Walk over the strings, each length leading to the next, and note where they start."""
        self._check_count(count, f"strings in {key}", limit=MAX_STRINGS, each=8)
        length_at, data, size = struct.Struct("<Q").unpack_from, self.file.map, self.file.size
        position, starts = self._position, array("Q", [self._position])
        for number in range(count):
            if position + 8 <= size:
                position += 8 + length_at(data, position)[0]
            if position > size or position < starts[-1] + 8:
                raise self.file.truncated(f"string {number:,} of {key} is at byte {starts[-1]:,} and too long")
            starts.append(position)
        self._position = position
        return Strings(self.file, key, starts)

    def _read_tensors(self, count: int) -> None:
        offsets: dict[str, int] = {}
        for number in range(count):
            info, offset = self._tensor(number)
            if info.name in offsets:
                raise self.file.damaged(f"the tensor {info.name} is there twice")
            self.tensors[info.name], offsets[info.name] = info, offset

        alignment = self.whole_number("general.alignment", 32)
        if alignment == 0 or alignment & (alignment - 1):
            raise self.file.damaged(f"general.alignment is {alignment}, which is not a power of two")
        data = -(-self._position // alignment) * alignment
        end, before = 0, ""
        for name in sorted(offsets, key=offsets.__getitem__):
            offset = offsets[name]
            if offset % alignment:
                raise self.file.damaged(f"{name} starts at {offset:,}, which is not a multiple of {alignment}")
            if offset < end:
                raise self.file.damaged(f"{name} starts at {offset:,}, inside {before}, which ends at {end:,}")
            end, before = offset + self.tensors[name].nbytes, name
            if data + end > self.file.size:
                raise self.file.truncated(f"the tensor {name} ends at byte {data + end:,}")
        self.places = {name: Place(self.file, data + offset) for name, offset in offsets.items()}

    def _tensor(self, number: int) -> tuple[TensorInfo, int]:
        """One row of the table, and the offset it gives."""
        name = self._string(MAX_NAME, f"the name of tensor {number}")
        rank = self._u32(f"the rank of {name}")
        if rank > MAX_RANK:
            raise self.file.damaged(f"{name} has {rank:,} dimensions; the limit is {MAX_RANK}")
        sizes = struct.unpack_from(f"<{rank}Q", self.file.map, self._take(8 * rank, f"the shape of {name}"))
        elements, row = prod(sizes), sizes[0] if rank else 1
        if not 0 < elements < MAX_ELEMENTS:
            raise self.file.damaged(f"{name} has the shape {sizes[::-1]}: no size may be 0, nor the product reach 2^63")
        kind, offset = self._u32(f"the type of {name}"), self._u64(f"the offset of {name}")
        if kind not in FORMATS:
            known = f"{_WITHDRAWN[kind]}, which was withdrawn" if kind in _WITHDRAWN else f"number {kind}"
            raise UnsupportedModel(
                f"{self.file.path.name}: {self.file.printable(name)} is of an unknown tensor type ({known})",
                "Take a file of the same model in Q4_K_M or Q8_0.",
            )
        format = FORMATS[kind]
        if row % format.block:
            raise self.file.damaged(
                f"{name} has rows of {row:,}, which is not a multiple of {format.name}'s {format.block}"
            )
        return TensorInfo(name, sizes[::-1], format.name, elements // format.block * format.nbytes), offset
