"""What a training will take, before it begins: memory from the model's header alone, time from its shape and a probe.

    memory   weights + optimiser + the most of these four moments (checkpoint/memory.py has their terms)
               backward begins    activations, and the scores of one chunk of labels
               in the blocks      activations, and what two blocks have in hand
               backward ends      gradients, one block's activations and what it has in hand
               optimiser steps    gradients, and one tensor's update

The loss goes through the labels in chunks, so no table of all scores is ever held. Rows are packed, so that a pass has as
many tokens as the recipe says. The fused forms of norms, gates and rotations keep less than the terms say (of SmolLM2 with
a LoRA 62 %, of all of it 77 %). Where the blocks are computed again on the way back, only their inputs are kept.

    time     2 operations for each weight that a token passes, on the way there; as many on the way back for its input,
             and again for its own gradient, which a frozen weight has not; the head's only for tokens that are learnt

What one operation takes is measured: a product of matrices of the model's own sizes, for a fifth of a second.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hornbook.recipes.adapters import LowRank

if TYPE_CHECKING:
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.recipes.config import Training

TABLES = 3  # of a chunk's scores: they, their softmax, its gradient
USE = 0.62  # of the probe's speed that a whole step reaches, by a busy machine: a quiet one took two thirds of what was foretold
PROBE = 0.2  # seconds
HELD = {"float32": 4, "bfloat16": 2, "bfloat16-autocast": 4, "float16": 4}  # bytes of a weight, by the precision
PASSED = {"float32": 4, "bfloat16": 2, "bfloat16-autocast": 2, "float16": 2}  # and of a state


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. ``free``: what the machine has now, None where it cannot be told; ``device``: what it is called."""

    peak: int
    weights: int
    optimiser: int
    activations: int
    gradients: int
    free: int | None
    device: str
    remedies: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return self.free is None or self.peak <= self.free


def memory(anatomy: Anatomy, training: Training, context: int, adapter: object, trained: int | None = None) -> Memory:
    """What ``training`` needs at its worst, and what to lower where that is more than there is.

    context  tokens of the longest row        trained  parameters that learn, where that is known
    """
    from hornbook.checkpoint import machine
    from hornbook.checkpoint.loading import pick_device

    device = pick_device(training.device)
    room = machine.room(str(device))
    free = None if room is None else room.free
    found = _needs(anatomy, training, context, adapter, trained, device.type)
    remedies = []
    if free is not None and found.peak > free:
        remedies = _remedies(anatomy, training, context, adapter, device.type, free)
    return Memory(
        *(found.peak, found.weights, found.optimiser, found.activations, found.gradients, free),
        *("this machine" if room is None else room.name, tuple(remedies)),
    )


@dataclass(frozen=True, slots=True)
class _Needs:
    peak: int
    weights: int
    optimiser: int
    activations: int
    gradients: int


