"""Speculation inside the engine: who is given a draft for the next step, and what became of it.

    before a step   forced() of a grammar, else Payoff.plan -> Drafter.propose   -> Running.drafts
    in the step     ids[-1:] + drafts pass the model together, logits for each
    after it        choose, choose, ... as long as the choice is the draft's     -> Running.computed says what is kept

What a grammar forces is a draft too, and a sure one: the fixed parts of a JSON text cost no step of their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from hornbook.engine.sequence import Running
from hornbook.engine.speculative import Drafter, Payoff

log = logging.getLogger("hornbook")


class Speculation:
    """Drafts for the answers under way, at most ``most`` tokens each; without a drafter only what grammars force."""

    def __init__(self, drafter: Drafter | None, most: int) -> None:
        self._drafter = drafter
        self._most = most
        self._payoff = Payoff()
        self._followed: set[Running] = set()
        self._guessed: set[Running] = set()  # whose drafts of this step are guesses
        self.proposed = 0
        self.kept = 0

    def draft(self, running: Sequence[Running], longest: int, spare: int) -> None:
        """Give drafts to those that are between two tokens. No sequence grows beyond ``longest`` tokens, and all drafts
        together have at most ``spare``."""
        ready = [one for one in running if one.reply is not None and one.target - one.computed == 1 and not one.forks]
        spare = max(0, spare)
        rooms = []
        self._guessed.clear()
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
            try:
                self._guess(self._drafter, [ready[place] for place in free], [rooms[place] for place in free], spare)
            except Exception as error:  # what guesses must not stop what answers
                log.warning("nothing is drafted any more: %s", error)
                self._give_up()

    def _guess(self, drafter: Drafter, ready: Sequence[Running], rooms: Sequence[int], spare: int) -> None:
        for one in ready:
            if one not in self._followed:
                self._followed.add(one)
                prompt = len(one.handle.request.ids)
                drafter.start(one.number, one.ids[:prompt], one.handle.request.params, one.answer)
                drafter.accept(one.number, one.ids[prompt:])
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
        drafts = drafter.propose([keys[place] for place, _ in wanted], [count for _, count in wanted])
        self._payoff.drafted(sum(len(draft.tokens) for draft in drafts), time.perf_counter() - begun)
        for (place, count), draft in zip(wanted, drafts, strict=True):
            one = ready[place]
            matcher = one.chooser.matcher if one.chooser is not None else None
            if matcher is not None:
                legal = matcher.legal(draft.tokens[:count])
                # One that was drawn has to be refused by the rule: to leave it out would favour what the drafter favours.
                count = min(count, legal + (draft.probabilities is not None))
            one.drafts = draft.tokens[:count]
            one.chances = draft.probabilities
            self._guessed.add(one)

    def judged(self, one: Running, chosen: Sequence[int], kept: int) -> None:
        """These tokens were chosen in a step, the first ``kept`` of them as drafted."""
        self.proposed += len(one.drafts)
        self.kept += kept
        if self._drafter is not None and one in self._followed:
            self._drafter.accept(one.number, chosen)
            if one.drafts and one in self._guessed:
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

    def begin_anew(self) -> None:
        """Follow nobody any more, whatever the books say."""
        self._followed, self._guessed, self._payoff = set(), set(), Payoff()
        if self._drafter is not None:
            self._drafter.begin_anew()

    def _give_up(self) -> None:
        drafter, self._drafter = self._drafter, None
        self._followed.clear()
        if drafter is not None:
            drafter.close()

    def close(self) -> None:
        self._give_up()
