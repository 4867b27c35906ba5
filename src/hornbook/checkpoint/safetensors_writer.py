"""Write safetensors files: one tensor in memory at a time, and nothing under the file's name until all of it is there.

8 bytes: length of the header | JSON: name -> dtype, shape, data_offsets | the tensors' bytes, one behind the other
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from hornbook.checkpoint.fields import write_json
from hornbook.errors import StoreError

_NAMES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.bool: "BOOL",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
}  # fmt: skip


class Out(NamedTuple):
    """A tensor that is going to be written; ``make`` gives it when its turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_file(path: Path, tensors: Iterable[Out]) -> None:
    """Raises StoreError where it cannot be written, with the room that it needs."""
    tensors = sorted(
        tensors, key=lambda out: (-out.dtype.itemsize, out.name)
    )  # so that each stands at a multiple of its size
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # which transformers asks for
    end = 0
    for out in tensors:
        header[out.name] = {
            "dtype": _NAMES[out.dtype],
            "shape": list(out.shape),
            "data_offsets": [end, end + out.nbytes],
        }
        end += out.nbytes
    said = json.dumps(header, separators=(",", ":")).encode()
    said += b" " * (-len(said) % 8)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(len(said).to_bytes(8, "little") + said)
            for out in tensors:
                file.write(_bytes(out))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror or error}",
            f"It needs {(end + len(said)) / 1e6:,.1f} MB: look at the folder's rights and the disk's room.",
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _bytes(out: Out) -> memoryview:
    tensor = out.make().to("cpu", out.dtype).contiguous()
    assert tuple(tensor.shape) == out.shape, f"{out.name} has the shape {tuple(tensor.shape)}, not {out.shape}"
    return tensor.flatten().view(torch.uint8).numpy().data


def write_folder(folder: Path, tensors: Iterable[Out], shard_bytes: int) -> list[Path]:
    """model.safetensors, or numbered parts of at most ``shard_bytes`` and model.safetensors.index.json; -> the files.

    Weights of an earlier model in the folder are removed once the new ones are there.
    """
    parts: list[list[Out]] = [[]]
    for out in tensors:
        if parts[-1] and sum(o.nbytes for o in parts[-1]) + out.nbytes > shard_bytes:
            parts.append([])
        parts[-1].append(out)
    names = ["model.safetensors"]
    if len(parts) > 1:
        names = [f"model-{i:05}-of-{len(parts):05}.safetensors" for i in range(1, len(parts) + 1)]
    for name, part in zip(names, parts, strict=True):
        write_file(folder / name, part)
    index = folder / "model.safetensors.index.json"
    if len(parts) > 1:
        where = {out.name: name for name, part in zip(names, parts, strict=True) for out in part}
        total = sum(out.nbytes for part in parts for out in part)
        write_json(index, {"metadata": {"total_size": total}, "weight_map": where})
        (folder / "model.safetensors").unlink(missing_ok=True)
    else:
        index.unlink(missing_ok=True)
    for old in folder.glob("model-*-of-*.safetensors"):
        if old.name not in names:
            old.unlink()
    return [folder / name for name in names]
