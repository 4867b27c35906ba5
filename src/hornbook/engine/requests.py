"""What is asked of the engine, and how it answers.

Request(ids, params, ...)  --Engine.submit-->  Handle
Engine.step() -> Event(handle, answer, token)          the next token of one of its answers
                 Event(handle, answer, token, last)    ... and the request is done with it
                 Event(handle, answer, error, last)    it failed, and its other answers with it
                 Event(handle, answer, score, last)    a likelihood request: one for each continuation
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from hornbook.engine.executor import PAGE, Floats
from hornbook.engine.grammar import Compiled
from hornbook.engine.pages import pages_of
from hornbook.engine.prompts import checked_ids
from hornbook.errors import ContextTooLong, HornbookError, UsageError
from hornbook.types import SamplingParams, Score, Token

if TYPE_CHECKING:
    from hornbook.engine.driver import Stream
    from hornbook.engine.plain import PlainStream

Processor: TypeAlias = Callable[[Sequence[int], Floats], Floats]  # (prompt and answer so far, logits [V]) -> logits [V]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and what is wanted of it.

    priority    a request goes before another that came at the same time with a lower one; see scheduler.py
    deadline    seconds from submission after which it fails with DeadlineExceeded
    adapter     the name of an adapter of the engine
    processors  change the logits first of all
    score_from  no answer, but the likelihood of ids[score_from:] after ids[:score_from]; of the parameters only top_logprobs
                counts: where it is not 0, the likelihood of each token is told, and so many of the likeliest in its place
    others      further continuations of ids[:score_from], which is read once for all: answers 1, 2, ... in their order
    """

    ids: Sequence[int]
    params: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 0
    deadline: float | None = None
    adapter: str | None = None
    processors: tuple[Processor, ...] = ()
    score_from: int | None = None
    others: tuple[tuple[int, ...], ...] = ()


@dataclass(eq=False, slots=True)
class Handle:
    """A request under way. ``done``: nothing more will come."""

    request: Request
    number: int
    begun: float  # when it was submitted, by the engine's clock
    cancelled: bool = False
    done: bool = False
    language: Compiled | None = None  # what every answer must be a text of
    seed: int | None = None  # what all its random numbers come from
    cached: int = 0  # tokens of the prompt that were found in known pages
    listener: Callable[[], Any] | None = None  # whom the driver tells of its events


class Event(NamedTuple):
    """What happened to a request. ``last``: it is over with this."""

    handle: Handle
    answer: int = 0  # which of n
    token: Token | None = None
    error: HornbookError | None = None
    score: Score | None = None
    last: bool = False


def token_of(event: Event, place: int, prompts: int) -> Token:
    """What an event about one of several prompts tells. Raises the request's error."""
    if event.error is not None:
        raise named(event.error, place, prompts)
    assert event.token is not None
    return event.token


def tokens_of(stream: Stream | PlainStream) -> Iterator[Token]:
    """Of one prompt. Closing it closes the stream."""
    with closing(stream):
        for place, event in stream:
            yield token_of(event, place, 1)


def named(error: HornbookError, place: int, prompts: int) -> HornbookError:
    """The error, which says of which of several prompts it speaks."""
    told = type(error)(f"prompt {place + 1} of {prompts}: {error.what}" if prompts > 1 else error.what, error.remedy)
    told.__cause__ = error
    return told


def checked_request(request: Request, *, vocab_size: int, context_length: int, pages: int) -> list[int]:
    """The ids of a request that can be served, whatever else is asked of the engine.

    Raises UsageError, or ContextTooLong with both numbers, where it cannot.
    """
    if request.deadline is not None and not request.deadline > 0:
        raise UsageError(f"a deadline must lie ahead, not {request.deadline} s", "Give seconds from now.")
    bias = tuple(dict(request.params.logit_bias))
    if bias and max(bias) >= vocab_size:
        raise UsageError(
            f"logit_bias names token id {max(bias)}, the vocabulary has {vocab_size:,} tokens",
            "Were the ids made by another model's tokenizer?",
        )
    if request.score_from is not None:
        return _checked_for_score(request, vocab_size, context_length, pages)
    if request.others:
        raise UsageError("continuations are given, and not where they begin", "Give score_from, too.")
    ids = checked_ids(request.ids, vocab_size, context_length)
    if len(ids) >= pages * PAGE:
        raise _no_room(len(ids), pages)
    return ids


def _checked_for_score(request: Request, vocab_size: int, context_length: int, pages: int) -> list[int]:
    """The last token is judged and never read, so that one more fits than in an answer's prompt."""
    ids = checked_ids(request.ids, vocab_size, len(request.ids) + 1)
    start = request.score_from
    if start is None or not 1 <= start <= len(ids):
        raise UsageError(
            f"what is judged begins at token {start} of {len(ids)}", "It needs at least one token before it."
        )
    if request.others and (start == len(ids) or not all(request.others)):
        raise UsageError(
            "of several continuations none may be empty", "Leave those out: nothing is as likely as can be."
        )
    for other in request.others:
        checked_ids(other, vocab_size, len(other) + 1)
    longest = max(len(ids), *(start + len(other) for other in request.others)) if request.others else len(ids)
    if longest - 1 > context_length:
        raise ContextTooLong(
            f"context and continuation have {longest:,} tokens; the model's context holds {context_length:,}",
            "Shorten the context, or use a model with a longer one.",
        )
    if pages_of(longest - 1) > pages:
        raise _no_room(longest, pages)
    return ids


def _no_room(tokens: int, pages: int) -> ContextTooLong:
    return ContextTooLong(
        f"the prompt has {tokens:,} tokens; the memory set aside for keys and values holds {pages * PAGE:,}",
        "Shorten the prompt, or give the engine more memory.",
    )
