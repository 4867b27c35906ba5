"""What runs a plan: tokens in, logits out, keys and values in pages that belong to whoever calls.

    Batch of T tokens from S sequences  --Executor.run-->  logits [R, V]
       ids        7 9 2 | 4 | 1 1 3 5       prompts and single tokens side by side
       sequence   0 0 0 | 1 | 2 2 2 2
       positions  0 1 2 | 8 | 4 5 6 7       the sequence's earlier tokens are in its pages already

An executor knows nothing of requests. Which page belongs to whom is the business of pages.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np

from hornbook.errors import GenerationError

Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"
Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"

PAGE = 16  # tokens in a page


class Batch(NamedTuple):
    """The tokens of one step. All arrays are int32 and contiguous."""

    ids: Ints  # [T]
    positions: Ints  # [T], ascending by one within a sequence
    sequence: Ints  # [T], ascending: the tokens of a sequence stand together
    pages: Ints  # [S, P]: the pages of tokens 0..15, 16..31, ...; what is not used is 0
    lengths: Ints  # [S]: tokens of each sequence after this step
    select: Ints  # [R]: places in ids after which logits are wanted
    adapters: Ints | None = None  # [T]: a number from add_adapter, or -1


class Stopped(Exception):
    """A run was stopped before its end. What it has written to pages lies beyond what counts there."""


def check_pages(pages: Iterable[int], count: int) -> None:
    """Raises GenerationError for a page that is none of ``count``."""
    for page in pages:
        if not 0 <= page < count:
            raise GenerationError(f"page {page} is out of range: there are {count} pages")


class Executor(Protocol):
    """Runs batches one at a time; not for several threads at once (the engine takes care of that)."""

    name: str  # "native avx2, 2 threads", "torch cpu float32"
    vocab_size: int
    context_length: int
    pages: int  # how many there are: 0 .. pages - 1
    page_bytes: int

    def run(self, batch: Batch) -> Floats:
        """-> logits [R, vocab_size] float32, which are valid until the next run. Raises GenerationError where it cannot."""
        ...

    def stop(self) -> None:
        """From any thread: the run under way, or else the next, raises Stopped as soon as it can."""
        ...

    def copy_page(self, source: int, target: int) -> None:
        """Give ``target`` the contents of ``source``."""
        ...

    def add_adapter(self, weights: Mapping[str, tuple[Floats, Floats, float]]) -> int:
        """Parameter name of a Linear's weight -> (A [r, in], B [out, r], scale); -> the number that Batch.adapters uses."""
        ...

    def remove_adapter(self, number: int) -> None: ...

    def scratch_bytes(self, tokens: int, rows: int) -> int:
        """Memory that a step of that size needs beyond weights and pages."""
        ...

    def close(self) -> None: ...
