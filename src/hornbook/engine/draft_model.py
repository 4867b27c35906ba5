"""A small model that drafts for a large one: the same tokens, an executor and pages of its own, all sequences at once.

    cached  [ prompt .... | answer ... | x y ]     x y z was the last draft; z never passed the draft model
    ids     [ prompt .... | answer ... | x w ]     w came instead of y: y is taken back, w is read with the next draft

How it guesses follows from how the answer is chosen. Greedy: its own best. With a seed: its own choice for the very random
number that the model's choice will be made with, to be judged by agreement. With neither: sampled from its own
probabilities after the same temperature, top-k, top-p and min-p, which go with the draft.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hornbook.engine.choose import Sample, filtered, sample
from hornbook.engine.executor import Batch, Executor, Floats
from hornbook.engine.pages import Pages, pages_of
from hornbook.engine.speculative import NOTHING, Draft, Probabilities
from hornbook.engine.uniforms import fresh_seed, uniform
from hornbook.errors import UsageError
from hornbook.text.tokenizer import Tokenizer
from hornbook.types import SamplingParams


@dataclass(eq=False, slots=True)
class _Sequence:
    """One sequence as the draft model knows it."""

    ids: list[int]
    params: SamplingParams
    sample: int
    prompt_length: int
    cached: list[int] = field(default_factory=list)  # the tokens whose keys and values are in the pages
    pages: list[int] = field(default_factory=list)
    draft: list[int] = field(default_factory=list)
    chances: list[Probabilities] = field(default_factory=list)


class ModelDrafter:
    """Drafts with the model of an executor, which it owns. For the thread that steps the engine.

    vocab_size: the width of the logits that guesses are judged by.  step_tokens: of prompts, in one pass.
    """

    def __init__(
        self,
        executor: Executor,
        tokenizer: Tokenizer,
        target: Tokenizer,
        *,
        vocab_size: int | None = None,
        step_tokens: int = 512,
        draw: Sample = sample,
    ) -> None:
        """Raises UsageError where the two tokenizers are not the same: ids would mean something else."""
        check_equal(tokenizer, target)
        self.vocab_size = vocab_size or target.vocab_size
        if executor.vocab_size < self.vocab_size:
            raise UsageError(
                f"the draft model knows {executor.vocab_size:,} tokens, the model {self.vocab_size:,}",
                "Use a draft model of the same family and release.",
            )
        self._executor = executor
        self._step_tokens = step_tokens
        self._draw = draw
        self._pages = Pages(executor.pages, share=False)
        self._sequences: dict[int, _Sequence] = {}
        self._seed, self._drawn = fresh_seed(), 0

    # --- the life of a sequence

    def start(self, key: int, ids: Sequence[int], params: SamplingParams, sample: int = 0) -> None:
        quiet = replace(params, logprobs=False, top_logprobs=0)
        self._sequences[key] = _Sequence(list(ids), quiet, sample, len(ids))

    def accept(self, key: int, ids: Sequence[int]) -> None:
        one = self._sequences[key]
        same = len(one.ids)
        for id in ids:
            if same >= len(one.cached) or one.cached[same] != id:
                break
            same += 1
        one.ids += ids
        if same < len(one.cached):
            self._take_back(one, same)

    def forget(self, key: int) -> None:
        if (one := self._sequences.pop(key, None)) is not None:
            self._pages.release(one.pages)

    def begin_anew(self) -> None:
        self._sequences = {}
        self._pages.reset()

    def close(self) -> None:
        self._sequences.clear()
        self._executor.close()

    def _take_back(self, one: _Sequence, length: int) -> None:
        del one.cached[length:]
        self._pages.truncate(one.pages, length)

    # --- drafts

    def propose(self, keys: Sequence[int], counts: Sequence[int]) -> list[Draft]:
        """A draft for each; an empty one where the model's context or its pages do not reach."""
        several = [self._sequences[key] for key in keys]
        wanted: dict[_Sequence, int] = {}
        for one, count in zip(several, counts, strict=True):
            one.draft, one.chances = [], []
            if len(one.cached) == len(one.ids):  # asked again without a token in between
                self._take_back(one, len(one.ids) - 1)
            if count and self._has_room(one, len(one.ids) + count - 1):
                wanted[one] = count
        self._read(wanted)
        while wanted:
            logits = self._run(wanted, {one: self._next(one) for one in wanted})
            for one, row in zip(list(wanted), logits, strict=True):
                if not self._guess(one, row) or len(one.draft) == wanted[one]:
                    del wanted[one]
        return [
            Draft(one.draft, np.stack(one.chances) if one.chances else None) if one.draft else NOTHING
            for one in several
        ]

    def _has_room(self, one: _Sequence, length: int) -> bool:
        """Whether so many tokens fit its context and pages; the pages are its own then."""
        if length > self._executor.context_length:
            return False
        taken = self._pages.take(max(0, pages_of(length) - len(one.pages)))
        one.pages += taken or ()
        return taken is not None

    def _read(self, several: Iterable[_Sequence]) -> None:
        """Pass on what is new of each but its last step_tokens, so that one pass more will do for all."""
        waiting = list(several)
        while sum(len(self._next(one)) for one in waiting) > max(self._step_tokens, len(waiting)):
            spans: dict[_Sequence, list[int]] = {}
            budget = self._step_tokens
            for one in waiting:
                part = self._next(one)[:-1][:budget]
                if part:
                    spans[one] = part
                    budget -= len(part)
            self._run((), spans)

    def _next(self, one: _Sequence) -> list[int]:
        """What has not passed the model: of its tokens, then of its draft."""
        known = len(one.cached)
        if known < len(one.ids):
            return one.ids[known:] + one.draft
        return one.draft[known - len(one.ids) :]

    def _run(self, wanted: Iterable[_Sequence], spans: dict[_Sequence, list[int]]) -> Floats:
        """Append tokens to sequences; -> logits [R, V] after the last one of each that is wanted."""
        counts = np.array([len(part) for part in spans.values()], np.int32)
        begins = np.array([len(one.cached) for one in spans], np.int32)
        ends = np.cumsum(counts, dtype=np.int32)
        chosen = set(wanted)
        tables = np.zeros((len(spans), max(len(one.pages) for one in spans)), np.int32)
        for table, one in zip(tables, spans, strict=True):
            table[: len(one.pages)] = one.pages
        logits = self._executor.run(
            Batch(
                ids=np.array([id for part in spans.values() for id in part], np.int32),
                positions=np.arange(ends[-1], dtype=np.int32) + np.repeat(begins - ends + counts, counts),
                sequence=np.repeat(np.arange(len(spans), dtype=np.int32), counts),
                pages=tables,
                lengths=begins + counts,
                select=np.array([end - 1 for end, one in zip(ends, spans, strict=True) if one in chosen], np.int32),
            )
        )
        for one, part in spans.items():
            one.cached += part
        return logits[:, : self.vocab_size]

    def _guess(self, one: _Sequence, logits: Floats) -> bool:
        """Lengthen its draft by one token; False where the logits are of no use."""
        params, place = one.params, len(one.ids) + len(one.draft) - one.prompt_length
        if params.temperature == 0 or params.seed is not None:
            number = uniform(params.seed or 0, one.sample, place) if params.temperature else 0.0
            id, _ = self._draw(logits, logits, None, params, number)
            if id >= 0:
                one.draft.append(id)
            return id >= 0
        left, weights = filtered(logits, params)
        if not left.size:
            return False
        chances = np.zeros(self.vocab_size)
        chances[left] = weights / weights.sum()
        self._drawn += 1
        running = np.cumsum(weights)
        drawn = int(np.searchsorted(running, uniform(self._seed, 0, self._drawn) * running[-1], side="right"))
        one.draft.append(int(left[min(drawn, left.size - 1)]))
        one.chances.append(chances)
        return True


def check_equal(tokenizer: Tokenizer, target: Tokenizer) -> None:
    """Raises UsageError, naming what differs, unless both give every id the same token."""
    if tokenizer is target:
        return
    if tokenizer.vocab_size != target.vocab_size:
        what = f"its tokenizer has {tokenizer.vocab_size:,} tokens, the model's {target.vocab_size:,}"
    elif tokenizer.stop_ids != target.stop_ids:
        what = f"texts end with {sorted(tokenizer.stop_ids)} in one and with {sorted(target.stop_ids)} in the other"
    else:
        different = [id for id in range(target.vocab_size) if tokenizer.token(id) != target.token(id)]
        if not different:
            return
        mine, theirs = tokenizer.token(different[0]), target.token(different[0])
        what = f"{len(different):,} ids mean other tokens, the first is {different[0]}: {mine!r} and {theirs!r}"
    raise UsageError(f"this model cannot draft for the other: {what}", "Use one of the same family and release.")
