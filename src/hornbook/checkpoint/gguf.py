"""GGUF, the file format of llama.cpp: a model's metadata and tensors in one file, or in parts that belong together.

    with GGUF.open("model.gguf") as model:
        model.metadata["general.architecture"]       # "llama"
        model.tensors["token_embd.weight"]           # TensorInfo(name, shape (49152, 576), type "Q8_0", nbytes)
        model.tensor("token_embd.weight")            # [49152, 576] float32

Files are mapped, not read: opening costs milliseconds, and a tensor is unpacked when it is asked for. How a file is
laid out and checked is in gguf_header.py, the block formats in dequantize.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from hornbook.checkpoint.dequantize import BY_NAME, dequantize, read
from hornbook.checkpoint.gguf_header import Header, Place, Strings
from hornbook.checkpoint.mapped import Bytes, TensorInfo
from hornbook.errors import ModelFileError

if TYPE_CHECKING:
    import torch

PIECE = 1 << 20  # values that are converted at a time
_HALVES = {"F16": "float16", "BF16": "bfloat16"}
_PART = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


class Metadata(Mapping[str, Any]):
    """Key -> int, float, bool, str, list[str], a numpy array of numbers, or a list of these where arrays nest.

    A vocabulary of 262,144 strings is decoded when it is first asked for, and then kept.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, Strings):
            value = self._values[key] = value.decode()  # two threads at once do the same work twice, no more
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:  # Mapping's own would decode
        return key in self._values

    def __repr__(self) -> str:
        return f"Metadata({', '.join(self._values)})"


class GGUF:
    """An open model: ``metadata`` and, by name and in the file's order, ``tensors``.

    Reading is safe from several threads at once. Arrays that were handed out outlive ``close``.
    """

    def __init__(self, path: Path, parts: list[Header]) -> None:
        self.path = path
        self.metadata = Metadata(parts[0].metadata)
        self.tensors: dict[str, TensorInfo] = {}
        self._places: dict[str, Place] = {}
        self._files = [part.file for part in parts]
        for part in parts:
            self.tensors |= part.tensors
            self._places |= part.places

    @classmethod
    def open(cls, path: str | Path) -> GGUF:
        """Open a GGUF file; of a split one ("...-00001-of-00003.gguf") any part, and the others are found beside it.

        Raises ModelNotFound, ModelFileError (damaged, truncated, a part missing, or no GGUF file at all: the message
        says what it is instead) or UnsupportedModel (big endian, version 1, a tensor type that is not known).
        """
        path = Path(path)
        header = Header(path)
        count = header.whole_number("split.count", 1)
        if count <= 1:
            return cls(path, [header])
        parts = [header if other == path else Header(other) for other in _part_paths(path, count)]
        _check_parts(parts)
        return cls(path, parts)

    def raw(self, name: str) -> Bytes:
        """The tensor's bytes as stored, [nbytes] uint8: a read-only view of the file, nothing is copied."""
        file, start = self._places[name]
        return file.view(start, self.tensors[name].nbytes)

    def tensor(self, name: str, *, out: np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        """The tensor's values in its ``shape``: float32, dequantised where the file holds blocks.

        Integers (I8 to I64) and F64 keep their own type. With ``out``, a contiguous array of that shape and type, the
        values go there and ``out`` is returned. Raises UnsupportedModel for a type that can only be listed.
        """
        info = self.tensors[name]
        values = read(self.raw(name), BY_NAME[info.type], info, self.path, out)
        self.release(name)
        return values

    def torch(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The tensor as torch has it, in ``dtype``; None: F16 and BF16 stay what they are, everything else is as ``tensor``
        gives it. Another type is made of pieces, so that a large tensor is not in memory as float32 as well."""
        import torch

        info, format = self.tensors[name], BY_NAME[self.tensors[name].type]
        if info.type in ("F16", "BF16") and dtype in (None, getattr(torch, _HALVES[info.type])):
            bits = self.raw(name).view("<i2").reshape(info.shape).copy()
            self.release(name)
            return torch.from_numpy(bits).view(getattr(torch, _HALVES[info.type]))
        if dtype in (None, torch.float32) or format.unpack is None:
            whole = torch.from_numpy(self.tensor(name))
            return whole if dtype is None else whole.to(dtype)
        out, raw, (file, start) = torch.empty(info.shape, dtype=dtype), self.raw(name), self._places[name]
        flat, blocks = out.view(-1), max(1, PIECE // format.block)
        for at in range(0, info.nbytes, blocks * format.nbytes):
            piece = raw[at : at + blocks * format.nbytes]
            values = np.empty(len(piece) // format.nbytes * format.block, np.float32)
            dequantize(piece, format, values)
            first = at // format.nbytes * format.block
            flat[first : first + len(values)] = torch.from_numpy(values)
            file.release(start + at, len(piece))
        return out

    def release(self, name: str) -> None:
        """Let the system take back the memory of a tensor's bytes, which have been used; views of them stay valid."""
        file, start = self._places[name]
        file.release(start, self.tensors[name].nbytes)

    def close(self) -> None:
        """Read no more from the file, and let the system unmap it once no view of it is left."""
        for file in self._files:
            file.close()

    def __enter__(self) -> GGUF:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _part_paths(path: Path, count: int) -> list[Path]:
    """The files of a split model in their order, each of which is there."""
    match = _PART.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise ModelFileError(
            f"{path.name} is one of {count} parts of a model, but its name does not say so",
            f"Give the parts back their names: NAME-00001-of-{count:05d}.gguf and so on.",
        )
    paths = [path.with_name(f"{match['stem']}-{i + 1:05d}-of-{count:05d}.gguf") for i in range(count)]
    missing = [other.name for other in paths if not other.is_file()]
    if missing:
        named = ", ".join(missing[:3]) + (" ..." if len(missing) > 3 else "")
        raise ModelFileError(f"{len(missing)} of {count} parts are missing: {named}", f"Put them into {path.parent}.")
    return paths


def _check_parts(parts: list[Header]) -> None:
    """That the parts are of one model: each is the part its name says, and no tensor is lacking or there twice."""
    seen: set[str] = set()
    for number, part in enumerate(parts):
        said = part.whole_number("split.no", 0), part.whole_number("split.count", 1)
        if said != (number, len(parts)):
            raise part.file.damaged(
                f"by its name it is part {number + 1} of {len(parts)}, by its metadata part {said[0] + 1} of {said[1]}"
            )
        for name in part.tensors:
            if name in seen:
                raise part.file.damaged(f"the tensor {name} is in an earlier part too")
            seen.add(name)
    total = parts[0].whole_number("split.tensors.count", len(seen))
    if total != len(seen):
        raise parts[0].file.damaged(f"it announces {total:,} tensors, but the {len(parts)} parts have {len(seen):,}")
