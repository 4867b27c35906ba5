"""safetensors, the file format of Hugging Face: one file, or a folder whose index names several.

    header length u64  |  header, JSON: {name: {"dtype", "shape", "data_offsets": [start, end]}, ...}  |  data

The header is checked here before anything believes it: its length against the file's, every span against its shape and
type, and all of them against each other, so that they fill the data without a gap or an overlap. Tensors are copies: a
model does not depend on its file, which may be replaced, shortened or on a disk that is pulled out. Pickled weights
(pytorch_model.bin) are never loaded.
"""

from __future__ import annotations

import json
from collections import Counter
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from hornbook.checkpoint.dequantize import BY_NAME, Format, read
from hornbook.checkpoint.mapped import Bytes, MappedFile, TensorInfo
from hornbook.errors import ModelFileError, ModelNotFound, UnsupportedModel

if TYPE_CHECKING:
    import torch

MAX_HEADER = 1 << 25  # bytes; a model of 100,000 tensors needs half of it
PIECE = 1 << 22  # bytes that are copied at a time
MAX_RANK = 64  # what numpy can hold

_TYPES = {name: BY_NAME[name] for name in ("F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64")} | {
    format.name: format
    for format in (
        Format("BOOL", 1, 1, dtype="?"),
        Format("U8", 1, 1, dtype="u1"),
        Format("U16", 1, 2, dtype="<u2"),
        Format("U32", 1, 4, dtype="<u4"),
        Format("U64", 1, 8, dtype="<u8"),
        Format("F8_E4M3", 1, 1),  # numpy has no eight-bit floats; torch has
        Format("F8_E5M2", 1, 1),
    )
}

