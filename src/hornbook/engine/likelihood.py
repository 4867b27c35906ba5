"""How likely given tokens are, piece by piece: rows of logits and the tokens that came after them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hornbook.engine.choose import likeliest, log_sum, unusable
from hornbook.engine.executor import Floats
from hornbook.engine.sequence import Likelihood
from hornbook.kernels.library import Library


def judge(likelihood: Likelihood, logits: Floats, ids: Sequence[int], kernels: Library | None) -> None:
    """Add the log-probability of ``ids[r]`` under ``logits[r]`` [R, V] for each r.

    Raises GenerationError where the logits are unusable.
    """
    targets = np.array(ids, np.int32)
    if kernels is not None:
        logits = np.ascontiguousarray(logits)
        logprobs, best = np.empty(len(ids), np.float32), np.empty(len(ids), np.int32)
        kernels.hb_logprobs(
            logits.ctypes.data, len(ids), logits.shape[1], targets.ctypes.data, logprobs.ctypes.data, best.ctypes.data
        )
        values, greedy = [float(value) for value in logprobs], bool(best.all())
    else:
        values = [float(row[id]) - log_sum(row) for row, id in zip(logits, ids, strict=True)]
        greedy = bool((logits.argmax(-1) == targets).all())
    for row, value in zip(logits, values, strict=True):
        if math.isnan(value):
            raise unusable(row, None)
    if likelihood.top:
        likelihood.logprobs += values
        likelihood.likeliest += [likeliest(row, likelihood.top) for row in logits]
    likelihood.logprob += math.fsum(values)
    likelihood.is_greedy = likelihood.is_greedy and greedy
