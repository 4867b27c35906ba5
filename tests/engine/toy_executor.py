"""An executor whose logits are a function of all the tokens that it finds in the pages it is given, and of nothing else.

It keeps the tokens themselves, as a model keeps keys and values. So a page that is missing, foreign, stale or in the
wrong place changes the answer or is caught here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hornbook.engine.executor import PAGE, Batch, Floats
from hornbook.errors import UsageError

MIX = 0x9E3779B97F4A7C15
MASK = 2**64 - 1


class ToyExecutor:
    """poison: tokens after which the logits are NaN.  broken: raised by the next run, once."""

    name = "toy"

    def __init__(self, pages: int = 64, vocab_size: int = 61, context_length: int = 256) -> None:
        self.pages = pages
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.page_bytes = 4 * PAGE
        self.stored = np.full((pages, PAGE), -1, np.int64)
        self.poison: set[int] = set()
        self.broken: BaseException | None = None
        self.batches: list[Batch] = []  # of which only the sizes are kept
        self.tokens: list[int] = []
        self.sequences: list[int] = []
        self.rows: list[int] = []
        self.adapters: dict[int, int] = {}
        self.closed = False
        self._table = np.random.default_rng(5).normal(size=(1021, vocab_size)).astype(np.float32) * 3

    def run(self, batch: Batch) -> Floats:
        assert not self.closed
        if self.broken is not None:
            error, self.broken = self.broken, None
            raise error
        self._check(batch)
        self.tokens.append(len(batch.ids))
        self.sequences.append(len(batch.lengths))
        self.rows.append(len(batch.select))
        wanted = set(batch.select.tolist())
        out = np.empty((len(wanted), self.vocab_size), np.float32)
        row = 0
        places = zip(batch.ids.tolist(), batch.positions.tolist(), batch.sequence.tolist(), strict=True)
        for place, (id, position, sequence) in enumerate(places):
            table = batch.pages[sequence]
            self.stored[table[position // PAGE], position % PAGE] = id + 1000 * self._adapter(batch, place)
            if place in wanted:
                seen = self.stored[table[: position // PAGE + 1]].reshape(-1)[: position + 1]
                assert (seen >= 0).all(), "a page has a hole"
                out[row] = self.logits(seen.tolist())
                row += 1
        return out

    def logits(self, ids: list[int]) -> Floats:
        state = 0
        for id in ids:
            state = ((state ^ (id + 1)) * MIX + 0x632BE59BD9B4E019) & MASK
            state ^= state >> 29
        logits = self._table[state % 1021] + self._table[(state >> 20) % 1021]
        return np.full_like(logits, np.nan) if ids[-1] in self.poison else logits

    def _adapter(self, batch: Batch, place: int) -> int:
        return 0 if batch.adapters is None else int(batch.adapters[place]) + 1

    def _check(self, batch: Batch) -> None:
        for array in batch[:6]:
            assert array.dtype == np.int32 and array.flags.c_contiguous
        assert (np.diff(batch.sequence) >= 0).all() and batch.sequence[-1] + 1 == len(batch.lengths)
        assert (batch.positions >= 0).all() and (batch.positions < self.context_length).all()
        same = np.diff(batch.sequence) == 0
        assert (np.diff(batch.positions)[same] == 1).all()
        lasts = np.append(np.flatnonzero(~same), len(batch.ids) - 1)
        assert (batch.positions[lasts] + 1 == batch.lengths).all()
        assert (batch.ids >= 0).all() and (batch.ids < self.vocab_size).all()
        assert (batch.pages >= 0).all() and (batch.pages < self.pages).all()
        assert (np.diff(batch.select) > 0).all()
        written = [
            (int(batch.pages[s, p // PAGE]), p % PAGE) for s, p in zip(batch.sequence, batch.positions, strict=True)
        ]
        assert len(set(written)) == len(written), "two tokens in one place"
        read = [set(batch.pages[s, : -(-n // PAGE)].tolist()) for s, n in enumerate(batch.lengths)]
        for place, (page, _) in enumerate(written):
            owners = sum(page in pages for pages in read)
            assert owners == 1, f"token {place} is written to a page that {owners} sequences of the step read"

    def copy_page(self, source: int, target: int) -> None:
        self.stored[target] = self.stored[source]

    def add_adapter(self, weights: Mapping[str, object]) -> int:
        if "toy" not in weights:
            raise UsageError("the adapter was made for another base: it has no weight called toy", "Train it for this one.")
        number = next(n for n in range(len(self.adapters) + 1) if n not in self.adapters)
        self.adapters[number] = 1
        return number

    def remove_adapter(self, number: int) -> None:
        del self.adapters[number]

    def scratch_bytes(self, tokens: int, rows: int) -> int:
        return 100 * tokens + 4 * self.vocab_size * rows

    def close(self) -> None:
        self.closed = True


class Letters:
    """A decoder: each id is a letter of its own."""

    def push(self, id: int) -> str:
        return chr(ord("A") + id)

    def flush(self) -> str:
        return ""
