"""Which model an adapter was made for: told apart from others, and recognised in whatever format it comes.

The same model is a folder of bfloat16 today and a GGUF file of four bits tomorrow, and an adapter fits both. What no format
touches are the vectors (norms, biases): their SHA-256 is the base's. Of matrices, which are rounded, a few rows are kept,
and must point the same way. Torch is not imported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hornbook.checkpoint.packed import PackedTensor, open_packed
from hornbook.errors import ModelFileError, UsageError
from hornbook.model.config import ModelConfig
from hornbook.model.parameters import parameters

KEY = "hornbook_base"  # of adapter_config.json
ROWS, COLUMNS = 4, 24  # of each sampled matrix
ALIKE = 0.9  # the least cosine of the samples; two bits a weight leave 0.95, another model has 0.0
CLOSE = 0.01  # how far a vector's number may be off, in parts of itself: bfloat16 is 0.004 off

Floats = np.ndarray[Any, np.dtype[np.float32]]


class Fingerprint(NamedTuple):
    sha256: str  # of the names and shapes of all parameters, and of the vectors in bfloat16
    matrices: tuple[float, ...]  # some numbers of some matrices
    vectors: tuple[float, ...]  # some of the vectors', for formats that add one to a norm and lose its last bits

    def said(self) -> dict[str, Any]:
        """As adapter_config.json has it."""
        return {
            "sha256": self.sha256,
            "matrices": [float(f"{x:.4g}") for x in self.matrices],
            "vectors": [float(f"{x:.6g}") for x in self.vectors],
        }


def of(config: ModelConfig, rows: Any) -> Fingerprint:
    """``rows(name, which)``: of the model's parameter ``name`` the rows (of a vector the numbers) ``which``, float32."""
    shapes = parameters(config)
    digest = hashlib.sha256(json.dumps(sorted((name, list(shape)) for name, shape in shapes.items())).encode())
    vectors: list[Floats] = []
    for name in sorted(name for name, shape in shapes.items() if len(shape) == 1):
        values = rows(name, range(shapes[name][0]))
        digest.update(_bfloat16(values).tobytes())
        vectors.append(values[:: max(1, len(values) // 4)][:4])
    queries = [name for name in shapes if name.endswith("attention.query.weight")]
    sampled = [name for name in ("embed.tokens.weight", queries[0], queries[-1]) if name in shapes]
    matrices = []
    for name in dict.fromkeys(sampled):
        height, width = shapes[name]
        chosen = rows(name, [height * (2 * i + 1) // (2 * ROWS) for i in range(ROWS)])
        matrices.append(chosen[:, :: max(1, width // COLUMNS)][:, :COLUMNS].ravel())
    flat = np.concatenate(vectors)[:256] if vectors else np.zeros(0, np.float32)
    return Fingerprint(digest.hexdigest(), tuple(np.concatenate(matrices).tolist()), tuple(flat.tolist()))


def of_file(path: Path) -> Fingerprint:
    """Of a model on disk, of which no more is read than is wanted. Raises what ``open_packed`` does."""
    with open_packed(path, text=False) as packed:
        return of(packed.config, lambda name, which: _rows(packed.weights[name], which))


def check(raw: Mapping[str, Any], here: Fingerprint, what: str) -> None:
    """Raise UsageError where an adapter's file says another base than ``here``; one that says none is taken.

    ``what``: what the model is called in the message.
    """
    said = raw.get(KEY)
    if said is None:
        return
    try:
        there = Fingerprint(
            str(said["sha256"]), tuple(map(float, said["matrices"])), tuple(map(float, said["vectors"]))
        )
    except (TypeError, KeyError, ValueError) as error:
        raise ModelFileError(f"{KEY} of adapter_config.json is damaged: {error!r}", "Take the key out.") from error
    alike = len(there.matrices) == len(here.matrices) and _cosine(there.matrices, here.matrices) >= ALIKE
    if not (alike and (there.sha256 == here.sha256 or _close(there.vectors, here.vectors))):
        base = raw.get("base_model_name_or_path")
        raise UsageError(
            f"the adapter was made for another base{f', {base}' if base else ''} ({there.sha256[:12]}); {what} is "
            f"{here.sha256[:12]}",
            "Load the model that it was trained on, in any format.",
        )


def _bfloat16(values: Floats) -> np.ndarray[Any, Any]:
    """Rounded to the nearest, as two bytes each."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    a, b = np.asarray(one), np.asarray(other)
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return 1.0 if norm == 0.0 and np.array_equal(a, b) else float(a @ b) / norm if norm else 0.0


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return len(one) == len(other) and bool(np.allclose(one, other, rtol=CLOSE, atol=1e-4))


def _rows(tensor: PackedTensor, which: Sequence[int]) -> Floats:
    return tensor.values()[list(which)] if len(tensor.shape) == 1 else tensor.rows(which)
