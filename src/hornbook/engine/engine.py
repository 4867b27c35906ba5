"""Many requests, one model: what is submitted is answered together, a token of each at every step.

    submit --> arrivals --> Scheduler --spans--> Batch --Executor.run--> logits --Chooser--> Reply --> Event
                  ^             |  Pages                                    |
               cancel        preempted: back to the line                likelihoods

``submit`` and ``cancel`` may be called from any thread at any time; ``step`` by one at a time (driver.py sees to that).
A request that fails takes nobody with it. What an executor cannot run fails those that took part in that step, and the
engine goes on; where a step is interrupted from outside, all pages are forgotten and everybody begins anew with the
tokens there are, so that nothing is ever read from a cache that a broken step has written.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hornbook.engine.adapters import Adapters
from hornbook.engine.budget import step_within
from hornbook.engine.choose import Choice, Chooser, NativeSample, Sample, sample
from hornbook.engine.executor import PAGE, Executor, Floats
from hornbook.engine.grammar import Compiled, Vocabulary, of_params
from hornbook.engine.likelihood import judge
from hornbook.engine.pages import Pages
from hornbook.engine.reply import Decoder, Reply
from hornbook.engine.requests import Event, Handle, Request, checked_request
from hornbook.engine.scheduler import PATIENCE, Scheduler, wanted_rows
from hornbook.engine.sequence import Likelihood, Running
from hornbook.engine.speculating import Speculation
from hornbook.engine.speculative import Drafter, Probabilities
from hornbook.engine.uniforms import fresh_seed
from hornbook.errors import DeadlineExceeded, GenerationError, HornbookError, ModelClosed, UsageError
from hornbook.kernels.library import Library
from hornbook.types import Score, Token

LOGITS_BYTES = 64 * 2**20  # what the logits of one step may take; but a row for each answer there always is


@dataclass(frozen=True, slots=True)
class Stats:
    """Where the engine stands, and what it has done since it was made."""

    running: int
    waiting: int
    pages_free: int
    pages_cached: int
    pages_used: int
    steps: int
    prompt_tokens: int  # of prompts that were admitted, however they came into the cache
    hit_tokens: int  # of those that did not have to be computed
    computed_tokens: int  # that passed the model
    new_tokens: int
    preemptions: int
    drafted_tokens: int  # guesses that the model has judged
    kept_tokens: int  # and those of them that were right
    seconds: float  # in steps

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all answers together, over the time spent in steps."""
        return self.new_tokens / self.seconds if self.seconds else 0.0


