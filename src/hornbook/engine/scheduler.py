"""Who takes part in the next step, with how many tokens; who waits; who must give way.

    waiting  --admitted: pages for all its tokens are there-->  running  --finished-->
             <--preempted: a page was wanted by one before it--

A step is given at most ``step_tokens`` tokens. Answers under way come first, one token each (and its drafts); what is left
goes to prompts, cut at page borders, in the order of the line:

    step n      a b c d e f g h | P P P P P P P P P P        8 answers, a chunk of a prompt
    step n + 1  a b c d e f g h | P P P Q Q Q Q Q Q Q        its end and the beginning of the next

*The line.* A request's place is the time of its arrival less ``PATIENCE`` seconds for each unit of priority. The order is
fixed when it comes, so that a high priority passes others, and none of them waits for ever: later arrivals of any
priority stand behind it in the end.

*Giving way.* Only answers that grow want pages beyond those they were admitted with. Where there are none, the last of the
line gives its pages back and waits; it is computed again later, mostly from pages that are still known. The first of the
line never gives way, and it fits in the cache alone; so something always ends.

*Sharing.* A prompt whose next page is being computed by another in the same step waits for it, and then takes that page.
"""

from __future__ import annotations

from bisect import insort

import numpy as np

from hornbook.engine.executor import PAGE, Batch, Ints
from hornbook.engine.pages import Key, Pages, pages_of
from hornbook.engine.sequence import Running

PATIENCE = 10.0  # seconds that one unit of priority is worth


