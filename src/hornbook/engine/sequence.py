"""One answer under way: its tokens, how many of them are in its pages, and what is wanted of the next pass.

ids        [ prompt ............ | answer ...... ]            drafts  [ x y ]
pages      [ 0..15 ][ 16..31 ][ 32..          ]
computed   ------------------------->|                       the next step takes ids[computed:], then the drafts
rows_from  the first position whose logits are wanted: the last of the prompt, or where a likelihood begins
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from hornbook.engine.choose import Chooser
from hornbook.engine.reply import Reply
from hornbook.engine.requests import Handle
from hornbook.engine.speculative import Probabilities
from hornbook.types import Score

Place: TypeAlias = "tuple[float, int, int]"  # in the line: (virtual arrival, number of the request, which answer)


@dataclass(slots=True)
class Likelihood:
    """What is known so far of ids[start:], judged token by token. ``top``: how many of the likeliest to tell of each."""

    top: int = 0
    logprob: float = 0.0
    is_greedy: bool = True
    logprobs: list[float] = field(default_factory=list)
    likeliest: list[tuple[tuple[int, float], ...]] = field(default_factory=list)

    def score(self, tokens: int) -> Score:
        if not self.top:
            return Score(self.logprob, self.is_greedy, tokens)
        return Score(self.logprob, self.is_greedy, tokens, tuple(self.logprobs), tuple(self.likeliest))


@dataclass(eq=False, slots=True)
class Running:
    """The state of one answer, or of one likelihood. The scheduler owns the fields below the line."""

    handle: Handle
    number: int  # no other sequence of the engine has it
    answer: int
    ids: list[int]
    place: Place
    target: int  # how many tokens must pass the model before something is known: all, or all but the last judged one
    rows_from: int
    salt: Hashable = ""
    adapter: int = -1
    chooser: Chooser | None = None
    reply: Reply | None = None
    likelihood: Likelihood | None = None
    forks: int = 0  # answers that begin where this one's prompt ends, likelihoods that begin where its context does
    # ------------------------------------------------------------------------------------
    pages: list[int] = field(default_factory=list)
    computed: int = 0  # tokens whose keys and values are in the pages
    known: int = 0  # full pages that were made known
    slot: int = -1  # row of the table of pages; -1: waiting
    drafts: Sequence[int] = ()  # tokens that may follow ids, to be judged in the same step
    chances: Probabilities | None = None  # [len(drafts), V]: what they were sampled from

    def __lt__(self, other: Running) -> bool:
        return self.place < other.place

    def extend(self, id: int) -> None:
        self.ids.append(id)
        self.rows_from = len(self.ids) - 1
        self.target = len(self.ids)
