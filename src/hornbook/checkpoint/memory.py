"""How much memory a model will need, before any of it is loaded: training all of it or adapters, or running its modules as
they stand. What the engine needs, which runs most models, is in engine/forecast.py.

    running    weights + cache + what one piece of the prompt has in hand
    training   weights + optimiser + the most of these four moments
                 backward begins   activations + 3 tables of scores (their softmax and two gradients)
                 in the blocks     activations + the head's gradient + what one block has in hand
                 backward ends     gradients + what one block keeps and has in hand
                 optimiser steps   gradients + what one tensor's update has in hand

Gradients come as activations go, so a peak is not the sum of both: each moment is held apart, and the largest is the
peak. Counted is what tensors hold, and the holes between them: half of the most that comes and goes in a pass, by the
fifty-percent rule (Knuth, The Art of Computer Programming, volume 1, section 2.5: where blocks come and go, there is a
hole for every two of them), which an allocator that keeps what is freed does not give back until the end.

    weights      s a parameter; qlora: the blocks' matrices in NF4, 4 bits and 0.127 bits of scales (arXiv 2305.14314)
    gradients    s for each parameter that is trained
    optimiser    adamw      2 s a trained parameter                                        (arXiv 1711.05101)
                 adamw8bit  2 bytes and a scale of 4 for each 256                          (arXiv 2110.02861)
                 adafactor  4 (rows + columns) of a matrix, 4 a number of a vector         (arXiv 1804.04235)
    adapters     r (in + out) parameters beside every linear map of the blocks             (arXiv 2106.09685)
    cache        2 L B K T D s; beside an encoder also 2 L B K S D s of the source
    activations  checkpoint/activations.py

s is bytes a number in the model's dtype. Gradients are held for one pass: where several are summed before a step, they
stand beside the activations, and ``gradients`` is to be added to the peak.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from hornbook.checkpoint.activations import FLOAT, Pass
from hornbook.errors import UsageError

if TYPE_CHECKING:
    from hornbook.checkpoint.anatomy import Anatomy, Weight

NF4_BITS = 4.127  # with scales of scales, arXiv 2305.14314, section 3
PROGRAM = 340_000_000  # Python, torch and Hornbook with what they import to train: docs/results/memory-plan.md
PREFILL = 1024  # tokens of a prompt that are read at once: engine.generate.Generator's
HOLES = 0.5  # of what comes and goes
SIZES = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a number in the dtypes that models are opened with
METHODS = ("full", "lora", "qlora")
OPTIMIZERS = ("adamw", "adamw8bit", "adafactor")

Method = Literal["full", "lora", "qlora"]


@dataclass(frozen=True, slots=True)
class Moment:
    """What is held at one time, in bytes. ``scores``: the logits, when training; ``allocator``: holes between tensors;
    ``tokenizer``: where it is not counted as the program's."""

    name: str
    weights: int
    gradients: int = 0
    optimiser: int = 0
    activations: int = 0
    cache: int = 0
    scores: int = 0
    working: int = 0
    allocator: int = 0
    tokenizer: int = 0

    @property
    def passing(self) -> int:
        """What has come in this pass and goes with it."""
        return self.activations + self.scores + self.working

    @property
    def total(self) -> int:
        held = self.weights + self.gradients + self.optimiser + self.cache + self.tokenizer
        return held + self.passing + self.allocator


