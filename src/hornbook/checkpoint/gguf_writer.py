"""Write a GGUF file: version 3, in one piece, there whole or not at all.

    write("model.gguf", {"general.architecture": "llama", ...},
          [OutTensor("token_embd.weight", (49152, 576), "Q8_0", lambda: weights), ...])

All sizes follow from shapes and types, so that the header goes first and the tensors after it, one at a time: only one
is ever asked for, and it is packed and written in pieces. The bytes go into a file beside the target, which takes the
target's name when all of them have reached the disk. Layout: gguf_header.py; specification: docs/gguf.md of ggml.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import uuid4

import numpy as np

from hornbook.checkpoint.dequantize import FORMATS
from hornbook.checkpoint.disk import FULL
from hornbook.checkpoint.mapped import Bytes
from hornbook.checkpoint.quantize import quantize
from hornbook.errors import ModelFileError, StoreError, UnsupportedModel, UsageError
from hornbook.types import Progress

if TYPE_CHECKING:
    import torch

Values: TypeAlias = "np.ndarray[Any, Any] | torch.Tensor"

VERSION = 3
ALIGNMENT = 32  # what a file has that does not say otherwise under general.alignment
MAX_NAME = 63  # bytes; ggml keeps a tensor's name in 64, the last of which is zero
MAX_RANK = 4  # of a tensor of ggml
PIECE = 1 << 22  # values that are converted and packed at a time

_TYPE_NUMBERS = {format.name: number for number, format in FORMATS.items()}
_FORMATS = {format.name: format for format in FORMATS.values()}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_VALUE_TYPES = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": _BOOL, "u8": 10, "i8": 11}
_VALUE_TYPES["f8"] = 12
_PARTS = ("split.no", "split.count", "split.tensors.count")  # of a file in parts, which what is written is not


class OutTensor(NamedTuple):
    """A tensor to be written. ``shape`` is row-major, as torch has it; ``type`` is the name GGUF has for it.

    ``data`` is called once, when it is this tensor's turn: numbers of ``shape``, as numpy or torch has them, which are
    then quantised; or blocks that are packed already, as uint8 of any shape, which are written as they are.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    data: Callable[[], Values]


def write(
    path: str | Path,
    metadata: Mapping[str, Any],
    tensors: Iterable[OutTensor],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write ``metadata`` and ``tensors`` to ``path``. ``progress`` is told the bytes.

    Values of the metadata: bool; int, as uint32, int32 where negative, 64 bits where it must be; float, as float32;
    str; a sequence of one of these (ints as int32 where they fit, which is what the readers of token types want), also
    nested; a numpy scalar or vector, which keeps its type. That the file was once in parts (split.*) is left out.

    Raises UsageError where ``path`` exists (without ``overwrite``) or cannot be a file; StoreError where the disk is
    full or refuses; ModelFileError and UnsupportedModel where a tensor is not what GGUF can hold; TypeError for other
    metadata. Whatever is raised, KeyboardInterrupt included, nothing is left behind.
    """
    path = Path(path)
    _check_target(path, overwrite)
    alignment = int(metadata.get("general.alignment", ALIGNMENT))
    if alignment < 8 or alignment & (alignment - 1):
        raise ModelFileError(
            f"general.alignment is {alignment}, which is not a power of two from 8 on", "Leave it out: 32 is common."
        )
    planned = list(tensors)
    sizes = _sizes(planned)
    header = _header({key: metadata[key] for key in metadata if key not in _PARTS}, planned, sizes, alignment)
    whole = len(header) + sum(_padded(size, alignment) for size in sizes)
    with _beside(path, whole, overwrite) as file:
        file.write(header)
        done = len(header)
        for tensor, size in zip(planned, sizes, strict=True):
            for piece in _pieces(tensor, size):
                file.write(piece.data)
                done += piece.nbytes
                if progress:
                    progress(path.name, done, whole)
            file.write(bytes(_padded(size, alignment) - size))
            done += _padded(size, alignment) - size
        if progress:
            progress(path.name, done, whole)


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


# ------------------------------------------------------------------------------------------------------- the header


def _header(
    metadata: Mapping[str, Any], tensors: Sequence[OutTensor], sizes: Sequence[int], alignment: int
) -> bytearray:
    out = bytearray(b"GGUF")
    out += struct.pack("<IQQ", VERSION, len(tensors), len(metadata))
    for key, value in metadata.items():
        kind, encoded = _value(key, value)
        out += _string(key, key) + struct.pack("<I", kind) + encoded
    offset = 0
    for tensor, size in zip(tensors, sizes, strict=True):
        out += _string(tensor.name, tensor.name)
        out += struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *reversed(tensor.shape))
        out += struct.pack("<IQ", _TYPE_NUMBERS[tensor.type], offset)
        offset += _padded(size, alignment)
    return out + bytes(_padded(len(out), alignment) - len(out))


def _string(text: str, what: str) -> bytes:
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:
        raise ModelFileError(
            f"{what!a}: a string has half of a surrogate pair at character {error.start}, which UTF-8 has no bytes for",
            "Write that string anew; it was cut in the middle of a character.",
        ) from error
    return struct.pack("<Q", len(encoded)) + encoded


def _value(key: str, value: Any) -> tuple[int, bytes]:
    """The number of the value's type, and its bytes."""
    if isinstance(value, str):
        return _STRING, _string(value, key)
    if isinstance(value, bool | int | float) and not isinstance(value, np.generic):
        value = _number(key, value)
    if isinstance(value, np.generic):
        return _value_type(key, value.dtype), _little_endian(value)
    if isinstance(value, np.ndarray) and value.ndim != 1:
        value = list(value)
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, bytes):
        kind, encoded = _elements(key, value)
        return _ARRAY, struct.pack("<IQ", kind, len(value)) + encoded
    raise TypeError(f"{key} is of the type {type(value).__name__}, which GGUF has no value type for")


