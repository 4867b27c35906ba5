"""The requests that have begun and are not over: what is told of them, and the ways in which they end.

begin -> hear, hear, ... -> the last token of the last answer
                         -> the score of a likelihood
                         -> cancel, deadline, failure          its other answers end with it
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

from hornbook.engine.choose import Choice
from hornbook.engine.requests import Event, Handle
from hornbook.engine.scheduler import Scheduler
from hornbook.engine.sequence import Running
from hornbook.engine.speculating import Speculation
from hornbook.errors import DeadlineExceeded, GenerationError, HornbookError
from hornbook.types import Score, Token


class UnderWay:
    """Whose answers run or wait, and the events that nobody has fetched yet."""

    def __init__(self, scheduler: Scheduler, speculation: Speculation, clock: Callable[[], float]) -> None:
        self.answers: dict[Handle, list[Running]] = {}
        self.events: list[Event] = []
        self.new_tokens = 0
        self._scheduler = scheduler
        self._speculation = speculation
        self._clock = clock
        self._deadlines: list[tuple[float, int, Handle]] = []
        self._cancelled: deque[Handle] = deque()

    def begin(self, one: Running) -> None:
        handle = one.handle
        if handle.request.deadline is not None:
            if len(self._deadlines) > 64 + 2 * len(self.answers):  # those that were met are not kept
                self._deadlines = [entry for entry in self._deadlines if not entry[2].done]
                heapq.heapify(self._deadlines)
            heapq.heappush(self._deadlines, (handle.begun + handle.request.deadline, handle.number, handle))
        self.answers[handle] = [one]
        self._scheduler.add(one)

    def fetch(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def hear(self, one: Running, choice: Choice) -> bool:
        """Take the chosen token of an answer; -> whether the answer goes on."""
        assert one.chooser is not None and one.reply is not None
        logprob = choice.logprob if one.handle.request.params.logprobs else None
        token = one.reply.accept(choice.id, logprob, choice.top, whole=one.chooser.is_done)
        one.extend(choice.id)
        self.new_tokens += 1
        if token.finish_reason is None:
            self.events.append(Event(one.handle, one.answer, token))
            return True
        self._end(one)
        others = self.answers[one.handle]
        others.remove(one)
        self._tell(Event(one.handle, one.answer, token, last=not others))
        return False

    def judged(self, handle: Handle, answer: int, score: Score, one: Running | None = None) -> None:
        """A likelihood is known: that of ``one``, which ends, or one that needed no pass of its own."""
        others = self.answers[handle]
        if one is not None:
            self._end(one)
            others.remove(one)
        self._tell(Event(handle, answer, score=score, last=not others))

    def nothing_to_judge(self, handle: Handle) -> None:
        self._tell(Event(handle, score=Score(0.0, True, 0), last=True))

    def never_begun(self, handle: Handle) -> None:
        """It was cancelled before it had an answer under way."""
        self._tell(Event(handle, token=Token("", finish_reason="cancelled"), last=True))

    def fail(self, handle: Handle, error: Exception, answer: int = 0) -> None:
        """It ends with an error: by the words of whoever raised it, where those are for people.

        Where its logits may be to blame, what it has written into pages is not used again.
        """
        named = error
        if not isinstance(named, HornbookError):
            named = GenerationError(
                f"the request failed: {type(error).__name__}: {error}", "See what caused it, below."
            )
            named.__cause__ = error
        self._leave(handle, doubtful=isinstance(named, GenerationError))
        self._tell(Event(handle, answer, error=named, last=True))

    @property
    def pending_cancels(self) -> bool:
        return bool(self._cancelled)

    def cancel(self, handle: Handle) -> None:
        """From any thread: it ends at the next step."""
        if not handle.done and not handle.cancelled:
            handle.cancelled = True
            self._cancelled.append(handle)

    def end_early(self) -> None:
        """End what was cancelled, and what is too late."""
        while self._cancelled:
            handle = self._cancelled.popleft()
            answers = self._leave(handle)
            for place, one in enumerate(answers):
                text = one.reply.cut() if one.reply is not None else ""
                token = Token(text, finish_reason="cancelled")
                self._tell(Event(handle, one.answer, token, last=place == len(answers) - 1))
        while self._deadlines and (self._deadlines[0][0] <= self._clock() or self._deadlines[0][2].done):
            _, _, handle = heapq.heappop(self._deadlines)
            if not handle.done:
                answers = [one for one in self.answers[handle] if one.reply is not None]
                said = sum(len(one.ids) - len(handle.request.ids) for one in answers)
                what = f"the request was not done after {handle.request.deadline:g} s; it had {said:,} new tokens"
                self.fail(handle, DeadlineExceeded(what, "Give it more time, or ask for fewer tokens."))

    def _leave(self, handle: Handle, *, doubtful: bool = False) -> list[Running]:
        answers = self.answers.get(handle, [])
        for one in answers:
            self._end(one, doubtful=doubtful)
        return answers

    def _end(self, one: Running, *, doubtful: bool = False) -> None:
        self._scheduler.remove(one, doubtful=doubtful)
        self._speculation.forget(one)

    def _tell(self, event: Event) -> None:
        if event.last:
            event.handle.done = True
            self.answers.pop(event.handle, None)
        self.events.append(event)
