"""An executor whose logits are a function of all the tokens that it finds in the pages it is given, and of nothing else.

It keeps the tokens themselves, as a model keeps keys and values. So a page that is missing, foreign, stale or in the
wrong place changes the answer or is caught here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from hornbook.engine.choose import Chooser, sample
from hornbook.engine.engine import Engine
from hornbook.engine.executor import PAGE, Batch, Floats
from hornbook.engine.reply import Reply
from hornbook.engine.requests import Handle, Request
from hornbook.errors import UsageError
from hornbook.types import Token


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
                out[row] = self.logits(seen)
                row += 1
        return out

    def logits(self, ids: Sequence[int] | np.ndarray[Any, Any]) -> Floats:
        """After these tokens; 1000 is added to the ids that an adapter has read."""
        digest = blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=8).digest()
        first, second = int.from_bytes(digest[:4]) % 1021, int.from_bytes(digest[4:]) % 1021
        logits = self._table[first] + self._table[second]
        return np.full_like(logits, np.nan) if int(ids[-1]) in self.poison else logits

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
            raise UsageError(
                "the adapter was made for another base: it has no weight called toy", "Train it for this one."
            )
        number = next(n for n in range(len(self.adapters) + 1) if n not in self.adapters)
        self.adapters[number] = 1
        return number

    def remove_adapter(self, number: int) -> None:
        del self.adapters[number]

    def scratch_bytes(self, tokens: int, rows: int) -> int:
        return 100 * tokens + 4 * self.vocab_size * rows

    def stop(self) -> None:
        """A toy is done before it could be stopped."""

    def close(self) -> None:
        self.closed = True


class Letters:
    """A decoder: each id is a letter of its own."""

    def push(self, id: int) -> str:
        return chr(ord("A") + id)

    def flush(self) -> str:
        return ""


class Answer:
    """What one answer of a request said, in the end."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.reason: str | None = None
        self.logprobs: list[float] = []

    def hear(self, token: Token) -> None:
        assert self.reason is None, "a token after the end"
        self.text += token.text
        self.reason = token.finish_reason
        if token.id is not None:
            self.ids.append(token.id)
        if token.logprob is not None:
            self.logprobs.append(token.logprob)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"Answer({self.ids}, {self.text!r}, {self.reason})"


STOP_IDS = frozenset({3})


def engine_of(executor: ToyExecutor | None = None, **options: Any) -> Engine:
    executor = executor or ToyExecutor()
    return Engine(executor, new_decoder=Letters, vocab_size=executor.vocab_size, stop_ids=STOP_IDS, **options)


def expected(executor: ToyExecutor, request: Request) -> list[Answer]:
    """Each answer made alone, token by token, from the whole sequence: no pages, no batch, no scheduler."""
    answers = []
    params = request.params
    for index in range(params.n):
        ids, answer = list(request.ids), Answer()
        chooser = Chooser(
            params, ids, sample, seed=params.seed or 0, index=index, processors=request.processors
        )  # fmt: skip
        room = min(params.max_tokens, min(executor.context_length, PAGE * executor.pages) - len(ids))
        reply = Reply(params, room, Letters(), STOP_IDS)
        while answer.reason is None:
            choice = chooser.choose(ids, executor.logits(ids))
            chooser.accept(choice.id)
            answer.hear(reply.accept(choice.id, choice.logprob if params.logprobs else None, choice.top))
            ids.append(choice.id)
        answers.append(answer)
    return answers


def drain(engine: Engine, handles: list[Handle], *, each_step: Callable[[], None] = lambda: None) -> list[Any]:
    """Step to the end; of each request its answers, its Score, or its error. All books are checked at every step.

    ``each_step`` may append to ``handles``.
    """
    answers: dict[Handle, list[Answer]] = {}
    found: dict[Handle, Any] = {}
    each_step()
    while engine.has_work:
        for event in engine.step():
            of_request = answers.setdefault(event.handle, [Answer() for _ in range(event.handle.request.params.n)])
            assert event.handle not in found or found[event.handle] is of_request, "something after the end"
            found[event.handle] = event.error or event.score or of_request
            if event.token is not None:
                of_request[event.answer].hear(event.token)
            assert event.last == (event.error is not None or event.score is not None or _all_ended(of_request))
        engine.scheduler.check()
        each_step()
    assert all(handle.done for handle in handles)
    assert engine.stats().pages_used == 0, "pages leaked"
    return [found[handle] for handle in handles]


def _all_ended(answers: Sequence[Answer]) -> bool:
    return all(answer.reason is not None for answer in answers)