class Scheduler:
    """Running and waiting sequences, both in the order of the line, and the pages of those that run."""

    def __init__(self, pages: Pages, *, max_running: int, step_tokens: int, max_rows: int, context_length: int) -> None:
        self.pages = pages
        self.max_running = max_running
        self.step_tokens = step_tokens
        self.max_rows = max_rows  # of logits, in one step
        self.waiting: list[Running] = []
        self.running: list[Running] = []
        self.preemptions = 0
        # Slot s holds the pages of the sequence there, as the executor wants them.
        self._tables: Ints = np.zeros((max_running, min(pages.count, pages_of(context_length))), np.int32)
        self._slots = list(range(max_running))
        self._range: Ints = np.arange(max_running, dtype=np.int32)
        self._refused: tuple[Running, int] | None = None  # who could not be admitted, and when

    # --- coming and going

    def add(self, one: Running) -> None:
        insort(self.waiting, one)

    def remove(self, one: Running, *, doubtful: bool = False) -> None:
        """It is finished, or nobody wants it any more. ``doubtful``: nor what its pages hold."""
        if doubtful:
            self.pages.distrust(one.pages)
        if one.slot >= 0:
            self._leave(one)
        else:
            self.waiting.remove(one)

    def fork(self, one: Running, twin: Running, length: int) -> tuple[int, int] | None:
        """Let ``twin`` go on after the first ``length`` tokens of ``one``: at once where there is room, later otherwise.

        -> (source, target) of a page to be copied now, or None.
        """
        forked = None
        if len(self.running) < self.max_running:
            forked = self.pages.fork(one.pages, length)
        if forked is None:
            self.add(twin)
            return None
        table, copy = forked
        missing = pages_of(twin.target) - len(table)
        own = self.pages.take(missing) if self.pages.available - missing >= len(self.running) or not missing else None
        if own is None:
            self.pages.release(table)
            self.add(twin)
            return None
        twin.pages = table + own
        twin.computed, twin.known = length, length // PAGE
        self._enter(twin)
        return copy

    def truncate(self, one: Running, computed: int) -> None:
        """Only so many of its tokens are in its pages; drafts beyond were not what came."""
        one.computed = computed
        if pages_of(computed) < len(one.pages):
            self.pages.truncate(one.pages, computed)

    def publish(self, one: Running) -> None:
        """Make known the pages that its tokens have filled since the last time."""
        for index in range(one.known, one.computed // PAGE):
            self.pages.publish(one.pages, index, one.ids, one.salt)
            self._tables[one.slot, index] = one.pages[index]
        one.known = one.computed // PAGE

    def _enter(self, one: Running) -> None:
        one.slot = self._slots.pop()
        self._tables[one.slot, : len(one.pages)] = one.pages
        insort(self.running, one)

    def _leave(self, one: Running) -> None:
        self.running.remove(one)
        self._slots.append(one.slot)
        one.slot = -1
        self.pages.release(one.pages)

    def _preempt(self, one: Running, spans: dict[Running, int]) -> None:
        """Back to the line, with its tokens and without its pages."""
        spans.pop(one, None)
        self._leave(one)
        one.computed = one.known = 0
        one.drafts = ()
        self.preemptions += 1
        insort(self.waiting, one)

    def restart(self) -> None:
        """Nothing is known of the pages any more: all begin anew, with the tokens they have."""
        self.pages.reset()
        self._slots = list(range(self.max_running))
        for one in self.running:
            one.pages.clear()
            one.computed = one.known = 0
            one.slot, one.drafts = -1, ()
        self.waiting = sorted({*self.waiting, *self.running})
        self.running = []
        self._refused = None

    def begin_anew(self) -> None:
        """Nobody waits or runs any more, whatever the books say."""
        self.waiting, self.running = [], []
        self.restart()

    # --- the next step

    def schedule(self) -> dict[Running, int]:
        """Who takes part, with how many tokens. Their pages are there."""
        spans: dict[Running, int] = {}
        rows = 0
        for one in self.running:  # only its end changes meanwhile
            if one.target - one.computed == 1:
                if one.computed + 1 + len(one.drafts) > PAGE * len(one.pages) and not self._grow(one, spans):
                    break
                spans[one] = 1 + len(one.drafts)
                rows += spans[one]
        budget = max(self.step_tokens - rows, PAGE)  # however many answers there are, prompts go on
        claims: set[Key] = set()
        for one in self.running:
            if one not in spans and budget > 0:
                budget -= self._chunk(one, budget, spans, claims)
        while self.waiting and budget > 0 and self._admit(spans):
            budget -= self._chunk(self._admitted, budget, spans, claims)
        return spans

    def _grow(self, one: Running, spans: dict[Running, int]) -> bool:
        """Give it the pages that its next tokens need, whoever loses them; False where it lost its own."""
        while True:
            missing = pages_of(one.computed + 1 + len(one.drafts)) - len(one.pages)
            if (taken := self.pages.take(missing)) is not None:
                begin = len(one.pages)
                one.pages += taken
                self._tables[one.slot, begin : begin + missing] = taken
                return True
            if one.drafts:
                one.drafts = ()
                if one.computed < PAGE * len(one.pages):
                    return True
                continue
            last = self.running[-1]
            self._preempt(last, spans)
            if last is one:
                return False

    def _chunk(self, one: Running, budget: int, spans: dict[Running, int], claims: set[Key]) -> int:
        """Let a prompt take part with at most ``budget`` tokens; -> with how many."""
        self._find(one)
        first, limit = one.computed, shareable(one)
        if first % PAGE == 0 and first + PAGE <= limit and self.pages.share:
            key = self.pages.key(one.pages[: first // PAGE], one.ids, one.salt)
            if key in claims:
                return 0
            claims.add(key)
        end = min(one.target, first + budget)
        free_rows = self.max_rows - sum(wanted_rows(other, count) for other, count in spans.items())
        if end - max(first, one.rows_from) > free_rows:
            end = max(first, one.rows_from) + free_rows
        if end < one.target and (border := end // PAGE * PAGE) > first:
            end = border
        if end <= first:
            return 0
        spans[one] = end - first
        return end - first

    def _find(self, one: Running) -> None:
        """Take the pages that others have made known since it was admitted, in the place of its own empty ones."""
        while one.computed % PAGE == 0:
            index = one.computed // PAGE
            page = self.pages.known_after(one.pages[:index], one.ids, one.salt, shareable(one))
            if page is None:
                return
            self.pages.exchange(one.pages, index, page)
            self._tables[one.slot, index] = page
            one.computed += PAGE
            one.known = index + 1
            self.pages.hit_tokens += PAGE
            one.handle.cached += PAGE

    def _admit(self, spans: dict[Running, int]) -> bool:
        """Let the first that waits run, if it has a place and pages for all its tokens; ``_admitted`` is it then."""
        one = self.waiting[0]
        if self._refused == (one, self.pages.changes):
            return False
        while not self._fits(one):
            last = self.running[-1]
            if not (one < last and one.handle.request.priority > last.handle.request.priority):
                self._refused = one, self.pages.changes
                return False
            self._preempt(last, spans)
        self.waiting.remove(one)
        self._admitted = one
        self._enter(one)
        return True

    def _fits(self, one: Running) -> bool:
        """Take its pages, known ones first. One page for each that runs stays untouched, so that it may grow."""
        places = self.max_running - len(self.running) - sum(promised(other) for other in self.running)
        if places < 1 or (self.running and promised(one) >= places):
            return False
        table = self.pages.match(one.ids, one.salt, shareable(one))
        missing = pages_of(one.target) - len(table)
        if self.pages.available - missing < len(self.running) or (own := self.pages.take(missing)) is None:
            self.pages.release(table)
            return False
        one.computed = PAGE * len(table)
        one.known = len(table)
        one.pages = table + own
        self.pages.hit_tokens += one.computed
        one.handle.cached = min(one.computed, len(one.handle.request.ids))
        return True

    # --- what the executor is given

    def batch(self, spans: dict[Running, int]) -> Batch:
        """The arrays of a step. With a token for each they are made with few calls: the memory is cold after a step."""
        count = len(spans)
        ends = [one.computed + tokens for one, tokens in spans.items()]
        slots = [one.slot for one in spans]
        lengths = np.array(ends, np.int32)
        wide = pages_of(max(ends))
        pages = self._tables[slots[0] : slots[0] + 1, :wide] if count == 1 else self._tables[slots, :wide]
        numbers = [one.adapter for one in spans]
        adapters = np.array(numbers, np.int32) if max(numbers) >= 0 else None
        if sum(spans.values()) == count:
            sequence = select = self._range[:count]
            ids = np.array([one.ids[one.computed] for one in spans], np.int32)
            if any(one.rows_from > one.computed for one in spans):
                select = np.flatnonzero([one.rows_from <= one.computed for one in spans]).astype(np.int32)
            return Batch(ids, lengths - 1, sequence, pages, lengths, select, adapters)
        counts = np.fromiter(spans.values(), np.int32, count)
        sequence = np.repeat(np.arange(count, dtype=np.int32), counts)
        begins = np.cumsum(counts, dtype=np.int32) - counts
        positions = np.arange(len(sequence), dtype=np.int32) + np.repeat(lengths - counts - begins, counts)
        ids = np.fromiter(
            (id for one, tokens in spans.items() for id in given(one, tokens)), np.int32, len(sequence)
        )  # fmt: skip
        rows_from = np.fromiter((one.rows_from for one in spans), np.int32, count)
        select = np.flatnonzero(positions >= np.repeat(rows_from, counts)).astype(np.int32)
        of_tokens = None if adapters is None else np.repeat(adapters, counts)
        return Batch(ids, positions, sequence, np.ascontiguousarray(pages), lengths, select, of_tokens)

    def check(self) -> None:
        """Hold all books against each other. Raises AssertionError where they differ."""
        self.pages.check(one.pages for one in self.running)
        assert sorted([*self._slots, *(one.slot for one in self.running)]) == list(range(self.max_running))
        assert self.running == sorted(self.running) and self.waiting == sorted(self.waiting)
        assert not set(self.running) & set(self.waiting)
        for one in self.waiting:
            assert not one.pages and one.slot == -1 and one.computed == one.known == 0
        for one in self.running:
            assert one.known * PAGE <= one.computed <= PAGE * len(one.pages)
            assert self._tables[one.slot, : len(one.pages)].tolist() == one.pages


def shareable(one: Running) -> int:
    """How many of its first tokens may come from the cache: those before the first whose logits are wanted."""
    return one.rows_from


def promised(one: Running) -> int:
    """How many likelihoods will go on from its context, and want a place then."""
    return one.forks if one.likelihood is not None else 0


def wanted_rows(one: Running, tokens: int) -> int:
    """Rows of logits that its next so many tokens give."""
    return max(0, one.computed + tokens - max(one.computed, one.rows_from))


def given(one: Running, tokens: int) -> list[int]:
    """Its next so many tokens, drafts included."""
    own = one.ids[one.computed : one.computed + tokens]
    return [*own, *one.drafts] if one.drafts else own
