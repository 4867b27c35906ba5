"""What answering with a model will take of this machine's memory, and what will run it: told before any of it is loaded.

    path, device, dtype --foresee--> Running: "native avx2, 2 threads"  --plan(request)--> moments: loading, answering

           loading      weights so far + the one that is read                     + tokenizer, nearly made
    native answering    weights as the file has them + pages of the cache in use  + tokenizer + registers of a step
    torch  answering    weights in the dtype         + pages of the cache in use  + tokenizer + registers, holes between them

Which executor it is, is decided by the same questions that ``load`` asks (opening.py); sizes are those that the executors
compute themselves, where they can be had without weights. What Python, its libraries and a tokenizer take was measured:
docs/results/memory-plan.md. What no executor of the engine runs (encoder-decoders, encoders that torch runs) is planned as
its modules are, by checkpoint/memory.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from hornbook.checkpoint import memory
from hornbook.checkpoint.memory import HOLES, Moment, Request
from hornbook.checkpoint.packed import FLOATS, Packed, PackedTensor, open_packed
from hornbook.engine import native
from hornbook.engine.encode import NativeEncoder
from hornbook.engine.executor import PAGE
from hornbook.engine.lower import lower, obstacle
from hornbook.engine.native_mixture import Experts, NativeOp, matrices, native_ops
from hornbook.engine.opening import on_accelerator, pages_for, why_torch
from hornbook.engine.pages import pages_of
from hornbook.engine.plan import HeadNorm, Linear, Mix, Plan, Select, Turn
from hornbook.errors import UnsupportedModel
from hornbook.kernels.library import library
from hornbook.kernels.weight import TYPES
from hornbook.model.config import ModelConfig
from hornbook.model.position_tables import REACH
from hornbook.settings import Settings

PROGRAM = 54_000_000  # Python, numpy, tokenizers, Hornbook; measured, as are the next three
TORCH = 250_000_000  # the same, and torch
TOKEN = 800  # bytes that a tokenizer takes for each token it knows
HALFWAY = 0.75  # of the tokenizer when the largest weight is read, which happens side by side
READ = 0.04  # of torch's weights, what is on its way while they are read
STEP = 512 + PAGE  # tokens: engine.Engine's
RUNNING = 64  # answers at once: llm.LocalLLM's
JUDGED = 9  # rows of logits for an answer whose drafts are judged: one, and engine.Engine's drafts
QUANTISED = 48 / 32  # bytes of a number that is multiplied with quantised weights: ActivationBlock of native/kernels.h
PARTS = 4 << 20  # of attention that is cut into parts: part_bytes of native/step.h
LARGE_PAGE = 2 << 20  # in which the native cache takes memory


class Asked(NamedTuple):
    """As much of a Request as a native plan needs: tokens of a text, and texts."""

    context: int
    batch: int


@dataclass(frozen=True, slots=True)
class Running:
    """A model as it would run here. ``reason``: why torch runs it where native kernels were asked for.

    ``pages``: how many the cache would have, None where there is none; ``page_bytes``: what one takes.
    """

    executor: str
    reason: str | None
    program: int
    pages: int | None
    page_bytes: int
    native: bool
    _plan: Callable[[Any], memory.Plan]

    @property
    def room(self) -> int:
        """Bytes that keys and values may take, of all texts together."""
        return (self.pages or 0) * self.page_bytes

    def plan(self, request: Request | Asked) -> memory.Plan:
        """The memory that ``request`` needs beside ``program``. An Asked is enough where it runs natively."""
        return self._plan(request)

    def at_once(self, request: Request) -> int:
        """How many of the texts can be in the cache together; the others wait for their turn."""
        if self.pages is None:
            return request.batch
        return min(request.batch, RUNNING, self.pages // pages_of(request.context))


def foresee(path: Path, config: ModelConfig, device: str, dtype: str, settings: Settings) -> Running:
    """What ``hornbook.load`` would run the model with. ``config``: the model's, as its header says.

    Raises what ``load`` raises for a device or dtype that is not there, and for a cache without room for two pages.
    """
    reason = None
    if dtype == "auto" and not on_accelerator(device):
        try:
            with open_packed(path, text=False) as packed:
                reason = why_torch(packed, settings)
                if reason is None and not (config.causal and not config.language_head):
                    return _native(packed, settings)
        except UnsupportedModel as error:
            reason = error.what
    if not settings.native or config.encoder is not None:  # asked for, or never to be had
        reason = None
    return _torch(config, device, dtype, reason, settings)


def most(path: Path, settings: Settings, *, running: int = RUNNING) -> tuple[int, Running]:
    """Bytes beside the program that serving a model can come to: its cache full, ``running`` answers at once; and what runs it.

    torch is imported only where it would run the model. Raises as ``foresee``, and what reading a header raises.
    """
    from hornbook.checkpoint.header import read_header

    _, config = read_header(path)
    found = foresee(path, config, settings.device, "auto", settings)
    if found.pages is None:
        batch = running if found.native else 1
    else:
        batch = max(running, -(-found.pages // pages_of(config.context_length)))
    if found.native:
        return found.plan(Asked(config.context_length, batch)).peak, found
    from hornbook.checkpoint.anatomy import Anatomy
    from hornbook.checkpoint.loading import pick_device, pick_dtype

    dtype = str(pick_dtype("auto", pick_device(settings.device))).removeprefix("torch.")
    needed = found.plan(Request(Anatomy.read(path), config.context_length, batch, dtype)).peak
    return needed + max(0, found.program - PROGRAM), found


# ----------------------------------------------------------------------------------------------------------- native


def _native(packed: Packed, settings: Settings) -> Running:
    config, weights = packed.config, packed.weights
    decodes = config.causal
    plan = lower(config if decodes else replace(config, language_head=False))
    sizes = {name: _bytes(weights[name], rounded=not decodes) for name in weights}
    page_bytes = native.page_bytes(plan, settings.cache, settings)
    pages = pages_for(config, page_bytes, settings) if decodes else None

    def planned(request: Request | Asked) -> memory.Plan:
        texts = min(request.batch, RUNNING)
        if pages is None:
            tokens = max(request.context, min(NativeEncoder.batch_tokens, request.batch * request.context))
            working, used = registers(plan, weights, tokens, 0), 0
        else:
            tokens = min(STEP, request.batch * request.context)
            rows = min(texts - 1 + JUDGED, tokens)
            working = registers(plan, weights, tokens, rows)
            working += 4 * sum(op.width for op in _turns(plan)) * (request.context + REACH)
            used = min(pages, request.batch * pages_of(request.context)) * page_bytes
            used = -(-used // LARGE_PAGE) * LARGE_PAGE
        tokenizer = TOKEN * config.vocab_size
        return memory.Plan(
            (
                _reading(plan, weights, sizes, round(HALFWAY * tokenizer)),
                Moment("answers are written", sum(sizes.values()), cache=used, working=working, tokenizer=tokenizer),
            )
        )

    kernels = library(settings)
    assert kernels is not None, "why_torch has asked for them"
    name = f"native {kernels.isa}, {kernels.threads} thread{'s' if kernels.threads > 1 else ''}"
    return Running(name, None, PROGRAM, pages, page_bytes, True, planned)


def _bytes(tensor: PackedTensor, *, rounded: bool) -> int:
    """What a weight takes when it is packed: as much as in the file. ``rounded``: floats become eight bits (an encoder's)."""
    matrix, columns = len(tensor.shape) > 1, tensor.shape[-1]
    type = TYPES[tensor.type if matrix else "F32"]
    if rounded and matrix and tensor.type == "F32" and columns % TYPES["Q8_0"].block == 0:
        type = TYPES["Q8_0"]
    return prod(tensor.shape) // type.block * type.size


def _reading(plan: Plan, weights: Mapping[str, PackedTensor], sizes: Mapping[str, int], tokenizer: int) -> Moment:
    """When most is in memory while weights are packed: those before it, one as the file has it, and the same packed."""
    done, worst = 0, (0, 0)
    for name in dict.fromkeys(matrices(plan)):
        done += sizes[name]
        worst = max(worst, (done, _bytes(weights[name], rounded=False)), key=sum)
    return Moment("the model is read", worst[0], working=worst[1], tokenizer=tokenizer)


def _turns(plan: Plan) -> list[Turn]:
    """One of each table of rotations."""
    return list({op.rotary: op for op in plan.ops if isinstance(op, Turn)}.values())


def registers(plan: Plan, weights: Mapping[str, PackedTensor], tokens: int, rows: int) -> int:
    """Scratch of a native step, in bytes: what NativeExecutor.scratch_bytes says of it, without the executor.

    Registers are as long as the tokens, those from Select on as the rows; what quantised weights multiply is there in
    bytes too.
    """
    before: set[str] = set()
    after: set[str] = set()
    quantised: set[str] = set()
    selected = False
    ops, widths = native_ops(plan)
    for op in ops:
        selected |= isinstance(op, Select)
        if isinstance(op, (Linear, Experts)):
            reading = op.weights if isinstance(op, Linear) else op.weights[:2]  # the last reads what these give
            if any(weights[name].type not in FLOATS for name in reading):
                quantised.add(op.a)
        out = op.a if isinstance(op, (HeadNorm, Turn)) else op.out
        (after if selected else before).add(out)
    total = PARTS + round(tokens * _mixing(ops, weights))
    for name, width in widths.items():
        count = max(tokens if name in before else 0, rows if name in after else 0)
        total += round(count * width * (4 + (QUANTISED if name in quantised else 0)))
    if not plan.causal:  # keys and values of what looks ahead are put into pages for each layer
        total += 4 * 2 * plan.config.kv_heads * plan.config.head_width * tokens
    return total


def _mixing(ops: Sequence[NativeOp], weights: Mapping[str, PackedTensor]) -> float:
    """What a token's experts work on, in bytes: of each array, the largest that any mixture wants (native/mixture.cpp)."""
    most = [0.0] * 6
    for op in ops:
        if isinstance(op, Experts):
            (_, inner, width), (_, out, _) = weights[op.weights[0]].shape, weights[op.weights[2]].shape
            gate, up, down = (weights[name].type not in FLOATS for name in op.weights)
            chosen, halves = 12, 8 * inner  # an expert, a place, a share; gate and up
            read = (0 if gate and up else 4 * width, QUANTISED * width if gate or up else 0)
            own = (chosen, *read, halves, QUANTISED * inner if down else 0, 4 * out)
            most = [max(before, op.top * size) for before, size in zip(most, own, strict=True)]
    return sum(most)


# ------------------------------------------------------------------------------------------------------------ torch


def _torch(config: ModelConfig, device: str, dtype: str, reason: str | None, settings: Settings) -> Running:
    from hornbook.checkpoint.loading import pick_device, pick_dtype

    where = pick_device(device)
    type = pick_dtype(dtype, where)
    here = where.type == "cpu"
    name = f"torch {where.type} {str(type).removeprefix('torch.')}"
    if obstacle(config) is not None or not (config.causal and config.language_head):
        return Running(name, reason, memory.PROGRAM if here else 0, None, 0, False, memory.plan)
    plan = lower(config)
    page_bytes = 2 * config.layers * config.kv_heads * config.head_width * PAGE * type.itemsize
    pages = pages_for(config, page_bytes, settings, str(where))

    def planned(request: Request) -> memory.Plan:
        weights = request.anatomy.parameters.total * request.item
        # In main memory all the same, where the model is not: then it is not what the device is asked for.
        tokenizer = TOKEN * config.vocab_size if here else 0
        cache = min(pages, request.batch * pages_of(request.context)) * page_bytes
        working = _passing(plan, request)
        return memory.Plan(
            (
                Moment("the model is read", weights, working=round(READ * weights), tokenizer=tokenizer),
                Moment(
                    "answers are written", weights, cache=cache, working=working, allocator=round(HOLES * working),
                    tokenizer=tokenizer,
                ),
            )
        )  # fmt: skip

    return Running(name, reason, TORCH if here else 0, pages, page_bytes, False, planned)


def _passing(plan: Plan, request: Request) -> int:
    """What a step has in hand: all registers and two of the widest, which are made before the old ones go; keys and
    values of the texts that are attended together, gathered and laid out; who sees whom, 10 bytes an entry; the logits."""
    from hornbook.engine.torch_attention import GATHERED

    config, item, texts = plan.config, request.item, min(request.batch, RUNNING)
    tokens = min(STEP, request.batch * request.context)
    widths = [width for name, width in plan.widths.items() if name != "logits"]
    one = sum(widths) + 2 * max(widths)
    for experts in {op.experts for op in plan.ops if isinstance(op, Mix)}:
        one += experts.top * (3 * experts.width + config.width)
    keys = min(texts * request.context, max(GATHERED, request.context))
    gathered = 2 * 2 * keys * config.kv_heads * config.head_width * item
    seen = 10 * tokens * request.context if request.context > STEP else 0
    return tokens * one * item + gathered + seen + texts * config.vocab_size * (item + 4)