def _number(key: str, value: bool | int | float) -> np.generic:
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, float):
        return np.float32(_floats(key, value))
    for dtype in (np.uint32, np.int32, np.uint64, np.int64):
        if np.iinfo(dtype).min <= value <= np.iinfo(dtype).max:
            return dtype(value)
    raise ModelFileError(f"{key} is {value:,}, which has no place in 64 bits", "Give it as a string.")


def _floats(key: str, values: float | Sequence[float]) -> np.ndarray[Any, Any]:
    """float32, the float of GGUF that readers want. What is too large for it must not become infinite unseen."""
    exact = np.array(values, np.float64)
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    if (np.isinf(rounded) & np.isfinite(exact)).any():
        raise ModelFileError(f"{key} has a value too large for float32: {values}", "Give it as numpy.float64.")
    return rounded


def _elements(key: str, values: Sequence[Any] | np.ndarray[Any, Any]) -> tuple[int, bytes]:
    """The number of the elements' type, and their bytes."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "OUS":
            return _elements(key, values.tolist())
        return _value_type(key, values.dtype), _little_endian(values)
    if all(isinstance(value, str) for value in values):  # also where there are none: a list that may be empty has words
        return _STRING, b"".join(_string(value, key) for value in values)
    if all(isinstance(value, bool) for value in values):
        return _elements(key, np.array(values, np.bool_))
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        for dtype in (np.int32, np.uint32, np.int64, np.uint64):
            if np.iinfo(dtype).min <= min(values) and max(values) <= np.iinfo(dtype).max:
                return _elements(key, np.array(values, dtype))
        raise ModelFileError(f"{key} has values from {min(values):,} to {max(values):,}", "64 bits hold less.")
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return _elements(key, _floats(key, values))
    pairs = [_value(key, value) for value in values]
    kinds = {kind for kind, _ in pairs}
    if len(kinds) > 1:
        names = sorted({type(value).__name__ for value in values})
        raise TypeError(f"{key} mixes values of the types {', '.join(names)}; an array of GGUF has one")
    return kinds.pop(), b"".join(encoded for _, encoded in pairs)


def _value_type(key: str, dtype: np.dtype[Any]) -> int:
    number = _VALUE_TYPES.get(dtype.str[1:])
    if number is None:
        raise TypeError(f"{key} is of the type {dtype}, which GGUF has no value type for")
    return number


def _little_endian(value: np.generic | np.ndarray[Any, Any]) -> bytes:
    return np.asarray(value).astype(value.dtype.newbyteorder("<"), copy=False).tobytes()


# ------------------------------------------------------------------------------------------------------ the tensors


def _sizes(tensors: Sequence[OutTensor]) -> list[int]:
    """How many bytes each takes, and that a reader will take them."""
    sizes: list[int] = []
    seen: set[str] = set()
    for tensor in tensors:
        name, shape = tensor.name, tensor.shape
        if name in seen:
            raise ModelFileError(f"the tensor {name} is there twice", "Each name stands for one tensor.")
        seen.add(name)
        if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME:
            raise ModelFileError(
                f"the tensor's name {name} takes more than {MAX_NAME} bytes", "llama.cpp reads no longer ones."
            )
        if tensor.type not in _FORMATS:
            raise UnsupportedModel(
                f"{name}: there is no tensor type {tensor.type}", f"Take one of: {', '.join(_FORMATS)}."
            )
        if len(shape) > MAX_RANK or prod(shape) == 0:
            raise ModelFileError(
                f"{name} has the shape {tuple(shape)}", f"GGUF takes up to {MAX_RANK} dimensions, none of them 0."
            )
        format, row = _FORMATS[tensor.type], shape[-1] if shape else 1
        if row % format.block:
            raise ModelFileError(
                f"{name} has rows of {row:,}, which is not a multiple of {tensor.type}'s {format.block}",
                "Take a type of smaller blocks: Q8_0 and Q4_0 to Q5_1 have 32, F16 and BF16 have 1.",
            )
        sizes.append(prod(shape) // format.block * format.nbytes)
    return sizes


def _pieces(tensor: OutTensor, size: int) -> Iterator[Bytes]:
    """The tensor's bytes as they are stored, ``size`` in all."""
    values = tensor.data()
    if str(values.dtype) in ("uint8", "torch.uint8"):
        packed = _as_numpy(values).reshape(-1)
        if packed.nbytes != size:
            raise ModelFileError(
                f"{tensor.name} came as {packed.nbytes:,} bytes; {tensor.type} of the shape {tuple(tensor.shape)} "
                f"takes {size:,}",
                "Its type or its shape is not what the bytes are.",
            )
        yield np.ascontiguousarray(packed)
        return
    if tuple(values.shape) != tuple(tensor.shape):
        raise ModelFileError(
            f"{tensor.name} came in the shape {tuple(values.shape)} and was announced as {tuple(tensor.shape)}",
            "The weights do not fit the configuration.",
        )
    rows = values.reshape(-1, tensor.shape[-1] if tensor.shape else 1)
    step = max(1, PIECE // rows.shape[1])
    for start in range(0, len(rows), step):
        yield quantize(_as_numpy(rows[start : start + step]), tensor.type, name=tensor.name)


def _as_numpy(values: Values) -> np.ndarray[Any, Any]:
    if isinstance(values, np.ndarray):
        return values
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() and values.element_size() < 4 else values).numpy()