def _needs(
    anatomy: Anatomy, training: Training, context: int, adapter: object, trained: int | None, device: str
) -> _Needs:
    from hornbook.checkpoint import memory as plan
    from hornbook.checkpoint.activations import FLOAT, Pass
    from hornbook.kernels.training import native as fused
    from hornbook.train.cross_entropy import CHUNK

    config = anatomy.config
    chosen = precision(training.precision, device)
    item, state = HELD[chosen], PASSED[chosen]
    beside = adapter is not None
    low = adapter if isinstance(adapter, LowRank) else None
    total = sum(weight.size for weight in anatomy.weights)
    added = sum(low.rank * sum(w.shape) for w in anatomy.weights if w.is_linear) if low is not None else 0
    learnt = trained if trained is not None else added if beside else total
    linear = sum(weight.size for weight in anatomy.weights if weight.is_linear)
    weights = total * item
    if low is not None and low.kind == "qlora":
        weights = round(linear * plan.NF4_BITS / 8) + (total - linear) * item
    if item < FLOAT:
        weights += learnt * FLOAT  # the float32 copy that the optimiser changes
    weights += added * item
    rows = max(1, training.tokens // context)
    ours = device == "cpu" and state == FLOAT and fused() is not None
    one = Pass(config, rows, max(1, training.tokens // rows), state, beside, low.rank if low else 0, ours)
    source = one.tokens if config.encoder is not None else 0
    block = max(one.block(layer, source=source) for layer in range(config.layers))
    activations = one.stack(source=source)
    if training.activation_checkpointing:
        activations = config.layers * state * one.count * config.width + block
    if config.encoder is not None:
        activations += Pass(config.encoder, rows, one.tokens, state, beside, one.rank, ours).stack()
    scores = FLOAT * one.count * config.vocab_size if config.language_head else 0
    chunk = TABLES * min(scores, CHUNK.get(device, CHUNK["cuda"]))
    head = 0 if beside else FLOAT * config.vocab_size * config.width
    unpacked = max((w.size for w in anatomy.weights if w.is_linear), default=0) * item
    passing = one.passing() + (unpacked if low is not None and low.kind == "qlora" else 0)
    per = {"adamw": 2 * FLOAT, "adamw8bit": 2 + 2 * FLOAT / 256, "adafactor": 0.02 * FLOAT, "muon": FLOAT}
    optimiser = round(learnt * per[training.optimizer])
    averages = FLOAT * learnt if training.ema is not None else 0
    gradients = learnt * item
    kept = gradients if training.accumulate > 1 else 0
    moments = (
        activations + chunk + head + kept,
        activations + 2 * passing + head + kept,
        gradients + block + passing,
        gradients + FLOAT * unpacked // item * 2,
    )
    holes = round(plan.HOLES * max(chunk, 2 * passing))
    program = plan.PROGRAM if device == "cpu" else 0
    peak = program + weights + optimiser + averages + max(moments) + holes
    return _Needs(peak, weights, optimiser + averages, activations, gradients)


def _remedies(anatomy: Anatomy, training: Training, context: int, adapter: object, device: str, free: int) -> list[str]:
    """Settings that would fit, each by itself."""

    def fits(other: object = adapter, **changes: object) -> bool:
        changed = training.model_copy(update=changes)
        return _needs(anatomy, changed, min(context, changed.tokens), other, None, device).peak <= free

    found = []
    tokens = training.tokens
    while tokens > 64 and not fits(tokens=tokens):
        tokens //= 2
    if fits(tokens=tokens):
        found.append(
            f"training.tokens={tokens} training.accumulate={-(-training.tokens * training.accumulate // tokens)}"
        )
    if not training.activation_checkpointing and fits(activation_checkpointing=True):
        found.append("training.activation_checkpointing=true")
    for kind in ("lora", "qlora"):
        if getattr(adapter, "kind", None) != kind and fits(LowRank(kind=kind)):
            found.append(f"adapter.kind={kind}")
            break
    if adapter is None and training.optimizer == "adamw" and fits(optimizer="adamw8bit"):
        found.append("training.optimizer=adamw8bit")
    return found


def precision(said: str, device: str) -> str:
    """The precision that is meant."""
    return said if said != "auto" else "float32" if device == "cpu" else "bfloat16"


# --------------------------------------------------------------------------------------------------------------- time


def operations(anatomy: Anatomy, context: int, *, frozen: bool, learnt: float) -> float:
    """Floating-point operations that training takes for one token. ``learnt``: the share of tokens that are targets."""
    config = anatomy.config
    blocks = sum(weight.size * weight.share for weight in anatomy.weights if weight.is_linear)
    head = config.vocab_size * config.width if config.language_head else 0
    mixing = 2 * config.layers * context * config.heads * config.head_width  # scores and their sum, half of them seen
    ways = 4 if frozen else 6
    return ways * (blocks + head * learnt) + 3 * mixing


def speed(anatomy: Anatomy, training: Training) -> float:
    """Floating-point operations a second that a product of matrices of the model's sizes reaches here, now."""
    import torch

    from hornbook.checkpoint.loading import DTYPES, pick_device

    device = pick_device(training.device)
    dtype = DTYPES[precision(training.precision, device.type).partition("-")[0]]
    config = anatomy.config
    rows = min(training.tokens, 2048)
    a = torch.randn(rows, config.width, device=device, dtype=dtype)
    b = torch.randn(config.width, config.feedforward_width, device=device, dtype=dtype)
    done, began = 0, 0.0
    for turn in range(10_000):
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn == 0:  # the first one fills caches
            began = time.perf_counter()
            continue
        done += 1
        if time.perf_counter() - began > PROBE:
            break
    return 2.0 * rows * config.width * config.feedforward_width * done / (time.perf_counter() - began)


def seconds(anatomy: Anatomy, training: Training, context: int, tokens: int, learnt: float, *, frozen: bool) -> float:
    """How long it takes to learn from ``tokens`` tokens, padding and repetitions counted."""
    return tokens * operations(anatomy, context, frozen=frozen, learnt=learnt) / (USE * speed(anatomy, training))
