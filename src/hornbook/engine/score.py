"""How likely given continuations are: one pass over each text, no sampling.

    ids      [ context ........ | continuation ...... ]
                              ^start
    fed      [ context ..... ]   into the cache, without logits
             [ last of context + continuation but its last ]   with logits, each judged by the token after it

Legend: B rows, T time, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hornbook.engine.generate import Generator
from hornbook.errors import ContextTooLong
from hornbook.types import Score

LOGITS_BYTES = 256 * 2**20  # the most that one [B, T, V] block of float32 logits may take


def score(generator: Generator, requests: Sequence[tuple[Sequence[int], int]]) -> list[Score]:
    """Score ``ids[start:]`` given ``ids[:start]`` for each (ids, start) with 1 <= start <= len(ids), in batches.

    Natural logarithms of the model's own distribution. Raises ContextTooLong before any work where a text does not fit.
    """
    for ids, _ in requests:
        if len(ids) - 1 > generator.context_length:
            raise ContextTooLong(
                f"context and continuation have {len(ids):,} tokens; the model's context holds "
                f"{generator.context_length:,}",
                "Shorten the context, or use a model with a longer one.",
            )
    scores = [Score(0.0, True, 0)] * len(requests)
    places = [i for i, (ids, start) in enumerate(requests) if start < len(ids)]
    places.sort(key=lambda i: len(requests[i][0]))
    for begin in range(0, len(places), generator.rows):
        wave = places[begin : begin + generator.rows]
        for place, value in zip(wave, _wave(generator, [requests[i] for i in wave]), strict=True):
            scores[place] = value
    return scores


@torch.inference_mode()
def _wave(generator: Generator, requests: Sequence[tuple[Sequence[int], int]]) -> list[Score]:
    cache = generator.new_cache(len(requests), max(len(ids) for ids, _ in requests) - 1)
    cache.prompts = torch.tensor([start for _, start in requests], device=generator.device)
    for chunk in generator.chunks([ids[: start - 1] for ids, start in requests]):
        generator.append(chunk, cache, logits="none")
    inputs = [ids[start - 1 : -1] for ids, start in requests]
    targets = [ids[start:] for ids, start in requests]
    sums, greedy = [0.0] * len(requests), [True] * len(requests)
    width = max(1, LOGITS_BYTES // (4 * generator.vocab_size * len(requests)))
    for begin in range(0, max(map(len, inputs)), width):
        logits = generator.append([ids[begin : begin + width] for ids in inputs], cache, logits="all").float()
        for row, ids in enumerate(targets):
            piece = torch.tensor(ids[begin : begin + width], dtype=torch.long, device=logits.device)
            if not len(piece):
                continue
            mine = logits[row, : len(piece)]
            chosen = mine.gather(-1, piece[:, None])[:, 0] - mine.logsumexp(-1)
            sums[row] += float(chosen.double().sum())
            greedy[row] = greedy[row] and bool((mine.argmax(-1) == piece).all())
    return [Score(total, flag, len(ids)) for total, flag, ids in zip(sums, greedy, targets, strict=True)]