_IN_TORCH = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64",
    "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class SafetensorsFile:
    """One open file: ``metadata`` (text by name) and, by name and in the data's order, ``tensors``.

    Reading is safe from several threads at once. Arrays and tensors that were handed out outlive ``close``.
    """

    def __init__(self, path: Path, file: MappedFile) -> None:
        self.path = path
        self.metadata, self.tensors, self._starts = _header(file)
        self._file = file

    @classmethod
    def open(cls, path: str | Path) -> SafetensorsFile:
        """Raises ModelNotFound, ModelFileError (damaged, truncated, something else) or UnsupportedModel (a type)."""
        path = Path(path)
        file = MappedFile(path)
        try:
            return cls(path, file)
        except BaseException:
            file.close()
            raise

    def raw(self, name: str) -> Bytes:
        """The tensor's bytes as stored, [nbytes] uint8: a read-only view of the file, nothing is copied."""
        return self._file.view(self._starts[name], self.tensors[name].nbytes)

    def tensor(self, name: str, *, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        """The tensor's values in its ``shape``: float32 for F32, F16 and BF16; other types as they are.

        With ``out``, a contiguous array of that shape and type, the values go there and ``out`` is returned. Raises
        UnsupportedModel for eight-bit floats, which only ``torch`` gives.
        """
        info = self.tensors[name]
        values = read(self.raw(name), _TYPES[info.type], info, self.path, out)
        self.release(name)
        return values

    def release(self, name: str) -> None:
        """Let the system take back the memory of a tensor's bytes, which have been used; views of them stay valid."""
        self._file.release(self._starts[name], self.tensors[name].nbytes)

    def torch(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The tensor in ``dtype``; None: in the type it is stored in."""
        import torch

        info = self.tensors[name]
        stored = getattr(torch, _IN_TORCH[info.type])
        out = torch.empty(info.shape, dtype=dtype or stored)
        flat, raw, start, size = out.view(-1), self.raw(name), self._starts[name], stored.itemsize
        for at in range(0, info.nbytes, PIECE):  # a large tensor must not be in memory twice
            piece = torch.from_numpy(raw[at : at + PIECE].copy()).view(stored)
            flat[at // size : at // size + len(piece)] = piece
            self._file.release(start + at, min(PIECE, info.nbytes - at))
        return out

    def close(self) -> None:
        """Read no more from the file, and let the system unmap it once no view of it is left."""
        self._file.close()

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class SafetensorsFolder:
    """The weights of a Hugging Face folder: model.safetensors, or the files that model.safetensors.index.json names.

    Reads like one SafetensorsFile; ``metadata`` is the first file's.
    """

    def __init__(self, path: Path, files: list[SafetensorsFile]) -> None:
        self.path = path
        self.metadata = files[0].metadata
        self.tensors: dict[str, TensorInfo] = {}
        self._where: dict[str, SafetensorsFile] = {}
        self._files = files
        for file in files:
            self.tensors |= file.tensors
            self._where |= dict.fromkeys(file.tensors, file)

    @classmethod
    def open(cls, path: str | Path) -> SafetensorsFolder:
        """Raises as SafetensorsFile.open does; ModelNotFound too where the folder holds no safetensors."""
        path = Path(path)
        if (path / "model.safetensors").exists():
            return cls(path, [SafetensorsFile.open(path / "model.safetensors")])
        index = path / "model.safetensors.index.json"
        if index.exists():
            return cls(path, _shards(index))
        pickled = sorted(path.glob("*.bin")) + sorted(path.glob("*.pt")) + sorted(path.glob("*.pth"))
        if pickled:
            raise ModelFileError(
                f"{path} holds {pickled[0].name} and no model.safetensors; a pickle can run code and is never loaded",
                "Take the safetensors of the same model; or, where you trust the file, convert it (pip install safetensors): "
                f"safetensors.torch.save_file(torch.load('{pickled[0].name}', weights_only=True), 'model.safetensors').",
            )
        raise ModelNotFound(f"{path} holds no model.safetensors", "Name the folder that holds the weights.")

    def raw(self, name: str) -> Bytes:
        """As SafetensorsFile.raw."""
        return self._where[name].raw(name)

    def tensor(self, name: str, *, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        """As SafetensorsFile.tensor."""
        return self._where[name].tensor(name, out=out)

    def torch(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """As SafetensorsFile.torch."""
        return self._where[name].torch(name, dtype)

    def release(self, name: str) -> None:
        """As SafetensorsFile.release."""
        self._where[name].release(name)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> SafetensorsFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# --------------------------------------------------------------------------------------------------- the header


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object each of whose keys is there once."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return made


def _header(file: MappedFile) -> tuple[dict[str, str], dict[str, TensorInfo], dict[str, int]]:
    """The metadata, the tensors in the order of their data, and where in the file each starts."""
    file.expect(b"{", "safetensors", at=8)
    length = int.from_bytes(file.map[:8], "little")
    if length > MAX_HEADER:
        raise file.damaged(f"its header would have {length:,} bytes; the limit is {MAX_HEADER:,}")
    if 8 + length > file.size:
        raise file.truncated(f"the header ends at byte {8 + length:,}")
    try:
        header = json.loads(file.map[8 : 8 + length].decode(), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise file.damaged(f"its header is not JSON ({error})") from error
    if type(header) is not dict:
        raise file.damaged("its header is not a JSON object")

    metadata = header.pop("__metadata__", {})
    if type(metadata) is not dict or not all(type(value) is str for value in metadata.values()):
        raise file.damaged("its __metadata__ is not an object of strings")
    spans = [_span(file, name, entry) for name, entry in header.items()]
    spans.sort(key=lambda span: span[1:])
    data, end, before = 8 + length, 0, "the header"
    for info, start, stop in spans:
        if start != end:
            fault = "inside" if start < end else "apart from"
            raise file.damaged(f"{info.name} starts at {start:,}, {fault} {before}, which ends at {end:,}")
        end, before = stop, info.name
    if data + end > file.size:
        raise file.truncated(f"the data end at byte {data + end:,}")
    if data + end < file.size:
        raise file.damaged(f"{file.size - data - end:,} bytes follow the last tensor")
    tensors = {info.name: info for info, _, _ in spans}
    return metadata, tensors, {info.name: data + start for info, start, _ in spans}


def _span(file: MappedFile, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    """A tensor of the header, with the first byte of its data and the one after the last."""
    if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise file.damaged(f"{name} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise file.damaged(f"the name {name} is not text")
    if type(dtype) is not str:
        raise file.damaged(f"the dtype of {name} is not a string")
    if not _whole_numbers(shape) or len(shape) > MAX_RANK:
        raise file.damaged(f"the shape of {name} is not a list of at most {MAX_RANK} whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise file.damaged(f"the data_offsets of {name} are not a start and an end")
    if dtype not in _TYPES:
        raise UnsupportedModel(
            f"{file.path.name}: {file.printable(name)} is of type {file.printable(dtype)}, which Hornbook does not know",
            f"Convert it to one of: {', '.join(_TYPES)}.",
        )
    if prod(size or 1 for size in shape) * _TYPES[dtype].nbytes >= 1 << 63:  # a size of 0 does not excuse the others
        raise file.damaged(f"{name} has the shape {tuple(shape)}, which is beyond 63 bits")
    nbytes, span = prod(shape) * _TYPES[dtype].nbytes, offsets[1] - offsets[0]
    if nbytes != span:
        raise file.damaged(f"{name} needs {nbytes:,} bytes for {dtype} of shape {tuple(shape)}, and has {span:,}")
    return TensorInfo(name, tuple(shape), dtype, nbytes), offsets[0], offsets[1]


def _whole_numbers(value: Any) -> bool:
    """A list of sizes, each of which fits in the 64 bits that the format gives it."""
    return type(value) is list and all(type(size) is int and 0 <= size < 1 << 64 for size in value)


def _shards(index: Path) -> list[SafetensorsFile]:
    """The files that an index names, each of which holds exactly the tensors that the index looks for in it."""
    file = MappedFile(index)
    try:
        content = json.loads(file.view(0, file.size).tobytes().decode(), object_pairs_hook=_object)
        weight_map = content["weight_map"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise file.damaged(f"it is not JSON with a weight_map ({error})") from error
    if type(weight_map) is not dict or not weight_map or not all(type(name) is str for name in weight_map.values()):
        raise file.damaged("its weight_map does not give a file for each tensor")
    names = sorted(set(weight_map.values()))
    for name in names:
        if name != Path(name).name or "\\" in name or not name.endswith(".safetensors"):
            raise file.damaged(f"it names {name!r}, which is not a .safetensors file in the same folder")
    missing = [name for name in names if not index.with_name(name).is_file()]
    if missing:
        named = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise ModelFileError(
            f"{len(missing)} of the {len(names)} files of {index.name} are missing: {named}",
            f"Put them into {index.parent}.",
        )
    files = [SafetensorsFile.open(index.with_name(name)) for name in names]
    for name, shard in zip(names, files, strict=True):
        wanted = {tensor for tensor, where in weight_map.items() if where == name}
        astray = sorted(wanted ^ shard.tensors.keys())
        if astray:
            where = "is not in it" if astray[0] in wanted else "is in it and not in the index"
            raise file.damaged(f"it and {name} disagree on {len(astray)} tensors: {astray[0]} {where}")
    return files
