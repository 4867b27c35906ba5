"""The plain generator: slow and obvious, and the reference that every faster engine is held to.

    prompts (ragged) -> waves of similar length -> prefill in chunks -> one token a step for all rows -> Steps

A wave's prompts are aligned at their *ends*, so that all of them are ready for their first token after the last chunk:

    chunk       1      2      3
    row 0    a b c  d e f  g h i      each row is given only the tokens drawn here; a row that
    row 1           j k l  m n o      has not begun yet gets none, and its cache stays empty
    row 2                      p

Rows that finish are dropped from the cache, so a long answer does not pay for short ones. Nothing is shared between
rows but the batch itself: greedy tokens are those of each prompt alone, and so are seeded ones.

Legend: B rows, T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hornbook.engine.grammar import Matcher, Vocabulary, of_params
from hornbook.engine.prompts import checked_ids
from hornbook.engine.reply import Decoder, Reply
from hornbook.engine.sampling import Sampler, allow, check
from hornbook.errors import GenerationError, UsageError
from hornbook.types import SamplingParams, Token


class Step(NamedTuple):
    """What happened to one prompt: its next token or, where its logits were unusable, the error that ended it."""

    row: int
    token: Token | None
    error: GenerationError | None = None


class Cache(Protocol):
    """The part of a key-value cache that generation drives; attention inside the model uses the rest."""

    prompts: Tensor | None  # [B] long: how many of a row's tokens are its prompt

    def keep(self, rows: list[int]) -> None: ...


class Generator:
    """Generates with one model. It keeps no state between calls, so several runs may be interleaved.

    model: ``forward(ids [B, T], mask=[B, T], cache=, logits="last" | "none")``; the output's ``logits`` are [B, V].
    new_cache: (rows, capacity in tokens) -> an empty cache.  new_decoder: a fresh Decoder for one stream.
    context_length: the model's window, in tokens.  stop_ids: the ids that end an answer.
    vocab_size: ids lie below it; where the logits are wider (padding), the rest is never chosen.
    rows: how many prompts run side by side.  prefill: how many prompt tokens one forward takes, which bounds memory.
    vocabulary: the tokens as grammars see them; without it a schema, regex or grammar is refused.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        new_cache: Callable[[int, int], Cache],
        new_decoder: Callable[[], Decoder],
        context_length: int,
        vocab_size: int,
        stop_ids: frozenset[int] = frozenset(),
        device: str | torch.device = "cpu",
        rows: int = 16,
        prefill: int = 1024,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self.model = model
        self.new_cache = new_cache
        self.new_decoder = new_decoder
        self.context_length = context_length
        self.vocab_size = vocab_size
        self.stop_ids = stop_ids
        self.device = torch.device(device)
        self.rows = rows
        self.prefill = prefill
        self.vocabulary = vocabulary

    def run(self, prompts: Sequence[Sequence[int]], sampling: Sequence[SamplingParams]) -> Iterator[Step]:
        """Check every prompt, then return the iterator that does the work; closing it frees all that it holds.

        Each prompt's Steps come in order, those of different prompts mixed; ``Step.row`` is the place in ``prompts``.
        Raises ContextTooLong or UsageError here, before any work.
        """
        if any(params.n > 1 or params.top_logprobs for params in sampling):
            raise UsageError(
                "the plain generator gives one answer a prompt and no likeliest tokens: n must be 1, top_logprobs 0",
                "Ask the engine.",
            )
        rows = [
            _Row(place, checked_ids(prompt, self.vocab_size, self.context_length), params, self)
            for place, (prompt, params) in enumerate(zip(prompts, sampling, strict=True))
        ]
        rows.sort(key=lambda row: len(row.ids))
        return self._run(rows)

    def matcher(self, params: SamplingParams) -> Matcher | None:
        """What holds an answer to its schema, regex or grammar. Raises UsageError where that cannot be honoured."""
        if self.vocabulary is not None:
            compiled = of_params(self.vocabulary, params)
            return compiled.start() if compiled else None
        if params.schema is not None or params.regex is not None or params.grammar is not None:
            raise UsageError("structured output is not to be had here", "Load the model with hornbook.load.")
        return None

    def _run(self, rows: list[_Row]) -> Iterator[Step]:
        for begin in range(0, len(rows), self.rows):
            wave = rows[begin : begin + self.rows]
            cache = self.new_cache(len(wave), max(row.capacity for row in wave))
            cache.prompts = torch.tensor([len(row.ids) for row in wave], device=self.device)
            logits = self._prompt(wave, cache)
            while True:
                steps = self._choose(wave, logits)
                yield from steps
                going = [i for i, step in enumerate(steps) if step.token and step.token.finish_reason is None]
                if not going:
                    break
                if len(going) < len(wave):
                    cache.keep(going)
                    wave = [wave[i] for i in going]
                logits = self.append([row.ids[-1:] for row in wave], cache)

    def _prompt(self, wave: Sequence[_Row], cache: Cache) -> Tensor:
        """Fill the cache with the prompts, chunk by chunk; return the logits [B, V] after each prompt's last token."""
        *chunks, last = self.chunks([row.ids for row in wave])
        for chunk in chunks:
            self.append(chunk, cache, logits="none")
        return self.append(last, cache)

    def chunks(self, prompts: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
        """Cut ragged prompts into pieces of at most ``prefill`` tokens in all, aligned at their ends (the drawing above)."""
        longest = max(map(len, prompts), default=0)
        width = max(1, self.prefill // max(1, len(prompts)))
        pads = [longest - len(ids) for ids in prompts]
        return [
            [ids[max(begin - pad, 0) : max(begin + width - pad, 0)] for ids, pad in zip(prompts, pads, strict=True)]
            for begin in range(0, longest, width)
        ]

    @torch.inference_mode()
    def append(self, chunk: Sequence[Sequence[int]], cache: Cache, logits: str = "last") -> Tensor:
        """Append the tokens ``chunk[b]`` to row b of the cache, and return the model's logits: [B, V] after each row's
        last token ("last"), [B, T, V] for the right-padded chunk ("all"), or nothing of use ("none")."""
        counts = [len(ids) for ids in chunk]
        longest = max(counts)
        ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in chunk], device=self.device)
        mask = None
        if min(counts) < longest:
            mask = torch.arange(longest, device=self.device) < torch.tensor(counts, device=self.device)[:, None]
        out: Tensor = self.model(ids, mask=mask, cache=cache, logits=logits).logits
        return out

    @torch.inference_mode()
    def _choose(self, wave: Sequence[_Row], logits: Tensor) -> list[Step]:
        """The next token of every row from logits [B, V]. A row whose logits are unusable fails, and only that row."""
        usable = logits[:, : self.vocab_size]
        best = usable.argmax(-1).tolist()
        total = logits.float().logsumexp(-1) if any(row.params.logprobs for row in wave) else None
        steps = []
        for i, row in enumerate(wave):
            try:
                if row.sampler.is_plain_greedy:
                    check(usable[i])
                    id = best[i]
                else:
                    id = row.sampler.choose(row.ids, usable[i])
            except GenerationError as error:
                steps.append(Step(row.place, None, error))
                continue
            logprob = float(usable[i, id].float() - total[i]) if total is not None and row.params.logprobs else None
            steps.append(Step(row.place, row.accept(id, logprob)))
        return steps


class _Row:
    """One prompt under way: its tokens so far, and how they become text and an end."""

    def __init__(self, place: int, ids: list[int], params: SamplingParams, generator: Generator) -> None:
        self.place = place
        self.ids = ids
        self.params = params
        self.capacity = min(len(ids) + params.max_tokens, generator.context_length)
        self.matcher = generator.matcher(params)
        extra = [partial(_allowed, self.matcher)] if self.matcher else []
        self.sampler = Sampler(params, prompt_length=len(ids), extra=extra)
        self._reply = Reply(params, self.capacity - len(ids), generator.new_decoder(), generator.stop_ids)

    def accept(self, id: int, logprob: float | None) -> Token:
        self.ids.append(id)
        if self.matcher:
            self.matcher.accept(id)
        return self._reply.accept(id, logprob, whole=self.matcher is not None and self.matcher.is_done)


def _allowed(matcher: Matcher, ids: Sequence[Sequence[int]], logits: Tensor) -> Tensor:
    return allow(logits, matcher.allowed())
