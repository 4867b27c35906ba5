"""Speculation inside the engine: who is given a draft for the next step, and what became of it.

    before a step   forced() of a grammar, else Payoff.plan -> Drafter.propose   -> Running.drafts
    in the step     ids[-1:] + drafts pass the model together, logits for each
    after it        choose, choose, ... as long as the choice is the draft's     -> Running.computed says what is kept

What a grammar forces is a draft too, and a sure one: the fixed parts of a JSON text cost no step of their own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from hornbook.engine.sequence import Running
from hornbook.engine.speculative import Drafter, Payoff


class Speculation:
    """Drafts for the answers under way, at most ``most`` tokens each; without a drafter only what grammars force."""

    def __init__(self, drafter: Drafter | None, most: int) -> None:
        self._drafter = drafter
        self._most = most
        self._payoff = Payoff()
        self._followed: set[Running] = set()
        self.proposed = 0
        self.kept = 0

    def draft(self, running: Sequence[Running], longest: int, spare: int) -> None:
        """Give drafts to those that are between two tokens. No sequence grows beyond ``longest`` tokens, and all drafts
        together have at most ``spare``."""
        ready = [one for one in running if one.reply is not None and one.target - one.computed == 1]
        rooms = []
        for one in ready:
            assert one.reply is not None
            one.drafts, one.chances = (), None
            rooms.append(max(0, min(one.reply.room - 1, longest - len(one.ids))))
        free = []
        for place, one in enumerate(ready):
            matcher = one.chooser.matcher if one.chooser is not None else None
            forced = matcher.forced() if matcher is not None and rooms[place] else []
            if forced:
                one.drafts = forced[: min(rooms[place], spare)]
                spare -= len(one.drafts)
            else:
                free.append(place)
        if self._drafter is not None and free:
            self._guess([ready[place] for place in free], [rooms[place] for place in free], spare)

    def _guess(self, ready: Sequence[Running], rooms: Sequence[int], spare: int) -> None:
        assert self._drafter is not None
        for one in ready:
            if one not in self._followed:
                self._followed.add(one)
                params = replace(one.handle.request.params, seed=one.handle.seed)
                self._drafter.start(one.number, one.ids, params, one.answer)
        keys = [one.number for one in ready]
        counts = self._payoff.plan(keys, self._most)
        wanted = []
        for place, (count, room) in enumerate(zip(counts, rooms, strict=True)):
            count = min(count, room, spare)
            if count > 0:
                wanted.append((place, count))
                spare -= count
        if not wanted:
            return
        begun = time.perf_counter()
        drafts = self._drafter.propose([keys[place] for place, _ in wanted], [count for _, count in wanted])
        self._payoff.drafted(sum(len(draft.tokens) for draft in drafts), time.perf_counter() - begun)
        for (place, count), draft in zip(wanted, drafts, strict=True):
            one = ready[place]
            one.drafts = draft.tokens[:count]
            # Who asked for a seed is promised one answer, and gets it by agreement.
            one.chances = draft.probabilities if one.handle.request.params.seed is None else None

    def judged(self, one: Running, chosen: Sequence[int], kept: int) -> None:
        """These tokens were chosen in a step, the first ``kept`` of them as drafted."""
        self.proposed += len(one.drafts)
        self.kept += kept
        if self._drafter is not None and one in self._followed:
            self._drafter.accept(one.number, chosen)
            if one.drafts:
                self._payoff.judged(one.number, len(one.drafts), kept)

    def took(self, tokens: int, seconds: float) -> None:
        """A step that only continued answers."""
        if self._drafter is not None:
            self._payoff.took(tokens, seconds)

    def forget(self, one: Running) -> None:
        if one in self._followed and self._drafter is not None:
            self._followed.discard(one)
            self._drafter.forget(one.number)
            self._payoff.forget(one.number)
