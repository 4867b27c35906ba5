"""A plan run by torch, on whichever device torch has: the twin of the native executor, and the way to a GPU.

    Batch (numpy) --lay_out--> Layout --op by op over registers [T, width]--> logits [R, V] (numpy)

On CUDA a step of single tokens, one of each sequence, is replayed as a graph (torch_decode.py). What is wide runs in
the model's type, norms and rotations in float32, as in the Transformer.

Legend: T tokens, S sequences, R rows of logits, V vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hornbook.engine.executor import Batch, Floats, Stopped, check_pages
from hornbook.engine.four_bit import PIECE, FourBit
from hornbook.engine.plan import Act, Add, Attend, Cap, Embed, Gate, HeadNorm, Linear, Mix, Norm, Op, Plan, Select, Turn
from hornbook.engine.torch_attention import GATHERED, Layout, PagedKeys, attend_packed, lay_out
from hornbook.engine.torch_decode import Decode, GraphMemory, bucket
from hornbook.engine.torch_weights import Adapters, Parameters, Weight, stack_linears
from hornbook.errors import GenerationError, ModelClosed
from hornbook.kernels import twins
from hornbook.model.config import Rotary
from hornbook.model.feedforward import ACTIVATIONS, Mixture
from hornbook.model.positions import Alibi, frequencies, rotate, sinusoids, turn
from hornbook.model.positions import Turn as Angles

Rows = dict[int, Tensor]  # adapter -> the places of its tokens


@dataclass(slots=True)
class _Step:
    """What the operations of one run share."""

    ids: Tensor  # [T]
    at: Tensor  # [T]
    layout: Layout
    select: Tensor | None = None  # [R]; None: every token, in order
    adapters: Rows = field(default_factory=dict)
    selected: Rows = field(default_factory=dict)  # the same of the R rows
    registers: dict[str, Tensor] = field(default_factory=dict)
    turns: dict[Rotary, Angles] = field(default_factory=dict)


class TorchExecutor:
    """See Executor. For a model that is not causal there are no pages: each sequence is whole in its batch.

    parameters: by the Transformer's names, ``dict(model.named_parameters())``, or FourBit in place of a Linear's
    weight. Those of which several are read at once become views of one tensor (torch_weights.py); values do not change.
    context_length: the longest text; None: the model's. Rotary scalings that follow the length take it.
    static_decode: steps of single tokens run in fixed buffers; None: where the device is CUDA.
    """

    def __init__(
        self,
        plan: Plan,
        parameters: Mapping[str, Weight],
        pages: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        context_length: int | None = None,
        static_decode: bool | None = None,
    ) -> None:
        config = plan.config
        self.plan, self.pages = plan, pages if plan.causal else 0
        self.device, self.dtype = torch.device(device), dtype
        self.name = f"torch {self.device.type} {str(dtype).removeprefix('torch.')}"
        self.vocab_size = config.vocab_size
        self.context_length = config.context_length if context_length is None else context_length
        self._parameters = Parameters(parameters, self.device, dtype)
        self._linears = stack_linears(plan, self._parameters)
        if any(isinstance(each.weight, FourBit) for each in self._linears):
            self.name += ", weights in four bits"
        self._adapters = Adapters(plan, self._linears, self.device, dtype)
        self._norms = {
            (op.weight, op.shift): self._norm_weight(op) for op in plan.ops if isinstance(op, (Norm, HeadNorm))
        }
        self._mixtures = {op.prefix: self._mixture(op) for op in plan.ops if isinstance(op, Mix)}
        rotaries = {op.rotary: op.width for op in plan.ops if isinstance(op, Turn)}
        self._frequencies = {
            rotary: frequencies(rotary, config.rotary_width(rotary), self.context_length).to(self.device)
            for rotary in rotaries
        }
        self._alibi = None
        if config.alibi is not None:
            self._alibi = Alibi(config.heads, config.alibi)
            self._alibi.slopes = self._alibi.slopes.to(self.device)  # once: a recorded step cannot fetch them
        self._sines = None
        if config.positions == "sinusoidal":
            width = config.width if config.embedding_width is None else config.embedding_width
            self._sines = sinusoids(torch.arange(self.context_length)[None], width)[0].to(self.device, dtype)
        self._cache = None
        if plan.causal:
            self._cache = PagedKeys(config.layers, config.kv_heads, config.head_width, pages, dtype, self.device)
        self.page_bytes = 0 if self._cache is None else self._cache.page_bytes
        static = self.device.type == "cuda" if static_decode is None else static_decode
        # A mixture asks the device which experts were chosen: such a step cannot be recorded.
        self._static = static and plan.causal and config.language_head and not self._mixtures
        self._decodes: dict[tuple[int, int], Decode] = {}
        self._memory = GraphMemory()
        self._closed = self._stopping = False
        self._process = os.getpid()
        self._run_op: dict[type, Callable[[Any, _Step], Tensor]] = {
            Embed: self._embed, Norm: self._norm, Add: self._add, Linear: self._linear, Gate: self._gate, Act: self._act,
            HeadNorm: self._head_norm, Turn: self._turn, Attend: self._attend, Mix: self._mix, Select: self._select,
            Cap: self._cap,
        }  # fmt: skip

    # ----------------------------------------------------------------------------------------------------- executor

    @torch.inference_mode()
    def run(self, batch: Batch) -> Floats:
        """See Executor; the final hidden states [T, C] where the plan has no Select."""
        self._check(batch)
        try:
            return self._run(batch)
        finally:
            self._stopping = False

    def stop(self) -> None:
        """See Executor; a step in fixed buffers runs to its end."""
        self._stopping = True

    def _run(self, batch: Batch) -> Floats:
        adapted = batch.adapters is not None and bool((batch.adapters >= 0).any())
        shape = bucket(batch) if self._static and not adapted else None
        if shape is None:
            out = self._forward(self._step(batch))
        else:
            assert self._cache is not None
            if shape not in self._decodes:
                self._decodes[shape] = Decode(self._decode, *shape, self._cache.scratch, self._memory, self.device)
            out = self._decodes[shape].run(batch)[self._on_device(batch.select)]
        logits: Floats = out.float().cpu().numpy()
        return logits

    def copy_page(self, source: int, target: int) -> None:
        """See Executor."""
        self._open()
        check_pages((source, target), self.pages)
        assert self._cache is not None
        with torch.inference_mode():
            self._cache.copy(source, target)

    def add_adapter(self, weights: Mapping[str, tuple[Floats, Floats, float]]) -> int:
        """See Executor. Raises UsageError for an adapter of another model, before anything is kept."""
        self._open()
        return self._adapters.add(weights)

    def remove_adapter(self, number: int) -> None:
        """See Executor. Raises UsageError where there is none of that number."""
        self._open()
        self._adapters.remove(number)

    def scratch_bytes(self, tokens: int, rows: int) -> int:
        """See Executor. Registers, logits, a group's keys and values of one layer, and who sees what of them."""
        config, size = self.plan.config, self.dtype.itemsize
        registers = tokens * size * sum(width for name, width in self.plan.widths.items() if name != "logits")
        logits = rows * config.vocab_size * (size + 4)
        gathered = max(GATHERED, self.context_length) * config.kv_heads * config.head_width * size * 4
        seen = 2 * tokens * self.context_length * (1 if self._alibi is None else config.heads * size)
        packed = [each.weight.shape for each in self._linears if isinstance(each.weight, FourBit)]
        unpacked = max((min(rows * width, PIECE) * (9 + size) for rows, width in packed), default=0)
        return registers + logits + (gathered if self.plan.causal else 0) + seen + unpacked

    def close(self) -> None:
        """See Executor. May be called again."""
        self._closed = True
        self._cache = None
        self._decodes.clear()
        self._parameters.forget()
        self._linears.clear()
        self._mixtures.clear()
        self._norms.clear()

    # --------------------------------------------------------------------------------------------------------- a step

    def _open(self) -> None:
        if self._closed:
            raise ModelClosed("the executor was closed")
        if self.device.type != "cpu" and os.getpid() != self._process:
            raise GenerationError(
                f"the model lies on {self.device.type}, which the child of a fork cannot use",
                'Load it again, in a process of multiprocessing.get_context("spawn").',
            )

    def _check(self, batch: Batch) -> None:
        """What would be read out of bounds is refused: a GPU would stop for good, a CPU in the middle of a step."""
        self._open()
        if not len(batch.ids):
            raise GenerationError("a step without tokens")
        wrong = next((int(id) for id in (batch.ids.min(), batch.ids.max()) if not 0 <= id < self.vocab_size), None)
        if wrong is not None:
            raise GenerationError(f"token id {wrong} is out of range: the vocabulary has {self.vocab_size:,} tokens")
        if not 0 <= int(batch.positions.min()) <= int(batch.positions.max()) < self.context_length:
            raise GenerationError(
                f"a token stands at position {int(batch.positions.max())}: the context holds {self.context_length:,}"
            )
        if self._cache is not None:
            check_pages((int(batch.pages.min()), int(batch.pages.max())), self.pages)
        if batch.adapters is not None:
            self._adapters.check(set(batch.adapters.tolist()) - {-1})

    def _step(self, batch: Batch) -> _Step:
        zero = None if self._cache is None else self._cache.zero
        step = _Step(
            self._on_device(batch.ids), self._on_device(batch.positions), lay_out(batch, zero=zero, device=self.device)
        )
        if not np.array_equal(batch.select, np.arange(len(batch.ids))):
            step.select = self._on_device(batch.select)
        if batch.adapters is not None:
            step.adapters = self._rows(batch.adapters)
            step.selected = self._rows(batch.adapters[batch.select])
        return step

    def _decode(self, ids: Tensor, at: Tensor, layout: Layout) -> Tensor:
        return self._forward(_Step(ids, at, layout))

    def _forward(self, step: _Step) -> Tensor:
        for op in self.plan.ops:
            if self._stopping:
                raise Stopped
            self._apply(op, step)
        last = self.plan.ops[-1]
        return step.registers[last.a if isinstance(last, (HeadNorm, Turn)) else last.out]

    def _apply(self, op: Op, step: _Step) -> None:
        out = op.a if isinstance(op, (HeadNorm, Turn)) else op.out
        step.registers[out] = self._run_op[type(op)](op, step)

    def _on_device(self, numbers: Any) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self.device, torch.long)

    def _rows(self, adapters: Any) -> Rows:
        return {n: self._on_device(np.flatnonzero(adapters == n)) for n in sorted(set(adapters.tolist()) - {-1})}

    # ------------------------------------------------------------------------------------------------------ operations

    def _embed(self, op: Embed, step: _Step) -> Tensor:
        table = self._parameters.weight(op.tokens)
        ids = step.ids
        if isinstance(table, FourBit):
            table, ids = table.rows(ids, self.dtype), torch.arange(len(ids), device=self.device)
        positions = self._sines
        if op.positions not in (None, "sinusoidal"):
            positions = self._parameters.tensor(op.positions)
        types = None if op.types is None else self._parameters.tensor(op.types)
        return twins.embed(ids, step.at, table, scale=op.scale, positions=positions, offset=op.offset, types=types)

    def _norm(self, op: Norm, step: _Step) -> Tensor:
        a, weight = step.registers[op.a], self._norms[op.weight, op.shift]
        if op.kind == "rms":
            return F.rms_norm(a.float(), weight.shape, weight, op.epsilon).to(a.dtype)
        bias = None if op.bias is None else self._parameters.tensor(op.bias)
        return F.layer_norm(a, weight.shape, weight, bias, op.epsilon)

    def _add(self, op: Add, step: _Step) -> Tensor:
        return step.registers[op.a] + step.registers[op.b]

    def _linear(self, op: Linear, step: _Step) -> Tensor:
        x = step.registers[op.a]
        y = self._linears[op.site](x)
        if step.adapters:
            self._adapters.apply(y, x, op.site, step.adapters)
        return y

    def _gate(self, op: Gate, step: _Step) -> Tensor:
        return twins.gate(step.registers[op.a], op.activation)

    def _act(self, op: Act, step: _Step) -> Tensor:
        return ACTIVATIONS[op.activation](step.registers[op.a])

    def _head_norm(self, op: HeadNorm, step: _Step) -> Tensor:
        a, weight = step.registers[op.a], self._norms[op.weight, op.shift]
        part = a[:, op.start : op.start + op.groups * op.width]
        heads = part.reshape(len(a), op.groups, op.width)
        part.copy_(F.rms_norm(heads.float(), weight.shape, weight, op.epsilon).flatten(1))
        return a

    def _turn(self, op: Turn, step: _Step) -> Tensor:
        if op.rotary not in step.turns:
            by = turn(step.at[None], self._frequencies[op.rotary], op.rotary)  # [1, 1, T, W/2]
            step.turns[op.rotary] = Angles(by.cos[0, 0, :, None], by.sin[0, 0, :, None], by.interleaved)
        a = step.registers[op.a]
        part = a[:, op.start : op.start + op.heads * op.width]
        part.copy_(rotate(part.reshape(len(a), op.heads, op.width), step.turns[op.rotary]).flatten(1))
        return a

    def _attend(self, op: Attend, step: _Step) -> Tensor:
        return attend_packed(step.registers[op.a], op, step.layout, self._cache, self._alibi)

    def _mix(self, op: Mix, step: _Step) -> Tensor:
        mixed: Tensor = self._mixtures[op.prefix](step.registers[op.a])
        return mixed

    def _select(self, op: Select, step: _Step) -> Tensor:
        a = step.registers[op.a]
        step.adapters = step.selected
        return a if step.select is None else a[step.select]

    def _cap(self, op: Cap, step: _Step) -> Tensor:
        return twins.cap(step.registers[op.a], op.scale, op.cap)

    # --------------------------------------------------------------------------------------------------------- weights

    def _norm_weight(self, op: Norm | HeadNorm) -> Tensor:
        """RMSNorm's in float32, with what is added to it."""
        weight = self._parameters.tensor(op.weight)
        if isinstance(op, Norm) and op.kind == "layer":
            return weight
        return weight.float() + op.shift if op.shift else weight.float()

    def _mixture(self, op: Mix) -> Mixture:
        with torch.device("meta"):
            mixture = Mixture(self.plan.config, op.experts)
        mixture.load_state_dict(self._parameters.under(f"{op.prefix}."), assign=True)
        return mixture.requires_grad_(False).eval()
