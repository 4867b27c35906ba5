"""Beam search: the likeliest few continuations at once, for a decoder alone or one that looks at a source.

    step n     beams of a row, best first      a b | c d          K = 2 beams
               every next token of each        a b x, a b y, ... | c d x, ...
               the best ones, in order         a b y   c d </s>   a b x   ...
               ends -> finished, the rest -> the beams of step n + 1

A finished sequence is worth log P(y | x) / length^penalty, its end token counted. That is the form that transformers
uses and the one here; arXiv 1609.08144, eq. 14, divides by ((5 + length) / 6)^penalty in its place. When a row is done
is told by ``early_stopping``, with transformers' meanings. One beam is greedy search.

Rows do not depend on who shares their batch: one that is done leaves the cache, and its beams with it.

Legend: R rows (sources), K beams of each, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hornbook.engine.sampling import LogitsProcessor
from hornbook.errors import ContextTooLong, GenerationError, UsageError
from hornbook.model.attention import Memory
from hornbook.model.cache import ContiguousCache
from hornbook.model.transformer import Transformer

IMPOSSIBLE = float("-inf")


@dataclass(frozen=True, slots=True)
class BeamParams:
    """How to search, and what a sequence may be. Lengths are in new tokens, the end token counted.

    early_stopping  a row with K finished sequences is done: True, at once; False, when its best beam, were it to end
                    now, is worth less than the worst of them; "never", when it could be worth more at no length
    """

    beams: int = 1
    n_best: int = 1
    length_penalty: float = 1.0  # above 0 longer sequences gain
    early_stopping: bool | Literal["never"] = False
    max_tokens: int = 256
    min_tokens: int = 0  # no end token before so many others
    stop_ids: frozenset[int] = frozenset()
    forced_first: int | None = None  # the first token of all sequences
    forced_last: tuple[int, ...] = ()  # those that one at its full length may end with; (): any
    bad_words: tuple[tuple[int, ...], ...] = ()  # ids that never follow one another
    no_repeat: int = 0  # no run of so many tokens comes twice; 0: it may
    renormalise: bool = False  # what is not forbidden sums to 1 again
    vocab_size: int | None = None  # ids lie below it, where the model has scores for more

    def __post_init__(self) -> None:
        checks = [
            (self.beams >= 1, f"beams must be at least 1, not {self.beams}"),
            (
                1 <= self.n_best <= self.beams,
                f"n_best must be 1 to {self.beams}, the number of beams, not {self.n_best}",
            ),
            (self.max_tokens >= 1, f"max_tokens must be at least 1, not {self.max_tokens}"),
            (
                0 <= self.min_tokens <= self.max_tokens,
                f"min_tokens must be 0 to {self.max_tokens}, which max_tokens is, not {self.min_tokens}",
            ),
            (self.no_repeat >= 0, f"no_repeat must not be negative: {self.no_repeat}"),
            (
                self.early_stopping in (True, False, "never"),
                f"early_stopping must be True, False or 'never', not {self.early_stopping!r}",
            ),
            (all(self.bad_words), "a bad word has no ids"),
        ]
        for good, what in checks:
            if not good:
                raise UsageError(what, "Change it.")


class Hypothesis(NamedTuple):
    """New tokens, with the end token where one came, and log P / length^penalty."""

    ids: tuple[int, ...]
    score: float


@dataclass(slots=True)
class _Row:
    """One source: its open beams (ids with the prompt, sum of log-probabilities), best first, and what is finished."""

    place: int
    prompt: int  # its length
    beams: list[tuple[list[int], float]]
    finished: list[Hypothesis] = field(default_factory=list)


@torch.inference_mode()
def beam_search(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    params: BeamParams,
    *,
    memory: Memory | None = None,
    processors: Sequence[LogitsProcessor] = (),
) -> list[list[Hypothesis]]:
    """Continue each prompt; the ``n_best`` sequences of each, best first, fewer where no more are possible.

    prompts     what the decoder begins with, at least one id each: the start token, or the text to be continued
    memory      what ``model.encode`` made of the sources, for a model with an encoder
    processors  change the log-probabilities [R * K, V] after what ``params`` forbids; they see prompt and sequence
    Raises UsageError for an empty prompt and for ids that are none, ContextTooLong where a prompt and ``max_tokens`` do not
    fit in the model's context, both before any work; GenerationError where the scores are no numbers or every token is
    forbidden.
    """
    if not prompts:
        return []
    _check(prompts, params, model)
    rows = [_Row(i, len(prompt), [([*prompt], 0.0)]) for i, prompt in enumerate(prompts)]
    capacity = max(row.prompt for row in rows) + params.max_tokens
    cache = ContiguousCache(model.config, len(rows), capacity, model.dtype, model.device)
    ids, mask = _padded([row.beams[0][0] for row in rows], model.device)
    scores = model(ids, mask=mask, memory=memory, cache=cache, logits="last").logits
    found: list[list[Hypothesis]] = [[] for _ in rows]
    for step in range(1, params.max_tokens + 1):
        logprobs = _logprobs(scores, rows, step, params, processors)
        parents: list[int] = []  # of each beam of the next step: where it stood in this one
        going: list[_Row] = []
        first = 0
        for row, candidates in zip(rows, _candidates(logprobs, rows, params), strict=True):
            origins = _advance(row, candidates, step, params)
            if _done(row, step, params):
                found[row.place] = _best(row, params)
            else:
                parents += [first + origin for origin in origins]
                going.append(row)
            first += len(logprobs) // len(rows)
        if not going:
            break
        if parents != list(range(len(cache))):
            if memory is not None and (step == 1 or len(going) < len(rows)):
                memory = memory.keep(parents)  # all beams of a row look at the same source
            cache.keep(parents)
        rows = going
        last = torch.tensor([[ids[-1]] for row in rows for ids, _ in row.beams], device=model.device)
        scores = model(last, memory=memory, cache=cache, logits="last").logits
    return found


def _check(prompts: Sequence[Sequence[int]], params: BeamParams, model: Transformer) -> None:
    if not all(prompts):
        raise UsageError("a prompt is empty: there is no token to begin from", "Give at least one token.")
    forced = () if params.forced_first is None else (params.forced_first,)
    named = [*prompts, params.stop_ids, forced, params.forced_last, *params.bad_words]
    wrong = next((id for ids in named for id in ids if not 0 <= id < model.config.vocab_size), None)
    if wrong is not None:
        raise UsageError(
            f"token id {wrong} is out of range: the model writes {model.config.vocab_size:,} tokens",
            "Were the ids made by another model's tokenizer?",
        )
    longest = max(map(len, prompts))
    if longest + params.max_tokens - 1 > model.config.context_length:  # the last token is not read again
        raise ContextTooLong(
            f"a prompt of {longest:,} tokens and {params.max_tokens:,} new ones do not fit: "
            f"the model's context holds {model.config.context_length:,}",
            "Ask for fewer new tokens (max_tokens), or shorten the prompt.",
        )


def _logprobs(
    scores: Tensor, rows: Sequence[_Row], step: int, params: BeamParams, processors: Sequence[LogitsProcessor]
) -> Tensor:
    """log P of every next token of every beam, [R * K, V] float32, minus infinity for what is forbidden."""
    logprobs = scores.float().log_softmax(-1)
    broken = torch.isnan(logprobs).any(-1)
    if bool(broken.any()):
        row = rows[int(broken.nonzero()[0]) * len(rows) // len(logprobs)]
        raise GenerationError(
            f"the model gave no usable next token for source {row.place + 1}: its scores are not numbers",
            "The model file may be damaged, or the dtype too narrow: try dtype='float32'.",
        )
    if params.vocab_size is not None:
        logprobs[:, params.vocab_size :] = IMPOSSIBLE
    sequences = [ids for row in rows for ids, _ in row.beams]
    for i, ids in enumerate(sequences):
        if banned := [*_repeats(ids, params.no_repeat), *_bad_ends(ids, params)]:
            logprobs[i, banned] = IMPOSSIBLE
    if step <= params.min_tokens:
        logprobs[:, list(params.stop_ids)] = IMPOSSIBLE
    if step == 1 and params.forced_first is not None:
        logprobs = _only(logprobs, [params.forced_first])
    if step == params.max_tokens and params.forced_last:
        logprobs = _only(logprobs, params.forced_last)
    for process in processors:
        logprobs = process(sequences, logprobs)
    if params.renormalise:
        logprobs = logprobs.log_softmax(-1).nan_to_num(nan=IMPOSSIBLE, neginf=IMPOSSIBLE)
    return logprobs


def _repeats(ids: Sequence[int], length: int) -> list[int]:
    """The tokens after which the last ``length`` tokens would be a run that was there before (arXiv 1705.04304, 2.5)."""
    if not 0 < length <= len(ids):
        return []
    begun = list(ids[len(ids) - length + 1 :])
    return [ids[i + length - 1] for i in range(len(ids) - length + 1) if list(ids[i : i + length - 1]) == begun]


def _bad_ends(ids: Sequence[int], params: BeamParams) -> list[int]:
    """The tokens that would complete a bad word; an end token alone is none."""
    return [
        word[-1]
        for word in params.bad_words
        if list(word[:-1]) == list(ids[len(ids) - len(word) + 1 :])
        and not (len(word) == 1 and word[0] in params.stop_ids)
    ]


def _only(logprobs: Tensor, ids: Sequence[int]) -> Tensor:
    """These tokens for certain: nothing is added to a sequence's sum."""
    only = torch.full_like(logprobs, IMPOSSIBLE)
    only[:, list(ids)] = 0.0
    return only


