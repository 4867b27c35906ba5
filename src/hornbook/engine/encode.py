"""Token ids to one vector a text, by whichever executor: what an embedder stands on.

    rows of ids (ragged) -> NativeEncoder: one batch without padding, native kernels, no torch
                            TorchEncoder: padded to the longest, any device
                         -> hidden states -> pooling -> [B, d]

Legend: B texts, T tokens of all of them, C width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from hornbook.engine.executor import Batch, Executor, Floats

Rows = Sequence[Sequence[int]]
POOLINGS = ("mean", "first", "last")


class Encoder(Protocol):
    """``batch_tokens``: how many tokens it likes at once, padding included."""

    batch_tokens: int

    def vectors(self, rows: Rows) -> Floats:
        """[B, C] float32, one a text, not normalised. No text is empty."""
        ...

    def close(self) -> None: ...


class NativeEncoder:
    """An encoder's plan on native kernels. Texts of any lengths share a batch, and none costs padding."""

    batch_tokens = 2048  # the widest register of MiniLM is 12 MB then

    def __init__(self, executor: Executor, pooling: str) -> None:
        self._executor, self._pooling = executor, pooling

    def vectors(self, rows: Rows) -> Floats:
        lengths = np.array([len(row) for row in rows], np.int32)
        starts = np.cumsum(lengths) - lengths
        batch = Batch(
            ids=np.concatenate([np.asarray(row, np.int32) for row in rows]),
            positions=(np.arange(lengths.sum()) - np.repeat(starts, lengths)).astype(np.int32),
            sequence=np.repeat(np.arange(len(rows), dtype=np.int32), lengths),
            pages=np.zeros((len(rows), 0), np.int32),
            lengths=lengths,
            select=np.zeros(0, np.int32),
        )
        return pooled(self._executor.run(batch), starts, lengths, self._pooling)

    def close(self) -> None:
        self._executor.close()


def pooled(hidden: Floats, starts: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any], how: str) -> Floats:
    """hidden [T, C], where each text starts and how long it is -> [B, C]."""
    vectors: Floats
    if how == "first":
        vectors = hidden[starts].copy()
    elif how == "last":
        vectors = hidden[starts + lengths - 1].copy()
    else:
        vectors = np.add.reduceat(hidden, starts, axis=0)
        vectors /= lengths[:, None].astype(np.float32)
    return vectors


class TorchEncoder:
    """A Transformer of model/, on its device.

    ``batch_tokens``: small enough for a batch's states to stay in a CPU's cache (measured with MiniLM: 1,024 is a sixth
    faster than 4,096); a GPU wants more.
    """

    def __init__(self, model: Any, pooling: str) -> None:
        self._model, self._pooling = model, pooling
        self.batch_tokens = 1024 if model.device.type == "cpu" else 16_384

    def vectors(self, rows: Rows) -> Floats:
        import torch

        from hornbook.model.heads import pool

        longest, device = max(map(len, rows)), self._model.device
        with torch.inference_mode():
            ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
            mask = None
            if any(len(row) < longest for row in rows):
                counts = torch.tensor([len(row) for row in rows], device=device)
                mask = torch.arange(longest, device=device) < counts[:, None]
            hidden = self._model(ids, mask=mask, logits="none").hidden
            vectors: Floats = pool(hidden.float(), mask, self._pooling).cpu().numpy()  # type: ignore[arg-type]
        return vectors

    def close(self) -> None:
        self._model = None