# ---------------------------------------------------------------------------------------------------------- the file


def _check_target(path: Path, overwrite: bool) -> None:
    if path.is_dir() or path.exists() and not path.is_file():
        raise UsageError(f"{path} is a {'folder' if path.is_dir() else 'device or a pipe'}", "Name a file to write.")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", "Make it first, or name a file in another one.")
    if path.exists() and not overwrite:
        raise _taken(path)


def _taken(path: Path) -> UsageError:
    return UsageError(f"{path} is there already", "Name another file, or ask for it to be overwritten.")


@contextmanager
def _beside(path: Path, needed: int, overwrite: bool) -> Iterator[IO[bytes]]:
    """A file beside ``path`` to write ``needed`` bytes to. It becomes ``path`` at the end of the block, or is removed."""
    temporary = path.with_name(f".hornbook-{uuid4().hex}.part")
    try:
        free = shutil.disk_usage(path.parent).free
        if free < needed:
            raise _full(path, needed, free)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _give_name(temporary, path, overwrite)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise _full(path, needed, shutil.disk_usage(path.parent).free) from error
        raise StoreError(f"{path} cannot be written: {error}", "Check the folder and disk.") from error


def _full(path: Path, needed: int, free: int) -> StoreError:
    return StoreError(
        f"{path.name} takes {needed / 1e6:,.1f} MB and {free / 1e6:,.1f} MB are free in {path.parent}",
        "Free some space, or name a file on another disk.",
    )


def _give_name(temporary: Path, path: Path, overwrite: bool) -> None:
    """In one step, which ends with the old file or with the new one under that name, and never over somebody else's."""
    if overwrite:
        os.replace(temporary, path)
    else:
        try:
            os.link(temporary, path)  # unlike a rename, it fails where the name was taken meanwhile
        except FileExistsError as error:
            raise _taken(path) from error
        except OSError:  # a disk without links
            if path.exists():
                raise _taken(path) from None
            os.rename(temporary, path)
    with suppress(OSError, AttributeError):  # where a folder can be opened, ask for the name to reach the disk too
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