def _candidates(logprobs: Tensor, rows: Sequence[_Row], params: BeamParams) -> list[list[tuple[float, int, int]]]:
    """Of each row the best (sum, beam, token), in order: so many that K of them do not end, whatever the others do."""
    sums = torch.tensor([total for row in rows for _, total in row.beams], device=logprobs.device)
    vocab = logprobs.shape[-1]
    totals = (logprobs + sums[:, None]).view(len(rows), -1)
    wanted = min(totals.shape[-1], max(2, 1 + len(params.stop_ids)) * params.beams)
    best, where = totals.topk(wanted)
    return [
        [(total, place // vocab, place % vocab) for total, place in zip(*row, strict=True)]
        for row in zip(best.tolist(), where.tolist(), strict=True)
    ]


def _advance(row: _Row, candidates: list[tuple[float, int, int]], step: int, params: BeamParams) -> list[int]:
    """Take the next token of every beam; -> from which beam each of the K new ones comes.

    Only one of the K best candidates may finish: the others stand ready to keep K beams open.
    """
    beams: list[tuple[list[int], float]] = []
    origins: list[int] = []
    for rank, (total, origin, token) in enumerate(candidates):
        if total == IMPOSSIBLE:
            break
        ids = [*row.beams[origin][0], token]
        if token in params.stop_ids or step == params.max_tokens:
            if rank < params.beams:
                row.finished.append(Hypothesis(tuple(ids[row.prompt :]), total / step**params.length_penalty))
        elif len(beams) < params.beams:
            beams.append((ids, total))
            origins.append(origin)
    row.finished = sorted(row.finished, key=lambda sequence: -sequence.score)[: params.beams]
    while beams and len(beams) < params.beams:  # a beam that nothing can come of keeps the batch in shape
        beams.append((beams[0][0], IMPOSSIBLE))
        origins.append(origins[0])
    row.beams = beams
    return origins


def _done(row: _Row, step: int, params: BeamParams) -> bool:
    """Whether nothing more is looked for; see ``BeamParams.early_stopping``."""
    if not row.beams:
        return True
    if len(row.finished) < params.beams:
        return False
    if params.early_stopping is True or params.beams == 1:
        return True
    longest = params.early_stopping == "never" and params.length_penalty > 0
    length = float(params.max_tokens if longest else step)
    reached: float = row.beams[0][1] / length**params.length_penalty
    return reached <= row.finished[-1].score


def _best(row: _Row, params: BeamParams) -> list[Hypothesis]:
    if not row.finished:
        raise GenerationError(
            f"every next token is forbidden for source {row.place + 1}",
            "Forbid less: bad_words, no_repeat, min_tokens.",
        )
    return row.finished[: params.n_best]


def _padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Ids [R,T] with padding on the right, and which of them are real; None where all are."""
    counts = torch.tensor([len(ids) for ids in prompts], device=device)
    longest = int(counts.max())
    ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in prompts], device=device)
    mask = torch.arange(longest, device=device) < counts[:, None]
    return ids, None if bool(mask.all()) else mask