@dataclass(frozen=True, slots=True)
class Plan:
    """The moments of a run; the peak is the largest. ``trained``: parameters that take gradients."""

    moments: tuple[Moment, ...]
    trained: int = 0

    @property
    def worst(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def peak(self) -> int:
        """Bytes; the program itself comes on top."""
        return self.worst.total


@dataclass(frozen=True, slots=True)
class Request:
    """What is planned: ``context`` tokens in each of ``batch`` rows. ``method`` None: the model is run, not trained."""

    anatomy: Anatomy
    context: int
    batch: int = 1
    dtype: str = "float32"
    method: Method | None = None
    optimizer: str = "adamw"
    rank: int = 16
    fused: bool = False  # see checkpoint/activations.py

    def __post_init__(self) -> None:
        for name, value in (("context", self.context), ("batch", self.batch), ("rank", self.rank)):
            if value < 1:
                raise UsageError(f"the {name} is {value}", "It must be at least 1.")
        _known("dtype", self.dtype, tuple(SIZES))
        _known("optimizer", self.optimizer, OPTIMIZERS)
        if self.method is not None:
            _known("way to train", self.method, METHODS)
        limit = self.anatomy.config.context_length
        if self.context > limit:
            raise UsageError(
                f"the context is {self.context:,} tokens, the model's is {limit:,}", "Plan with that or less."
            )

    @property
    def item(self) -> int:
        return SIZES[self.dtype]


def plan(request: Request) -> Plan:
    """The memory that ``request`` needs."""
    found = _running(request) if request.method is None else _training(request)
    holes = round(HOLES * max(moment.passing for moment in found.moments))
    return replace(found, moments=tuple(replace(moment, allocator=holes) for moment in found.moments))


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number from 1 to ``limit`` that fits, 0 where none does; what fits is taken to be a first stretch."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


# ---------------------------------------------------------------------------------------------------------- running


def _running(request: Request) -> Plan:
    """Weights, a full cache, and the last piece of the longest prompt: ``passing`` of the piece, the scores of one token
    a row, and where a piece is not the first the mask [B, piece, T], 10 bytes an entry while it is made."""
    anatomy, config, item = request.anatomy, request.anatomy.config, request.item
    weights = anatomy.parameters.total * item
    rows, context = request.batch, request.context
    if not config.causal:
        one = Pass(config, rows, context, item)
        return Plan((Moment("reading", weights, working=one.passing()),))
    piece = min(context, max(1, PREFILL // rows))
    cache = anatomy.cache_bytes(context, item, rows=rows)
    working = Pass(config, rows, piece, item).passing() + 2 * FLOAT * rows * config.vocab_size
    if context > piece:
        working += 10 * rows * piece * context
    if config.encoder is not None:
        cache += anatomy.cache_bytes(context, item, rows=rows) + item * rows * context * config.encoder.width
        working = max(working, Pass(config.encoder, rows, context, item).passing())
    return Plan((Moment("the prompt has been read", weights, cache=cache, working=working),))


# --------------------------------------------------------------------------------------------------------- training


def _training(request: Request) -> Plan:
    anatomy, config, item = request.anatomy, request.anatomy.config, request.item
    adapters = [] if request.method == "full" else _adapters(anatomy, request.rank)
    trained = adapters or list(anatomy.weights)
    weights = _held(request) + sum(w.size for w in adapters) * item
    gradients = sum(w.size for w in trained) * item
    optimiser = sum(_states(w, request.optimizer, item) for w in trained)
    rank = request.rank if adapters else 0
    source = request.context if config.encoder is not None else 0

    fused = request.fused and item == FLOAT
    one = Pass(config, request.batch, request.context, item, frozen=bool(adapters), rank=rank, fused=fused)
    activations = one.stack(source=source)
    if config.encoder is not None:
        read = Pass(config.encoder, request.batch, request.context, item, frozen=bool(adapters), rank=rank, fused=fused)
        activations += read.stack()
    blocks = [one.block(layer, source=source) for layer in range(config.layers)]
    unpacked = max((w.size for w in anatomy.weights if w.is_linear), default=0) if request.method == "qlora" else 0
    backwards = 2 * one.passing() + unpacked * item
    head = 0 if adapters else _head(anatomy) * item
    table = 4 * one.count * config.vocab_size if config.language_head else 0
    scores = one.scores() if config.language_head else 0

    biggest = max((w.size for w in trained), default=0)
    stepping = biggest * (2 * item if request.optimizer == "adamw" else 3 * FLOAT)
    held = {"weights": weights, "optimiser": optimiser}
    return Plan(
        (
            Moment("the backward pass begins", **held, activations=activations, scores=scores, working=2 * table),
            Moment("it has reached the blocks", **held, activations=activations, gradients=head, working=backwards),
            Moment(
                "the backward pass ends",
                **held,
                gradients=gradients,
                activations=max(blocks, default=0),
                working=one.passing() + unpacked * item + (head if config.tied_head else 0),
            ),
            Moment("the optimiser steps", **held, gradients=gradients, working=stepping),
        ),
        trained=sum(w.size for w in trained),
    )


def _held(request: Request) -> int:
    """Bytes of the model's own weights."""
    weights, item = request.anatomy.weights, request.item
    if request.method != "qlora":
        return sum(w.size for w in weights) * item
    packed = sum(w.size for w in weights if w.is_linear)
    return round(packed * NF4_BITS / 8) + (sum(w.size for w in weights) - packed) * item


def _adapters(anatomy: Anatomy, rank: int) -> list[Weight]:
    """A and B of every linear map: [r, in] and [out, r]."""
    from hornbook.checkpoint.anatomy import Weight

    made = []
    for weight in anatomy.weights:
        if weight.is_linear:
            out, into = weight.shape
            made += [Weight(f"{weight.name}.a", (rank, into), weight.part)]
            made += [Weight(f"{weight.name}.b", (out, rank), weight.part)]
    return made


def _states(weight: Weight, optimizer: str, item: int) -> int:
    """What an optimiser remembers of one tensor."""
    if optimizer == "adamw":
        return 2 * weight.size * item
    if optimizer == "adamw8bit":
        return 2 * weight.size + 2 * FLOAT * -(-weight.size // 256)
    if len(weight.shape) < 2:
        return FLOAT * weight.size
    return FLOAT * (weight.size // weight.shape[-1] + weight.size // weight.shape[-2])


def _head(anatomy: Anatomy) -> int:
    """Parameters whose gradient comes first: the head's, or the embedding's that it is tied to."""
    if not anatomy.config.language_head:
        return 0
    name = "embed.tokens.weight" if anatomy.config.tied_head else "head.tokens.weight"
    return sum(weight.size for weight in anatomy.weights if weight.name == name)


def _known(what: str, value: Any, names: tuple[str, ...]) -> None:
    if value not in names:
        raise UsageError(f"{value!r} is no {what} that can be planned with", f"Say {', '.join(names)}.")
