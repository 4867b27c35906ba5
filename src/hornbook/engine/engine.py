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

import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from hornbook.engine.adapters import Adapters
from hornbook.engine.budget import step_within
from hornbook.engine.choose import Choice, Chooser, Draw, NativeSample, Sample, sample
from hornbook.engine.executor import PAGE, Executor, Floats, Stopped
from hornbook.engine.grammar import Compiled, Vocabulary, of_params
from hornbook.engine.likelihood import judge
from hornbook.engine.pages import Pages
from hornbook.engine.reply import Decoder, Reply
from hornbook.engine.requests import Event, Handle, Request, checked_request
from hornbook.engine.scheduler import PATIENCE, Scheduler, wanted_rows
from hornbook.engine.sequence import Likelihood, Running
from hornbook.engine.speculating import Speculation
from hornbook.engine.speculative import Drafter, Probabilities
from hornbook.engine.stats import Stats
from hornbook.engine.underway import UnderWay
from hornbook.engine.uniforms import fresh_seed
from hornbook.errors import GenerationError, ModelClosed, UsageError
from hornbook.forking import lock
from hornbook.kernels.library import Library

LOGITS_BYTES = 64 * 2**20  # what the logits of one step may take; but a row for each answer there always is


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
        """Raises UsageError with the numbers where ``memory`` does not do for the smallest step, or a number makes no sense."""
        if max_running < 1 or step_tokens < PAGE or drafts < 0:
            raise UsageError(
                f"an engine with {max_running} answers at once, steps of {step_tokens} tokens and drafts of {drafts} cannot run",
                f"It needs at least 1 answer, {PAGE} tokens and 0.",
            )
        self.executor = executor
        self.vocab_size = vocab_size
        self.stop_ids = stop_ids
        self.context_length = min(context_length or executor.context_length, executor.context_length)
        self._longest = min(self.context_length, PAGE * executor.pages)  # tokens of one sequence
        self._new_decoder = new_decoder
        self._vocabulary = vocabulary
        self._lock = lock()  # of submission alone
        self._clock = clock
        self._sample: Sample = NativeSample(kernels) if kernels is not None else sample
        self._kernels = kernels
        self.pages = Pages(executor.pages, share=share)
        rows = max(max_running, LOGITS_BYTES // (4 * executor.vocab_size))
        wished, step_tokens = step_tokens, step_within(executor, memory, step_tokens, rows)
        self.scheduler = Scheduler(
            self.pages,
            max_running=max_running if step_tokens == wished else min(max_running, step_tokens),
            step_tokens=step_tokens,
            max_rows=rows,
            context_length=self.context_length,
        )
        self._arrivals: deque[tuple[Handle, list[int]]] = deque()
        self._adapters = Adapters(executor)
        self._speculation = Speculation(drafter, drafts)
        self._under_way = UnderWay(self.scheduler, self._speculation, clock)
        self._made = 0
        self._submitted = 0
        self._taking_part: tuple[Handle, ...] = ()  # in the step that runs
        self._chosen: dict[Running, tuple[Draw, int, float]] = {}  # in this step, for those whose turn it is not yet
        self._closed = False
        self._steps = self._prompt_tokens = self._computed = 0
        self._seconds = 0.0

    # --- requests

    def submit(self, request: Request, known: Callable[[Handle], None] | None = None) -> Handle:
        """Put a request in the line. ``known`` is given its handle before anything can happen to it.

        Raises UsageError, ContextTooLong or ModelClosed here, before any work.
        """
        self._open()
        ids = checked_request(
            request, vocab_size=self.vocab_size, context_length=self.context_length, pages=self.pages.count
        )
        self._adapters.find(request.adapter)
        language = self._language(request)
        with self._lock:
            self._submitted += 1
            handle = Handle(request, self._submitted, self._clock(), language=language)
        if known is not None:
            known(handle)
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
        """Stop a request: at the next step its answers end with "cancelled". One that is over is left alone. A step that runs
        for cancelled requests alone is not waited for."""
        self._under_way.cancel(handle)
        if (running := self._taking_part) and all(one.cancelled for one in running):
            self.executor.stop()

    def stop(self) -> None:
        """From any thread: the step under way ends as soon as it can, and nothing has come of it."""
        self.executor.stop()

    @property
    def has_work(self) -> bool:
        return bool(self._arrivals or self._under_way.answers or self._under_way.events)

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Free the model's memory. Not while a step runs; later use raises ModelClosed."""
        if not self._closed:
            self._closed = True
            self._speculation.close()
            self._arrivals.clear()
            self._under_way.answers.clear()
            self.executor.close()

    def begin_anew(self) -> None:
        """Forget all requests, answers and pages, whatever state a step has left them in, without a word to anybody: for
        the child of a fork, where the thread that stepped is no more. Adapters and counts stay."""
        if self._closed:
            return
        self._arrivals.clear()
        self._taking_part = ()
        self._speculation.begin_anew()
        self.scheduler.begin_anew()
        told = self._under_way.new_tokens
        self._under_way = UnderWay(self.scheduler, self._speculation, self._clock)
        self._under_way.new_tokens = told

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
            new_tokens=self._under_way.new_tokens,
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
        waiting = [handle for handle, _ in tuple(self._arrivals)]  # which another thread may lengthen meanwhile
        self._adapters.remove(name, [handle.request.adapter for handle in [*self._under_way.answers, *waiting]])

    # --- a step

    def step(self) -> list[Event]:
        """One pass of the model for everybody whose turn it is; -> what happened. Raises ModelClosed."""
        self._open()
        begun = time.perf_counter()
        try:
            self._arrive()
            self._under_way.end_early()
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
        return self._under_way.fetch()

    @property
    def pending_cancels(self) -> bool:
        return self._under_way.pending_cancels

    def sweep(self) -> list[Event]:
        """End what was cancelled, and what is too late, without a pass of the model. Not while a step runs."""
        self._arrive()
        self._under_way.end_early()
        return self._under_way.fetch()

    def _run(self, spans: dict[Running, int]) -> None:
        batch = self.scheduler.batch(spans)
        self._steps += 1
        begun = time.perf_counter()
        self._taking_part = tuple(dict.fromkeys(one.handle for one in spans))
        try:
            logits = self.executor.run(batch)[:, : self.vocab_size]
        except Stopped:
            return
        except Exception as error:
            for handle in dict.fromkeys(one.handle for one in spans):
                self._under_way.fail(handle, error)
            return
        finally:
            self._taking_part = ()
        if all(tokens == 1 + len(one.drafts) for one, tokens in spans.items()):
            self._speculation.took(len(batch.ids), time.perf_counter() - begun)
        self._computed += len(batch.ids)
        self._chosen = self._choose_together(spans, logits)
        row = 0
        for one, tokens in spans.items():
            rows = wanted_rows(one, tokens)
            own, row = logits[row : row + rows], row + rows
            if one.handle.done:  # another of its answers has just failed
                continue
            one.computed += tokens - len(one.drafts)
            if one.computed // PAGE > one.known:
                self.scheduler.publish(one)
            try:
                if rows and one.likelihood is not None:
                    self._judge(one, own)
                elif one.drafts:
                    self._continue(one, own)
                elif rows:
                    self._speak(one, own[0])
            except Exception as error:  # its logits, its grammar, a processor of its own
                self._under_way.fail(one.handle, error, one.answer)
            except BaseException:  # what it has said in part it cannot say again; the others have said all or nothing
                what = "the step was interrupted while this answer was being written"
                self._under_way.fail(one.handle, GenerationError(what, "Ask again."), one.answer)
                raise

    def _choose_together(self, spans: dict[Running, int], logits: Floats) -> dict[Running, tuple[Draw, int, float]]:
        """What the kernels choose for those who are given one token, side by side. Others choose when it is their turn, and
        so does one whose choice cannot be prepared: what is wrong with it is said then."""
        found: dict[Running, Draw] = {}
        row = 0
        if isinstance(self._sample, NativeSample) and len(spans) > 1:
            for one, tokens in spans.items():
                rows = wanted_rows(one, tokens)
                if rows and one.chooser is not None and not (one.drafts or one.forks or one.chooser.has_processors):
                    with suppress(Exception):
                        found[one] = one.chooser.draw(one.ids, logits[row])
                row += rows
        if len(found) < 2:
            return {}
        results = self._sample.rows(list(found.values()))  # type: ignore[attr-defined]
        return {one: (draw, *result) for (one, draw), result in zip(found.items(), results, strict=True)}

    def _speak(self, one: Running, logits: Floats) -> None:
        """Choose its next token and, where its prompt has just ended, the first of the answers that begin there."""
        twins = self._fork(one) if one.forks else ()
        for answer in (one, *twins):
            choice = self._choose(answer, logits)
            self._under_way.hear(answer, choice)
            self._speculation.judged(answer, [choice.id], 0)

    def _continue(self, one: Running, logits: Floats) -> None:
        """Choose as many tokens as the draft guessed right, and one more."""
        drafts, chosen, kept = one.drafts, [], 0
        for place, row in enumerate(logits):
            guess = drafts[place] if place < len(drafts) else None
            chances = one.chances[place] if one.chances is not None and guess is not None else None
            choice = self._choose(one, row, guess, chances)
            chosen.append(choice.id)
            going = self._under_way.hear(one, choice)
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
    ) -> Choice:
        chooser = one.chooser
        assert chooser is not None
        if drawn := self._chosen.pop(one, None):
            choice = chooser.chosen(*drawn)
        else:
            choice = chooser.choose(one.ids, logits, guess, chances)
        chooser.accept(choice.id)
        return choice

    def _fork(self, one: Running) -> list[Running]:
        twins = []
        for answer in range(1, one.forks + 1):
            twin = self._new(one.handle, list(one.ids), answer)
            copy = self.scheduler.fork(one, twin, one.computed)
            self._under_way.answers[one.handle].append(twin)
            if copy is not None:
                self.executor.copy_page(*copy)
            twins.append(twin)
        one.forks = 0
        return twins

    def _judge(self, one: Running, logits: Floats) -> None:
        likelihood, request = one.likelihood, one.handle.request
        assert likelihood is not None and request.score_from is not None
        first = one.rows_from + 1
        if first == request.score_from and one.answer == 0 and request.others:
            self._branch(one, logits[:1])
        judge(likelihood, logits, one.ids[first : first + len(logits)], self._kernels)
        one.rows_from += len(logits)
        if one.rows_from == one.target:
            score = likelihood.score(len(one.ids) - request.score_from)
            self._under_way.judged(one.handle, one.answer, score, one)

    def _branch(self, one: Running, logits: Floats) -> None:
        """The other continuations of its context begin, of which the first token is judged by the same logits [1, V]."""
        handle, start = one.handle, one.rows_from + 1
        for answer, other in enumerate(handle.request.others, 1):
            twin = self._new(handle, [*one.ids[:start], *other], answer)
            twin.rows_from = start
            assert twin.likelihood is not None
            judge(twin.likelihood, logits, other[:1], self._kernels)
            if len(other) == 1:
                self._under_way.judged(handle, answer, twin.likelihood.score(1))
                continue
            copy = self.scheduler.fork(one, twin, start)
            self._under_way.answers[handle].append(twin)
            if copy is not None:
                self.executor.copy_page(*copy)
        one.forks = 0

    # --- beginnings

    def _arrive(self) -> None:
        while self._arrivals:
            handle, ids = self._arrivals.popleft()
            if handle.cancelled:  # before it began: nobody looks for it any more
                self._under_way.never_begun(handle)
                continue
            start = handle.request.score_from
            if start == len(ids):
                self._under_way.nothing_to_judge(handle)
                continue
            try:
                one = self._new(handle, ids, 0)
            except Exception as error:
                self._under_way.fail(handle, error)
                continue
            several = sum(len(other) > 1 for other in handle.request.others)
            one.forks = handle.request.params.n - 1 if start is None else several
            self._prompt_tokens += one.target
            self._under_way.begin(one)

    def _new(self, handle: Handle, ids: list[int], answer: int) -> Running:
        request, params = handle.request, handle.request.params
        adapter = self._adapters.find(request.adapter)
        self._made += 1
        place = handle.begun - PATIENCE * request.priority, handle.number, answer
        if request.score_from is not None:
            return Running(
                handle, self._made, answer, ids, place, len(ids) - 1, request.score_from - 1, adapter.salt,
                adapter.number, likelihood=Likelihood(params.top_logprobs),
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
