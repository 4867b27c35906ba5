"""Steps of one token a sequence in buffers that never move, so that a GPU can replay them without the host.

    batch of 5 sequences, longest 300 tokens  ->  bucket of 8 rows and 32 pages

    row     id  position  slot  length  pages ...           three rows of padding write to a page that nobody reads
            [N, 4 + P] long, filled on the host, copied at once

A launch of a few hundred small kernels costs more than their work when a step has few tokens; a captured graph (CUDA)
is one launch. Where there are no graphs the same buffers are run as they stand, which is how tests see this code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hornbook.engine.executor import PAGE, Batch
from hornbook.engine.torch_attention import Group, Layout

MOST_ROWS = 256
LEAST_PAGES = 16
COLUMNS = 4  # id, position, slot, length

Forward = Callable[[Tensor, Tensor, Layout], Tensor]  # ids [N], positions [N] -> logits [N, V]


def bucket(batch: Batch) -> tuple[int, int] | None:
    """Rows and pages of the buffers that a batch fits, powers of two; None: it is no step of single tokens."""
    rows = len(batch.ids)
    if not 0 < rows <= MOST_ROWS or len(batch.lengths) != rows or (batch.sequence != np.arange(rows)).any():
        return None
    pages = -(-int(batch.lengths.max()) // PAGE)
    return 1 << (rows - 1).bit_length(), max(LEAST_PAGES, 1 << (pages - 1).bit_length())


class GraphMemory:
    """What the graphs of one executor share, since no two of them run at once: the scratch memory of the largest."""

    def __init__(self) -> None:
        self.pool: Any = None  # torch's handle of it, once there is a graph


class Decode:
    """The buffers of one bucket, and on CUDA their graph; ``scratch``: the slot that padding writes to."""

    def __init__(
        self,
        forward: Forward,
        rows: int,
        pages: int,
        scratch: int,
        memory: GraphMemory,
        device: torch.device,
    ) -> None:
        self._forward = forward
        self._scratch, self._memory = scratch, memory
        self._host = torch.zeros(rows, COLUMNS + pages, dtype=torch.long, pin_memory=device.type == "cuda")
        self._given = self._host.to(device, copy=True)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._out: Tensor | None = None

    def run(self, batch: Batch) -> Tensor:
        """-> logits [N, V], of which the first rows are the batch's, in its order; valid until the next run."""
        self._fill(batch)
        if self._given.device.type != "cuda":
            return self._step()
        if self._graph is None:
            self._capture()
        assert self._graph is not None and self._out is not None
        self._graph.replay()
        return self._out

    def _fill(self, batch: Batch) -> None:
        rows = len(batch.ids)
        host = self._host.numpy()
        host[:, :2], host[:, 2], host[:, 3], host[:, COLUMNS:] = 0, self._scratch, 0, 0
        host[:rows, 0], host[:rows, 1], host[:rows, 3] = batch.ids, batch.positions, batch.lengths
        pages = batch.pages[np.arange(rows), batch.positions // PAGE].astype(np.int64)
        host[:rows, 2] = pages * PAGE + batch.positions % PAGE
        width = min(batch.pages.shape[1], host.shape[1] - COLUMNS)
        host[:rows, COLUMNS : COLUMNS + width] = batch.pages[:, :width]
        self._given.copy_(self._host)  # waits on the host's side, so the host may fill it again

    def _step(self) -> Tensor:
        ids, at, slots, lengths = (self._given[:, column] for column in range(COLUMNS))
        table = self._given[:, COLUMNS:]
        group = Group(None, None, at[:, None], table, lengths, table.shape[1] * PAGE)
        return self._forward(ids, at, Layout([group], slots))

    def _capture(self) -> None:
        """Run once beside the main stream, as capturing asks for, then record."""
        aside = torch.cuda.Stream(self._given.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(self._given.device))
        with torch.cuda.stream(aside):
            self._step()
        torch.cuda.current_stream(self._given.device).wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=self._memory.pool):
            self._out = self._step()
        self._memory.pool = self._graph.pool()
