"""A decoder with adapters attached that are no change of its weights (prompts, prefixes, bottlenecks, edits of states),
answering by the plain generator.

It speaks as the engine's driver does, one request after another and without its pages, batches of strangers and drafts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.engine.grammar import Vocabulary
from hornbook.engine.requests import Event, Handle, Request
from hornbook.errors import ModelClosed, UsageError

if TYPE_CHECKING:
    from hornbook.checkpoint.family import Family
    from hornbook.checkpoint.loading import Checkpoint
    from hornbook.engine.generate import Generator
    from hornbook.model.config import ModelConfig
    from hornbook.settings import Settings
    from hornbook.text.chat import ChatTemplate
    from hornbook.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class OpenedPlain:
    """See engine.opening.Opened."""

    checkpoint: Checkpoint

    @property
    def name(self) -> str:
        return f"torch {self.checkpoint.model.device}, attached"

    @property
    def config(self) -> ModelConfig:
        return self.checkpoint.config

    @property
    def context_length(self) -> int:
        """Without the places that learnt vectors take of every text."""
        from hornbook.adapt.front import size_of

        return self.config.context_length - size_of(self.checkpoint.model)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.checkpoint.tokenizer

    @property
    def chat_template(self) -> ChatTemplate | None:
        return self.checkpoint.chat_template

    @property
    def path(self) -> Path:
        return self.checkpoint.path

    @property
    def family(self) -> Family:
        return self.checkpoint.family

    def driver(self, vocabulary: Vocabulary, vocab_size: int, settings: Settings | None, **_: Any) -> PlainDriver:
        from hornbook.engine.generate import Generator
        from hornbook.model.cache import ContiguousCache
        from hornbook.text.stream import StreamDecoder

        model, tokenizer = self.checkpoint.model, self.tokenizer
        front = model.config.context_length - self.context_length
        return PlainDriver(
            Generator(
                model,
                new_cache=lambda rows, capacity: ContiguousCache(
                    model.config, rows, front + capacity, model.dtype, model.device
                ),
                new_decoder=lambda: StreamDecoder(tokenizer),
                context_length=self.context_length,
                vocab_size=vocab_size,
                stop_ids=tokenizer.stop_ids,
                device=model.device,
                vocabulary=vocabulary,
            )
        )


class PlainDriver:
    """See engine.driver.Driver, of which this is what a LocalLLM asks."""

    def __init__(self, generator: Generator) -> None:
        self._generator: Generator | None = generator
        self._lock = threading.Lock()  # the model's own notes of a pass are for one at a time

    def ask(self, requests: Sequence[Request]) -> PlainStream:
        """Raises UsageError and ContextTooLong before any work."""
        if self._generator is None:
            raise ModelClosed("the model was closed", "Load it again.")
        for request in requests:
            if request.deadline is not None or request.adapter is not None or request.processors:
                raise alone()
        return PlainStream(self._events(self._generator, requests))

    def _events(self, generator: Generator, requests: Sequence[Request]) -> Iterator[tuple[int, Event]]:
        from hornbook.engine.score import score

        handles = [Handle(request, place, time.monotonic()) for place, request in enumerate(requests)]
        judged = [(place, request) for place, request in enumerate(requests) if request.score_from is not None]
        rows = [
            (place, answer)
            for place, request in enumerate(requests)
            for answer in range(request.params.n)
            if request.score_from is None
        ]
        params = [replace(requests[place].params, n=1) for place, _ in rows]
        steps = generator.run([requests[place].ids for place, _ in rows], params)

        def events() -> Iterator[tuple[int, Event]]:
            with self._lock:
                asked = [(place, *pair) for place, request in judged for pair in enumerate(_continued(request))]
                values = score(generator, [pair for _, _, pair in asked])
                for (place, answer, _), value in zip(asked, values, strict=True):
                    last = answer == len(requests[place].others)
                    yield place, Event(handles[place], answer, score=value, last=last)
            going = {place: sum(p == place for p, _ in rows) for place, _ in rows}
            while True:
                with self._lock:
                    step = next(steps, None)
                if step is None:
                    return
                place, answer = rows[step.row]
                over = step.error is not None or (step.token is not None and step.token.finish_reason is not None)
                going[place] -= over
                yield place, Event(handles[place], answer, step.token, step.error, last=not going[place])

        return events()

    def close(self) -> None:
        self._generator = None


def _continued(request: Request) -> list[tuple[Sequence[int], int]]:
    """(ids, where what is judged begins) for each continuation."""
    start = request.score_from or 0
    return [(request.ids, start), *(([*request.ids[:start], *other], start) for other in request.others)]


class PlainStream:
    """The events of some requests; see engine.driver.Stream."""

    def __init__(self, events: Iterator[tuple[int, Event]]) -> None:
        self._events = events

    def __iter__(self) -> PlainStream:
        return self

    def __next__(self) -> tuple[int, Event]:
        return next(self._events)

    def close(self) -> None:
        self._events = iter(())


def alone() -> UsageError:
    """For what only the engine can."""
    return UsageError(
        "the model answers with an adapter attached to it: it takes no others, no deadlines, and serves nobody else",
        "Load it without, or use an adapter that is a change of the weights: lora, dora, ia3.",
    )