class Engine:
    """Answers requests with one executor.

    new_decoder: a fresh Decoder for one answer.  stop_ids: the ids that end an answer.
    vocab_size: ids lie below it; where the logits are wider (padding), the rest is never chosen.
    context_length: the model's window; pages may hold less, and then an answer ends where they are full.
    vocabulary: the tokens as grammars see them; without it a schema, regex or grammar is refused.
    drafter: guesses what comes next, at most ``drafts`` tokens a step; where that does not pay it is left.
    kernels: choose with the native sampler.  memory: what pages and a step's scratch may take in all, in bytes.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        new_decoder: Callable[[], Decoder],
        vocab_size: int,
        stop_ids: frozenset[int] = frozenset(),
        context_length: int | None = None,
        max_running: int = 64,
        step_tokens: int = 512,
        share: bool = True,
        memory: int | None = None,
        vocabulary: Vocabulary | None = None,
        drafter: Drafter | None = None,
        drafts: int = 8,
        kernels: Library | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises UsageError with the numbers where ``memory`` does not do for the smallest step."""
        self.executor = executor
        self.vocab_size = vocab_size
        self.stop_ids = stop_ids
        self.context_length = min(context_length or executor.context_length, executor.context_length)
        self._longest = min(self.context_length, PAGE * executor.pages)  # tokens of one sequence
        self._new_decoder = new_decoder
        self._vocabulary = vocabulary
        self._lock = threading.Lock()  # of submission alone
        self._clock = clock
        self._sample: Sample = NativeSample(kernels) if kernels is not None else sample
        self._kernels = kernels
        self.pages = Pages(executor.pages, share=share)
        rows = max(max_running, LOGITS_BYTES // (4 * executor.vocab_size))
        self.scheduler = Scheduler(
            self.pages,
            max_running=max_running,
            step_tokens=step_within(executor, memory, step_tokens, rows),
            max_rows=rows,
            context_length=self.context_length,
        )
        self._arrivals: deque[tuple[Handle, list[int]]] = deque()
        self._live: dict[Handle, list[Running]] = {}
        self._deadlines: list[tuple[float, int, Handle]] = []
        self._cancelled: deque[Handle] = deque()
        self._events: list[Event] = []
        self._adapters = Adapters(executor)
        self._speculation = Speculation(drafter, drafts)
        self._made = 0
        self._submitted = 0
        self._closed = False
        self._steps = self._prompt_tokens = self._computed = self._new_tokens = 0
        self._seconds = 0.0

    # --- requests

    def submit(self, request: Request) -> Handle:
        """Put a request in the line. Raises UsageError, ContextTooLong or ModelClosed here, before any work."""
        self._open()
        ids = checked_request(
            request, vocab_size=self.vocab_size, context_length=self.context_length, pages=self.pages.count
        )
        self._adapters.find(request.adapter)
        language = self._language(request)
        with self._lock:
            self._submitted += 1
            handle = Handle(request, self._submitted, self._clock(), language=language)
        self._arrivals.append((handle, ids))
        return handle

    def _language(self, request: Request) -> Compiled | None:
        """The compiled schema, regex or grammar; compiled here, in the thread of whoever asks."""
        params = request.params
        if request.score_from is not None or (
            params.schema is None and params.regex is None and params.grammar is None
        ):
            return None
        if self._vocabulary is None:
            raise UsageError("structured output is not to be had here", "Give the engine its vocabulary.")
        return of_params(self._vocabulary, params)

    def cancel(self, handle: Handle) -> None:
        """Stop a request: at the next step its answers end with "cancelled". One that is over is left alone."""
        if not handle.done and not handle.cancelled:
            handle.cancelled = True
            self._cancelled.append(handle)

    @property
    def has_work(self) -> bool:
        return bool(self._arrivals or self._live or self._events)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Free the model's memory. Not while a step runs; later use raises ModelClosed."""
        if not self._closed:
            self._closed = True
            self._arrivals.clear()
            self._live.clear()
            self.executor.close()

    def stats(self) -> Stats:
        return Stats(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting) + len(self._arrivals),
            pages_free=self.pages.free,
            pages_cached=self.pages.cached,
            pages_used=self.pages.used,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            hit_tokens=self.pages.hit_tokens,
            computed_tokens=self._computed,
            new_tokens=self._new_tokens,
            preemptions=self.scheduler.preemptions,
            drafted_tokens=self._speculation.proposed,
            kept_tokens=self._speculation.kept,
            seconds=self._seconds,
        )

    def _open(self) -> None:
        if self._closed:
            raise ModelClosed("the engine was closed", "Load the model again.")

    def add_adapter(self, name: str, weights: Mapping[str, tuple[Floats, Floats, float]]) -> None:
        """Load a low-rank change under a name that requests may use. Not while a step runs.

        weights: as in Executor.add_adapter. Raises UsageError where the name is taken, or it is for another base.
        """
        self._open()
        self._adapters.add(name, weights)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter. Not while a step runs. Raises UsageError where requests still use it."""
        waiting = [handle for handle, _ in self._arrivals]
        self._adapters.remove(name, [handle.request.adapter for handle in [*self._live, *waiting]])

    # --- a step

    def step(self) -> list[Event]:
        """One pass of the model for everybody whose turn it is; -> what happened. Raises ModelClosed."""
        self._open()
        begun = time.perf_counter()
        try:
            self._arrive()
            self._end_early()
            scheduler = self.scheduler
            spare = min(scheduler.max_rows, scheduler.step_tokens) - len(scheduler.running)
            self._speculation.draft(scheduler.running, self._longest, spare)
            spans = scheduler.schedule()
            if spans:
                self._run(spans)
        except BaseException:
            self.scheduler.restart()  # events so far are told by the next step
            raise
        self._seconds += time.perf_counter() - begun
        events, self._events = self._events, []
        return events

    @property
    def pending_cancels(self) -> bool:
        return bool(self._cancelled)

    def sweep(self) -> list[Event]:
        """End what was cancelled, and what is too late, without a pass of the model. Not while a step runs."""
        self._arrive()
        self._end_early()
        events, self._events = self._events, []
        return events

    def _run(self, spans: dict[Running, int]) -> None:
        batch = self.scheduler.batch(spans)
        self._steps += 1
        begun = time.perf_counter()
        try:
            logits = self.executor.run(batch)[:, : self.vocab_size]
        except Exception as error:
            self._fail_step(spans, error)
            return
        if all(tokens == 1 + len(one.drafts) for one, tokens in spans.items()):
            self._speculation.took(len(batch.ids), time.perf_counter() - begun)
        self._computed += len(batch.ids)
        row = 0
        for one, tokens in spans.items():
            rows = wanted_rows(one, tokens)
            own, row = logits[row : row + rows], row + rows
            if one.handle.done:  # another of its answers has just failed
                continue
            one.computed += tokens - len(one.drafts)
            if one.computed // PAGE > one.known:
                self.scheduler.publish(one)
            if rows and one.likelihood is not None:
                self._judge(one, own)
            elif one.drafts:
                self._continue(one, own)
            elif rows:
                self._speak(one, own[0])

    def _speak(self, one: Running, logits: Floats) -> None:
        """Choose its next token and, where its prompt has just ended, the first of the answers that begin there."""
        twins = self._fork(one) if one.forks else ()
        for answer in (one, *twins):
            choice = self._choose(answer, logits)
            if choice is None:
                return
            self._hear(answer, choice)
            self._speculation.judged(answer, [choice.id], 0)

    def _continue(self, one: Running, logits: Floats) -> None:
        """Choose as many tokens as the draft guessed right, and one more."""
        drafts, chosen, kept = one.drafts, [], 0
        for place, row in enumerate(logits):
            guess = drafts[place] if place < len(drafts) else None
            chances = one.chances[place] if one.chances is not None and guess is not None else None
            choice = self._choose(one, row, guess, chances)
            if choice is None:
                return
            chosen.append(choice.id)
            going = self._hear(one, choice)
            kept += choice.id == guess
            if not going or choice.id != guess:
                break
            one.computed += 1
        self._speculation.judged(one, chosen, kept)
        if one.slot >= 0:
            one.drafts, one.chances = (), None
            self.scheduler.truncate(one, one.computed)
            self.scheduler.publish(one)

    def _choose(
        self, one: Running, logits: Floats, guess: int | None = None, chances: Probabilities | None = None
    ) -> Choice | None:
        """Its next token; None where the request failed with it."""
        chooser = one.chooser
        assert chooser is not None
        try:
            choice = chooser.choose(one.ids, logits, guess, chances)
            chooser.accept(choice.id)
        except GenerationError as error:
            self._fail(one.handle, error, one.answer)
            return None
        return choice

    def _hear(self, one: Running, choice: Choice) -> bool:
        """Take the chosen token; -> whether the answer goes on."""
        chooser, reply = one.chooser, one.reply
        assert chooser is not None and reply is not None
        logprob = choice.logprob if one.handle.request.params.logprobs else None
        token = reply.accept(choice.id, logprob, choice.top, whole=chooser.is_done)
        one.extend(choice.id)
        self._new_tokens += 1
        if token.finish_reason is None:
            self._events.append(Event(one.handle, one.answer, token))
            return True
        self._end(one)
        live = self._live[one.handle]
        live.remove(one)
        self._tell(Event(one.handle, one.answer, token, last=not live))
        return False

    def _end(self, one: Running) -> None:
        self.scheduler.remove(one)
        self._speculation.forget(one)

    def _fork(self, one: Running) -> list[Running]:
        twins = []
        for answer in range(1, one.forks + 1):
            twin = self._new(one.handle, list(one.ids), answer)
            if (copy := self.scheduler.fork(one, twin)) is not None:
                self.executor.copy_page(*copy)
            twins.append(twin)
        one.forks = 0
        self._live[one.handle] += twins
        return twins

    def _judge(self, one: Running, logits: Floats) -> None:
        likelihood = one.likelihood
        assert likelihood is not None
        first = one.rows_from + 1
        try:
            judge(likelihood, logits, one.ids[first : first + len(logits)], self._kernels)
        except GenerationError as error:
            self._fail(one.handle, error, 0)
            return
        one.rows_from += len(logits)
        if one.rows_from == one.target:
            start = one.handle.request.score_from or 0
            self._end(one)
            score = Score(likelihood.logprob, likelihood.is_greedy, len(one.ids) - start)
            self._tell(Event(one.handle, score=score, last=True))

    # --- beginnings and ends

    def _arrive(self) -> None:
        while self._arrivals:
            handle, ids = self._arrivals.popleft()
            request = handle.request
            start = request.score_from
            if start is not None and start == len(ids):
                self._live[handle] = []
                self._tell(Event(handle, score=Score(0.0, True, 0), last=True))
                continue
            if request.deadline is not None:
                heapq.heappush(self._deadlines, (handle.begun + request.deadline, handle.number, handle))
            one = self._new(handle, ids, 0)
            one.forks = request.params.n - 1 if start is None else 0
            self._live[handle] = [one]
            self._prompt_tokens += one.target
            self.scheduler.add(one)

    def _new(self, handle: Handle, ids: list[int], answer: int) -> Running:
        request, params = handle.request, handle.request.params
        adapter = self._adapters.find(request.adapter)
        self._made += 1
        place = handle.begun - PATIENCE * request.priority, handle.number, answer
        if request.score_from is not None:
            return Running(
                handle, self._made, answer, ids, place, len(ids) - 1, request.score_from - 1, adapter.salt,
                adapter.number, likelihood=Likelihood(),
            )  # fmt: skip
        if handle.seed is None:
            handle.seed = fresh_seed() if params.seed is None else params.seed
        matcher = handle.language.start() if handle.language is not None else None
        chooser = Chooser(
            params, ids, self._sample, seed=handle.seed, index=answer, processors=request.processors, matcher=matcher
        )
        room = min(params.max_tokens, self._longest - len(ids))
        reply = Reply(params, room, self._new_decoder(), self.stop_ids)
        return Running(
            handle, self._made, answer, ids, place, len(ids), len(ids) - 1, adapter.salt, adapter.number,
            chooser=chooser, reply=reply,
        )  # fmt: skip

    def _end_early(self) -> None:
        """Requests that were cancelled, and those whose time is over."""
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
                said = sum(len(one.ids) - len(handle.request.ids) for one in self._live[handle])
                what = f"the request was not done after {handle.request.deadline:g} s; it had {said:,} new tokens"
                self._fail(handle, DeadlineExceeded(what, "Give it more time, or ask for fewer tokens."))

    def _leave(self, handle: Handle) -> list[Running]:
        answers = self._live.get(handle, [])
        for one in answers:
            self._end(one)
        return answers

    def _fail(self, handle: Handle, error: HornbookError, answer: int = 0) -> None:
        self._leave(handle)
        self._tell(Event(handle, answer, error=error, last=True))

    def _fail_step(self, spans: dict[Running, int], error: Exception) -> None:
        """The executor could not: whoever took part fails, by the executor's words."""
        named = error
        if not isinstance(named, HornbookError):
            named = GenerationError(f"the model failed: {error or type(error).__name__}", "Is there memory enough?")
            named.__cause__ = error
        for handle in dict.fromkeys(one.handle for one in spans):
            self._fail(handle, named)

    def _tell(self, event: Event) -> None:
        if event.last:
            event.handle.done = True
            self._live.pop(event.handle, None)
        self._events.append(event)
